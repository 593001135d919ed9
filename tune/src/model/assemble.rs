//! Putting a [`Decoder`] together from its configuration and a source of values: a folder's files, or random numbers.

use super::config::{MODULES, ModelConfig};
use super::decoder::Decoder;
use super::layer::Layer;
use super::linear::Linear;
use super::trained::{Norm, Table};
use crate::adapter::{Kind, Site};
use crate::ops::{Storage, Weight};
use crate::tensor::{Real, Stream};
use crate::weights::round_to_bf16;

/// Where a model's values come from.
pub(super) trait Values<T: Real> {
    /// Why a value cannot be had.
    type Error;
    /// A norm's weight or a linear's bias.
    fn vector(&self, site: &Site, name: &str) -> Result<Vec<T>, Self::Error>;
    /// A module's matrix, `[d_out, d_in]`.
    fn matrix(&self, site: &Site) -> Result<Weight<T>, Self::Error>;
}

/// A decoder of the given shape with values from `values`.
pub(super) fn assemble<T: Real, V: Values<T>>(config: ModelConfig, values: &V) -> Result<Decoder<T>, V::Error> {
    let modules = config.modules();
    let (linears, others) = modules.split_at(config.layers * MODULES.len());
    let linear = |site: &Site| {
        let bias = if site.kind == (Kind::Linear { bias: true }) { Some(values.vector(site, "bias")?) } else { None };
        Ok(Linear::new(site.clone(), values.matrix(site)?, bias))
    };
    let norm = |site: &Site| Ok(Norm { site: site.clone(), weight: values.vector(site, "weight")?, unfrozen: None });
    let table = |site: &Site| Ok(Table { site: site.clone(), weight: values.matrix(site)?, unfrozen: None });
    let mut layers = Vec::with_capacity(config.layers);
    for (sites, norms) in linears.chunks(MODULES.len()).zip(others.chunks(2)) {
        let linears: Vec<Linear<T>> = sites.iter().map(linear).collect::<Result<_, V::Error>>()?;
        let Ok(linears) = linears.try_into() else { unreachable!("one site for each module") };
        layers.push(Layer {
            attention_norm: norm(&norms[0])?,
            mlp_norm: norm(&norms[1])?,
            linears,
            heads: config.heads,
            kv_heads: config.kv_heads,
            norm_eps: T::from_f64(config.norm_eps),
        });
    }
    let rest = &others[2 * config.layers..];
    let head = rest.get(2).map(table).transpose()?;
    Ok(Decoder { norm: norm(&rest[0])?, embedding: table(&rest[1])?, head, layers, learned: None, config })
}

/// The values a module's own parameter starts pretraining from: norms 1, biases 0, matrices normal with standard deviation `range` (transformers'
/// `initializer_range`), from the stream named by `seed` and the parameter.
pub fn initial_values<T: Real>(site: &Site, name: &str, range: f64, seed: u64) -> Vec<T> {
    match (site.kind, name) {
        (Kind::Norm, _) => vec![T::ONE; site.d_out],
        (_, "bias") => vec![T::ZERO; site.d_out],
        _ => {
            let mut stream = Stream::new(seed, "init", &format!("{}.{name}", site.name));
            (0..site.d_out * site.d_in).map(|_| T::from_f64(range * stream.normal())).collect()
        }
    }
}

/// A decoder with random weights, see [`initial_values`]; matrices rounded to bf16 where asked.
pub fn random<T: Real>(config: ModelConfig, range: f64, seed: u64, bf16: bool) -> Decoder<T> {
    let Ok(decoder) = assemble(config, &Random { range, seed, bf16 });
    decoder
}

struct Random {
    range: f64,
    seed: u64,
    bf16: bool,
}

impl<T: Real> Values<T> for Random {
    type Error = std::convert::Infallible;

    fn vector(&self, site: &Site, name: &str) -> Result<Vec<T>, Self::Error> {
        Ok(initial_values(site, name, self.range, self.seed))
    }

    fn matrix(&self, site: &Site) -> Result<Weight<T>, Self::Error> {
        let values: Vec<T> = initial_values(site, "weight", self.range, self.seed);
        let storage = match self.bf16 {
            true => Storage::Bf16(values.iter().map(|value| round_to_bf16(value.to_f64())).collect()),
            false => Storage::Dense(values),
        };
        Ok(Weight::new(storage, site.d_out, site.d_in))
    }
}
