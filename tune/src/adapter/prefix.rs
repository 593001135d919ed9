//! Prefix tuning: learned keys and values that every sequence sees before its own tokens.
//!
//! Li and Liang 2021 (arXiv 2101.00190), in PEFT's form: `prompt_embeddings [n, layers * 2 * kv_dim]`, kv_dim = kv_heads * head_dim, one row a virtual token,
//! in it `[layer][key, value][kv_head][head_dim]`. Keys get no rotation; real tokens' positions start at n. Initial values are N(0, 1), as in PEFT, or zero;
//! neither is the base's output, because a zero key still takes its share of the softmax.
//!
//! Re-parameterised (`prefix_projection`): `rows = W2 tanh(W1 e + b1) + b2` of an embedding e `[n, kv_dim]`, which is easier to train. The result is what counts
//! and what PEFT reads; the parameters behind it are written beside it, so that training can go on.

use serde_json::{Map, Value, json};

use super::method::object;
use super::{Adapter, Parameters, Prefix as Learned, Settings, Site, Target, Tensor, lay_out};
use crate::config::Section;
use crate::ops::Weight;
use crate::tensor::{MatMut, MatRef, Real, Stream, matmul};

/// Settings of prefix tuning.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefix {
    /// The number n of virtual tokens.
    pub num_virtual_tokens: usize,
    /// Width of the re-parameterisation's hidden layer; none: the rows train directly.
    pub encoder_hidden_size: Option<usize>,
    /// Whether the rows start at zero.
    pub zero: bool,
}

const STARTS: [(&str, bool); 2] = [("normal", false), ("zero", true)];

/// The name in files of what attention is given.
const RESULT: &str = "prompt_embeddings";

impl Settings for Prefix {
    const NAME: &'static str = "prefix";
    const PEFT_TYPE: &'static str = "PREFIX_TUNING";
    const FORMULA: &'static str = "attention over [K_p; K], [V_p; V]";
    const TARGET: Target = Target::Attention;
    const MERGEABLE: bool = false;

    fn read(section: &mut Section) -> Self {
        let num_virtual_tokens = section.usize("num_virtual_tokens").at_least(1).at_most(1 << 20).or(30);
        let hidden = section.usize("encoder_hidden_size").at_least(1).at_most(1 << 20).optional();
        let projection = section.bool("prefix_projection").or(hidden.is_some());
        if projection && hidden.is_none() {
            section.problem("encoder_hidden_size", "is missing: prefix_projection needs the width of its hidden layer");
        }
        if !projection && hidden.is_some() {
            section
                .problem("encoder_hidden_size", "stands without prefix_projection: leave it out, or set that to true");
        }
        let zero = section.one_of("init", &STARTS).or(false);
        Self { num_virtual_tokens, encoder_hidden_size: hidden.filter(|_| projection), zero }
    }

    fn write(&self) -> Map<String, Value> {
        let mut map = object(json!({
            "num_virtual_tokens": self.num_virtual_tokens,
            "prefix_projection": self.encoder_hidden_size.is_some(),
            "init": STARTS[usize::from(self.zero)].0,
        }));
        map.extend(self.encoder_hidden_size.iter().map(|hidden| ("encoder_hidden_size".to_owned(), json!(hidden))));
        map
    }

    fn read_peft(section: &mut Section) -> Self {
        let num_virtual_tokens = section.usize("num_virtual_tokens").at_least(1).at_most(1 << 20).required().max(1);
        let hidden = section.usize("encoder_hidden_size").at_least(1).at_most(1 << 20).optional();
        let projection = section.bool("prefix_projection").or(false);
        // PEFT saves the result alone, and from then on trains that
        let own = section.has("quanta_format");
        let start = section.peek("init_weights").cloned();
        section.ignore(&["init_weights", "token_dim", "num_attention_heads", "num_layers", "target_modules"]);
        section.only("num_transformer_submodules", &[json!(1)]);
        let zero = start == Some(json!("zero"));
        Self { num_virtual_tokens, encoder_hidden_size: hidden.filter(|_| projection && own), zero }
    }

    fn extends_peft(&self) -> bool {
        self.encoder_hidden_size.is_some()
    }

    fn write_peft(&self) -> Map<String, Value> {
        // PEFT takes what is null from the base model
        object(json!({
            "num_virtual_tokens": self.num_virtual_tokens,
            "prefix_projection": self.encoder_hidden_size.is_some(),
            "encoder_hidden_size": self.encoder_hidden_size,
            "init_weights": if self.zero { json!("zero") } else { Value::Null },
            "token_dim": Value::Null,
            "num_attention_heads": Value::Null,
            "num_layers": Value::Null,
            "num_transformer_submodules": Value::Null,
        }))
    }

    fn problems(&self, _: &Site) -> Vec<String> {
        Vec::new()
    }

    fn parameters(&self, site: &Site) -> usize {
        self.layout(site).iter().filter(|tensor| tensor.trainable).map(Tensor::elements).sum()
    }

    /// What a token's attention over the virtual tokens costs in all layers: scores and their product with the values.
    fn flops_per_token(&self, site: &Site) -> u64 {
        2 * (self.num_virtual_tokens * site.d_out) as u64
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        vec![("adds", format!("{} virtual tokens of {} numbers", self.num_virtual_tokens, site.d_out))]
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        let (n, Site { d_in, d_out, .. }) = (self.num_virtual_tokens, site);
        let result = (RESULT.to_owned(), vec![n, *d_out], self.encoder_hidden_size.is_none());
        let behind = self.encoder_hidden_size.iter().flat_map(|&hidden| {
            [
                ("embedding.weight", vec![n, *d_in]),
                ("transform.0.weight", vec![hidden, *d_in]),
                ("transform.0.bias", vec![hidden]),
                ("transform.2.weight", vec![*d_out, hidden]),
                ("transform.2.bias", vec![*d_out]),
            ]
        });
        lay_out([result].into_iter().chain(behind.map(|(name, shape)| (name.to_owned(), shape, true))))
    }

    fn attach<T: Real>(&self, _: &Site, _: &Weight<T>, _: u64, _: usize) -> Option<Box<dyn Adapter<T>>> {
        None
    }

    fn prefix<T: Real>(&self, site: &Site, seed: u64, entry: usize) -> Option<Box<dyn Learned<T>>> {
        let mut stream = Stream::new(seed, "init", &format!("{}.{entry}.prefix", site.name));
        let (n, hidden) = (self.num_virtual_tokens, self.encoder_hidden_size.unwrap_or(0));
        let mut values: Vec<T> = Vec::new();
        for tensor in self.layout(site).iter().filter(|tensor| tensor.trainable) {
            // PyTorch's own: N(0, 1) for embeddings, U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for a linear and its bias
            let fan = if tensor.name.starts_with("transform.2") { hidden } else { site.d_in };
            let zero = self.zero && (tensor.name == RESULT || tensor.name.starts_with("transform.2"));
            values.extend((0..tensor.elements()).map(|_| {
                let value = if tensor.name == RESULT || tensor.name == "embedding.weight" {
                    stream.normal()
                } else {
                    (2.0 * stream.uniform() - 1.0) / (fan as f64).sqrt()
                };
                T::from_f64(if zero { 0.0 } else { value })
            }));
        }
        let frozen = if hidden > 0 { vec![T::ZERO; n * site.d_out] } else { Vec::new() };
        let parameters = Parameters::new(self.layout(site), values, frozen);
        let mut attached = Attached { n, hidden, widths: [site.d_in, site.d_out], parameters };
        attached.prepare();
        Some(Box::new(attached))
    }
}

struct Attached<T> {
    n: usize,
    /// Width of the hidden layer; 0: the rows train directly.
    hidden: usize,
    /// kv_dim, and the length of a row.
    widths: [usize; 2],
    parameters: Parameters<T>,
}

impl<T: Real> Attached<T> {
    /// Lengths of the embedding, W1, b1, W2, b2.
    fn lengths(&self) -> [usize; 5] {
        let [d_in, d_out] = self.widths;
        [self.n * d_in, self.hidden * d_in, self.hidden, d_out * self.hidden, d_out]
    }

    fn cut<'a>(&self, mut flat: &'a [T]) -> [&'a [T]; 5] {
        self.lengths().map(|len| {
            let (piece, rest) = flat.split_at(len);
            flat = rest;
            piece
        })
    }

    /// `tanh(W1 e + b1)`, `[n, hidden]`.
    fn hidden_rows(&self) -> Vec<T> {
        let [embedding, w1, b1, ..] = self.cut(self.parameters.trainable());
        let (d_in, hidden) = (self.widths[0], self.hidden);
        let mut rows: Vec<T> = b1.iter().copied().cycle().take(self.n * hidden).collect();
        let (e, w) = (MatRef::new(embedding, self.n, d_in), MatRef::new(w1, hidden, d_in));
        matmul(MatMut::new(&mut rows, self.n, hidden), true, e, w.t(), T::ONE);
        rows.iter_mut().for_each(|h| *h = T::from_f64(h.to_f64().tanh()));
        rows
    }
}

impl<T: Real> Learned<T> for Attached<T> {
    fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }

    fn tokens(&self) -> usize {
        self.n
    }

    fn prepare(&mut self) {
        if self.hidden == 0 {
            return;
        }
        let (d_out, hidden, rows) = (self.widths[1], self.hidden, self.hidden_rows());
        let [.., w2, b2] = self.cut(self.parameters.trainable());
        let mut result: Vec<T> = b2.iter().copied().cycle().take(self.n * d_out).collect();
        let (h, w) = (MatRef::new(&rows, self.n, hidden), MatRef::new(w2, d_out, hidden));
        matmul(MatMut::new(&mut result, self.n, d_out), true, h, w.t(), T::ONE);
        self.parameters.set(RESULT, &result);
    }

    fn values(&self) -> &[T] {
        if self.hidden == 0 { self.parameters.trainable() } else { self.parameters.frozen() }
    }

    fn backward(&self, d_values: &[T], gradient: &mut [T]) {
        if self.hidden == 0 {
            gradient.iter_mut().zip(d_values).for_each(|(sum, &d)| *sum += d);
            return;
        }
        let ([d_in, d_out], hidden, n, rows) = (self.widths, self.hidden, self.n, self.hidden_rows());
        let [embedding, w1, _, w2, _] = self.cut(self.parameters.trainable());
        let mut rest = gradient;
        let [d_embedding, d_w1, d_b1, d_w2, d_b2] = self.lengths().map(|len| {
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(len);
            rest = tail;
            piece
        });
        let d = MatRef::new(d_values, n, d_out);
        matmul(MatMut::new(d_w2, d_out, hidden), true, d.t(), MatRef::new(&rows, n, hidden), T::ONE);
        d_values.chunks(d_out).for_each(|row| d_b2.iter_mut().zip(row).for_each(|(sum, &d)| *sum += d));
        let mut dh = vec![T::ZERO; n * hidden];
        matmul(MatMut::new(&mut dh, n, hidden), false, d, MatRef::new(w2, d_out, hidden), T::ONE);
        dh.iter_mut().zip(&rows).for_each(|(d, &h)| *d *= T::ONE - h * h);
        dh.chunks(hidden).for_each(|row| d_b1.iter_mut().zip(row).for_each(|(sum, &d)| *sum += d));
        let dh = MatRef::new(&dh, n, hidden);
        matmul(MatMut::new(d_w1, hidden, d_in), true, dh.t(), MatRef::new(embedding, n, d_in), T::ONE);
        matmul(MatMut::new(d_embedding, n, d_in), true, dh, MatRef::new(w1, hidden, d_in), T::ONE);
    }
}
