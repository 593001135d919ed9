//! What a training pass holds at its fullest, from shapes alone: what forward keeps for backward, and the largest set of matrices beside it.
//!
//! The counts follow the code of `decoder`, `layer`, `residual`, `attention` and `mlp`. Of the last layer everything but keys and values is computed for rows
//! that the head reads, so memory is fullest in the head, in the last layer, or in the MLP of the layer before. What is left out is smaller than a matrix of a
//! layer: scores of the blocks of queries that the threads are at, rounded or not, packed panels, and rows of numbers for single tokens beyond the ones named
//! here.

use super::{ModelConfig, Place, Role, Training};
use crate::adapter::{Method, Site};
use crate::ops::loss::chunk_rows;

/// The linears of keys and values.
const KEYS: [Role; 2] = [Role::Key, Role::Value];
/// The linears of what asks them.
const QUERIES: [Role; 2] = [Role::Query, Role::Output];
/// The linears of the MLP.
const MLP: [Role; 3] = [Role::Gate, Role::Up, Role::Down];

/// Numbers at the fullest moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Activations {
    /// Kept by forward for backward.
    pub(super) kept: u64,
    /// Beside them.
    pub(super) working: u64,
}

/// An adapter at a site: the method, the site and its index among [`ModelConfig::attachable`].
pub(super) type At<'a> = (&'a Method, &'a Site, usize);

/// A model with its adapters; everything is counted in numbers for one token.
struct Shape<'a> {
    config: &'a ModelConfig,
    adapters: Vec<At<'a>>,
}

impl Activations {
    /// For a pass that keeps something of layers from `lowest` on.
    pub(super) fn of(config: &ModelConfig, adapters: Vec<At<'_>>, lowest: usize, run: Training) -> Self {
        let shape = Shape { config, adapters };
        let (n, d) = (run.tokens as u64, config.hidden_size as u64);
        let read = run.labels.min(run.tokens) as u64;
        // all angles, and in families with a norm on the embedding its input
        let angles = (config.ropes.len() * config.head_dim) as u64;
        let always = n * (angles + config.names.embedding_norm.map_or(0, |_| d + shape.norm()));
        let Some(last) = config.layers.checked_sub(1) else { return Self::default() };
        let (attention, mlp) = (n * shape.keys(last) + read * shape.queries(last), read * shape.mlp(last));
        let before = lowest.min(last)..last;
        let whole = |layer| n * (shape.keys(layer) + shape.queries(layer) + shape.mlp(layer));
        // beside a layer that runs forward and keeps nothing: what the MLP's last linear reads and makes
        let forward = config.intermediate_size as u64 + d;
        let (backward, up) = (shape.mlp_scratch(), read * d + shape.attention_scratch(n, read));
        let largest = config.layers.checked_sub(2).map_or(0, whole);
        let (kept, peak) = if run.recompute || lowest > last {
            let kept = always + (lowest..config.layers).len() as u64 * n * d;
            // the input of the layer that runs is among those kept, or is the stream itself
            let input = if lowest > last { 0 } else { n * d };
            let running = largest.saturating_sub(input) + n * forward.max(backward);
            let top = attention - input + (mlp + read * (d + forward.max(backward))).max(up);
            (kept, kept + running.max(top))
        } else {
            let below = always + before.clone().map(whole).sum::<u64>();
            let kept = below + attention + mlp;
            let in_mlp = if before.is_empty() { below } else { below + n * (d + backward) };
            // the layers that keep nothing run before any that does
            let idle = if lowest > 0 { always + largest + n * forward } else { 0 };
            // the layer's input, its gradient through attention and past it
            let joined = below + (3 * n + read) * d;
            let unwinding = [read * (d + backward) + mlp, up].map(|scratch| below + attention + scratch);
            (kept, unwinding.into_iter().chain([joined, in_mlp, idle]).fold(kept, u64::max))
        };
        Self { kept, working: peak.max(kept + shape.head(read)) - kept }
    }
}

impl Shape<'_> {
    /// What a norm keeps of a row.
    fn norm(&self) -> u64 {
        if self.config.norm_bias { 2 } else { 1 }
    }

    fn at(&self, place: Place, numbers: u64) -> u64 {
        if self.config.has_norm(place) { numbers } else { 0 }
    }

    /// Hidden size, inner size of the MLP, rows of queries, rows of keys.
    fn widths(&self) -> [u64; 4] {
        let ModelConfig { hidden_size, intermediate_size, heads, kv_heads, head_dim, .. } = *self.config;
        [hidden_size, intermediate_size, heads * head_dim, kv_heads * head_dim].map(|width| width as u64)
    }

    /// The adapters at linears of these roles.
    fn adapters(&self, roles: &'static [Role]) -> impl Iterator<Item = (&Method, &Site)> {
        let (each, all) = (self.config.layer_linears(), self.config.layers * self.config.layer_linears());
        let role = move |index: usize| self.config.names.linears[index % each].0;
        let here = self.adapters.iter().filter(move |(_, _, index)| *index < all && roles.contains(&role(*index)));
        here.map(|(method, site, _)| (*method, *site))
    }

    fn kept(&self, layer: usize, roles: &'static [Role]) -> u64 {
        let here = self.adapters(roles).filter(|(_, site)| site.layer == Some(layer));
        here.map(|(method, site)| method.kept_per_token(site) as u64).sum()
    }

    fn scratch(&self, roles: &'static [Role]) -> u64 {
        self.adapters(roles).map(|(method, site)| method.scratch_per_token(site) as u64).max().unwrap_or(0)
    }

    fn trains(&self, roles: &'static [Role], numbers: u64) -> u64 {
        if self.adapters(roles).next().is_some() { numbers } else { 0 }
    }

    /// What forward keeps of a layer's keys and values for a token, the layer's input included.
    fn keys(&self, layer: usize) -> u64 {
        let ([d, .., kv], norm) = (self.widths(), self.norm());
        let single = self.at(Place::Keys, kv + norm * self.config.kv_heads as u64);
        d + 2 * kv + single + self.at(Place::AttentionInput, norm) + self.kept(layer, &KEYS)
    }

    /// What forward keeps of a layer's attention for a token that asks, beside its key and value.
    fn queries(&self, layer: usize) -> u64 {
        let ([d, _, q, _], norm, heads) = (self.widths(), self.norm(), self.config.heads as u64);
        let single = self.at(Place::Queries, q + norm * heads);
        let around = self.at(Place::AttentionOutput, d + norm) + self.at(Place::AttentionSum, d + norm);
        // queries, the output of attention and its denominators
        2 * q + heads + single + around + self.kept(layer, &QUERIES)
    }

    /// What forward keeps of a layer's MLP, the middle of the layer included.
    fn mlp(&self, layer: usize) -> u64 {
        let ([d, ff, ..], norm) = (self.widths(), self.norm());
        let inner = if self.config.gated() { 2 * ff } else { ff };
        let around = self.at(Place::MlpOutput, d + norm) + self.at(Place::MlpSum, d + norm);
        d + inner + around + self.at(Place::MlpInput, norm) + self.kept(layer, &MLP)
    }

    /// The gradient while it is masked, or made in front of a norm beside the one behind it.
    fn around(&self, output: Place, sum: Place) -> u64 {
        let [d, ..] = self.widths();
        let masked = if self.config.dropouts.hidden > 0.0 { d } else { 0 };
        masked + self.at(output, d).max(self.at(sum, d))
    }

    /// Backward of an MLP, beside what is kept and the gradient of its output.
    fn mlp_scratch(&self) -> u64 {
        let [d, ff, ..] = self.widths();
        let down = ff + self.trains(&[Role::Down], ff) + self.scratch(&[Role::Down]);
        let first: &[Role] = &[Role::Gate, Role::Up];
        let up = d + self.trains(first, self.at(Place::MlpInput, d)) + self.scratch(first);
        self.around(Place::MlpOutput, Place::MlpSum) + down.max(up)
    }

    /// Backward of attention over `n` tokens of which `asking` ask, beside what is kept and the gradient of its output.
    fn attention_scratch(&self, n: u64, asking: u64) -> u64 {
        let [d, _, q, kv] = self.widths();
        let output = asking * (q + q.max(self.scratch(&[Role::Output])));
        // queries, keys, values and output have gone when their gradients go on
        let kept = asking * 2 * q + n * 2 * kv;
        let inputs: &[Role] = &[Role::Query, Role::Key, Role::Value];
        let normed = self.trains(inputs, self.at(Place::AttentionInput, d));
        let keys = n * (normed + self.scratch(&KEYS));
        let queries = match asking == n {
            true => n * (normed + self.scratch(&[Role::Query])),
            // the rows that ask are picked from all, and then stand alone
            false => {
                let picked = asking * (d + self.trains(inputs, d));
                (n * normed + picked).max(picked + asking * self.scratch(&[Role::Query]))
            }
        };
        let projections = asking * q + n * (2 * kv + d) + keys.max(queries);
        let most = output.max(kept).max(projections.saturating_sub(kept));
        asking * self.around(Place::AttentionOutput, Place::AttentionSum) + most
    }

    /// Loss and gradient of `rows` rows of the residual stream after the last layer, those included.
    fn head(&self, rows: u64) -> u64 {
        let [d, ..] = self.widths();
        if let Some(labels) = self.config.labels {
            return rows * (6 * d + 2 * labels as u64);
        }
        // for one chunk of rows the logits, the rows and their gradient again; afterwards the gradient in front of the norm
        let vocab = self.config.vocab_size;
        let chunk = rows.min(chunk_rows(vocab) as u64) * (vocab as u64 + 2 * d);
        let norm = u64::from(self.config.names.norm.is_some());
        rows * d * (2 + norm) + chunk.max(rows * d * norm)
    }
}
