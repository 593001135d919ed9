//! What a run costs, from shapes alone: floating-point operations a token and bytes of memory. `quanta plan` prints it, and a run checks it against the
//! machine before it reads a weight.

use std::ops::Range;

use super::activations::Activations;
use super::attach::Attachment;
use super::{ModelConfig, Role};
use crate::adapter::{Kind, Method, Site, Tensor};

/// The part of a run's settings that its cost depends on.
#[derive(Clone, Copy, Debug)]
pub struct Training {
    /// Tokens of a micro-batch.
    pub tokens: usize,
    /// Tokens of one sequence: the longest path attention sees.
    pub length: usize,
    /// Labelled tokens of a micro-batch.
    pub labels: usize,
    /// Bytes of a number in compute: 4 or 8.
    pub number_bytes: usize,
    /// Bytes of a stored weight: 2, 4 or 8.
    pub weight_bytes: usize,
    /// Whether each layer's forward runs again in backward.
    pub recompute: bool,
}

/// Operations and bytes of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Operations of the frozen model's forward pass for one token: linears and attention, no head. Of the last layer's queries, output and MLP, which are computed
    /// for labelled tokens alone, the mean.
    pub forward_flops: u64,
    /// Operations of the frozen model's backward pass for one token, in the same way.
    pub backward_flops: u64,
    /// Operations of the output head for one labelled token, forward and backward.
    pub head_flops: u64,
    /// Operations of the adapters for one token: forward, input gradient, parameter gradient, in the same way.
    pub adapter_flops: u64,
    /// Bytes of the frozen weights.
    pub weight_bytes: u64,
    /// Bytes of the adapters' parameters, trainable and frozen, gradients and optimiser moments.
    pub adapter_bytes: u64,
    /// Bytes that forward keeps for backward.
    pub saved_bytes: u64,
    /// Bytes of the largest set of temporaries.
    pub working_bytes: u64,
    /// Bytes of the process without a model: program, tokenizer, data. Not known from shapes: 0 until the run says them.
    pub program_bytes: u64,
}

impl Cost {
    /// Largest number of bytes at one time.
    pub fn peak_bytes(&self) -> u64 {
        self.weight_bytes + self.adapter_bytes + self.saved_bytes + self.working_bytes + self.program_bytes
    }

    /// What takes most of [`Self::peak_bytes`].
    pub fn largest_part(&self) -> &'static str {
        let parts = [
            (self.weight_bytes, "the model's weights"),
            (self.adapter_bytes, "the adapters, their gradients and moments"),
            (self.saved_bytes, "what forward keeps for backward"),
            (self.working_bytes, "temporaries"),
            (self.program_bytes, "the program with tokenizer and data"),
        ];
        parts.into_iter().max_by_key(|part| part.0).map_or("", |part| part.1)
    }

    /// The cost of training `attachments`, attached to the sites of `chosen`.
    pub fn of(config: &ModelConfig, attachments: &[Attachment], chosen: &[Vec<usize>], run: Training) -> Self {
        let sites = config.attachable();
        let pairs =
            || attachments.iter().zip(chosen).flat_map(|(a, list)| list.iter().map(|&i| (&a.method, &sites[i])));
        // the embedding lies below all layers; the final norm and the head above them
        let embedding = |site: &Site| config.embedding_names().any(|name| name == site.name);
        let depth = |site: &Site| match site.layer {
            Some(layer) => layer,
            None if embedding(site) || site.kind == Kind::Attention => 0,
            None => config.layers,
        };
        let lowest = pairs().map(|(_, site)| depth(site)).min().unwrap_or(config.layers);
        let (layers, kept) = (config.layers as u64, (config.layers - lowest) as u64);
        let linear: u64 =
            sites.iter().take(config.layer_linears()).map(|site| 2 * (site.d_in * site.d_out) as u64).sum();
        // scores and their product with the values, over half the square; backward computes the scores again and four products
        // an encoder sees the whole of a sequence, a decoder half of the square
        let seen = if config.attention.causal { run.length.div_ceil(2) } else { run.length };
        let pairs_of = |layer| config.rule(layer).window.map_or(seen, |w| w.min(seen));
        let attention_of = |layers: Range<usize>| {
            layers.map(|l| (4 * config.heads * config.head_dim * pairs_of(l)) as u64).sum::<u64>()
        };
        let (all, above) = (attention_of(0..config.layers), attention_of(lowest..config.layers));
        let pieces = || pairs().flat_map(|(method, site)| method.layout(site));
        let numbers =
            |trainable| -> u64 { pieces().filter(|t| t.trainable == trainable).map(|t| t.elements() as u64).sum() };
        let bf16 = run.weight_bytes == 2;
        let [adapter, adapter_backward] = adapter_flops(pairs(), bf16);
        let number = run.number_bytes as u64;
        // an unfrozen module's weight is its trainable parameter, counted there
        let own: u64 =
            pairs().filter(|(method, _)| method.unfreezes()).map(|(m, site)| m.parameters(site) as u64).sum();
        let copied = pairs().filter(|(method, _)| bf16 && method.copies_bf16());
        let copied: u64 = copied.map(|(_, site)| (site.d_in * site.d_out) as u64).sum();
        let matrices = (config.parameters() as u64 - own + copied) * run.weight_bytes as u64;
        // a head over whole sequences has a hidden row and a few outputs for each
        let width = config.labels.map_or(config.vocab_size, |labels| config.hidden_size + labels) as u64;
        let at = attachments.iter().zip(chosen).flat_map(|(a, list)| list.iter().map(|&i| (&a.method, &sites[i], i)));
        let Activations { kept: held, working } = Activations::of(config, at.collect(), lowest, run);
        // row lengths are taken from a copy in f64 and the update in f64, while kept buffers wait for the next pass
        let lengths =
            pairs().filter(|(method, _)| method.has_magnitude()).map(|(_, site)| 16 * site.d_in * site.d_out).max();
        let top = config.layers.saturating_sub(1);
        let spared = Spared::of(config, attachments, chosen, attention_of(top..config.layers), bf16);
        let forward = layers * linear + all + if run.recompute { kept * linear + above } else { 0 };
        let times = if run.recompute { 2 } else { 1 };
        let trains_above = u64::from(kept > 0);
        let adapters = adapter_backward + times * adapter;
        // the mean over tokens of what those that nobody reads are spared
        let read = |flops: u64, spared: u64| {
            let unread = (run.tokens - run.labels.min(run.tokens)) as u64;
            flops - (spared as f64 * unread as f64 / run.tokens.max(1) as f64).round() as u64
        };
        Self {
            forward_flops: read(forward, (1 + (times - 1) * trains_above) * (spared.linears + spared.attention)),
            backward_flops: read(
                kept * linear + above * 5 / 2,
                trains_above * (spared.linears + spared.attention * 5 / 2),
            ),
            head_flops: 4 * width * config.hidden_size as u64,
            adapter_flops: read(adapters, spared.adapters_backward + times * spared.adapters),
            weight_bytes: matrices,
            // what trains has a gradient and two moments beside it
            adapter_bytes: number * (4 * numbers(true) + numbers(false)),
            saved_bytes: number * held,
            working_bytes: number * working + lengths.unwrap_or(0) as u64,
            program_bytes: 0,
        }
    }
}

/// Operations for one token, forward and backward, of adapters at their sites, beside frozen weights in bf16 or not.
fn adapter_flops<'a>(pairs: impl Iterator<Item = (&'a Method, &'a Site)>, bf16: bool) -> [u64; 2] {
    pairs.fold([0, 0], |[forward, backward], (method, site)| {
        let frozen = method.frozen_flops_per_token(site, bf16);
        [forward + frozen + method.flops_per_token(site), backward + frozen + method.backward_flops_per_token(site)]
    })
}

/// Operations of the last layer that a token is spared when nobody reads it: all but its key and value.
struct Spared {
    linears: u64,
    attention: u64,
    adapters: u64,
    adapters_backward: u64,
}

impl Spared {
    fn of(config: &ModelConfig, attachments: &[Attachment], chosen: &[Vec<usize>], attention: u64, bf16: bool) -> Self {
        let (sites, each) = (config.attachable(), config.layer_linears());
        let asks = |index: usize| !matches!(config.names.linears[index % each].0, Role::Key | Role::Value);
        let last = config.layers.saturating_sub(1) * each..config.layers * each;
        let linears = last.clone().filter(|&index| asks(index));
        let linears = linears.map(|index| 2 * (sites[index].d_in * sites[index].d_out) as u64).sum();
        let pairs = attachments.iter().zip(chosen).flat_map(|(a, list)| list.iter().map(|&i| (&a.method, i)));
        let here = pairs.filter(|&(_, index)| last.contains(&index) && asks(index));
        let [adapters, adapters_backward] = adapter_flops(here.map(|(method, i)| (method, &sites[i])), bf16);
        Self { linears, attention, adapters, adapters_backward }
    }
}

/// Bytes an element of a site while an update is folded or merged there, at most: five copies in f64, of the weight, of an update and the frozen part it is
/// less, and of an operator in the making and as made.
const FORMING: u64 = 40;

/// Bytes that `attachments` take besides the stored weights where nothing trains: `[held, for a while]`, the parameters, and the temporaries of folding or
/// merging one site after another. A merged weight takes none: it stands where the weight stood.
pub fn beside_bytes(
    config: &ModelConfig,
    attachments: &[Attachment],
    chosen: &[Vec<usize>],
    number_bytes: usize,
    weight_bytes: usize,
) -> [u64; 2] {
    let sites = config.attachable();
    let pairs = || attachments.iter().zip(chosen).flat_map(|(a, list)| list.iter().map(|&i| (&a.method, &sites[i])));
    let held = pairs().map(|(method, site)| {
        let elements: usize = method.layout(site).iter().map(Tensor::elements).sum();
        // parameters of an unfrozen module are its weight, widened
        let each = if method.unfreezes() { number_bytes.saturating_sub(weight_bytes) } else { number_bytes };
        (elements * each) as u64
    });
    let wrapped = pairs().filter(|(method, site)| !method.unfreezes() && matches!(site.kind, Kind::Linear { .. }));
    let largest = wrapped.map(|(_, site)| (site.d_in * site.d_out) as u64).max();
    [held.sum(), FORMING * largest.unwrap_or(0)]
}
