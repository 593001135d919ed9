//! Putting a [`Decoder`] together from its configuration and a source of values: a folder's files, or random numbers.

use super::attention::Attention;
use super::config::{ModelConfig, Place, Role};
use super::decoder::Decoder;
use super::layer::Layer;
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::Norm;
use super::residual::Residual;
use super::trained::Table;
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
    let (linears, others) = modules.split_at(config.layers * config.layer_linears());
    let norm_count = config.names.norms.len();
    let (norms, rest) = others.split_at(config.layers * norm_count);
    let norm = |site: &Site| norm(&config, values, site);
    let table = |site: &Site| Ok(Table { site: site.clone(), weight: values.matrix(site)?, unfrozen: None });
    let mut layers = Vec::with_capacity(config.layers);
    for index in 0..config.layers {
        let linears = &linears[index * config.layer_linears()..][..config.layer_linears()];
        layers.push(layer(&config, values, index, linears, &norms[index * norm_count..][..norm_count])?);
    }
    let head = rest.get(2).map(table).transpose()?;
    Ok(Decoder { norm: norm(&rest[0])?, embedding: table(&rest[1])?, head, layers, learned: None, config })
}

/// A layer from the sites of its linears and norms, which are in the order of the family's names.
fn layer<T: Real, V: Values<T>>(
    config: &ModelConfig,
    values: &V,
    index: usize,
    linears: &[Site],
    norms: &[Site],
) -> Result<Layer<T>, V::Error> {
    let linear = |role: Role| {
        let at = config.names.linears.iter().position(|(at, _)| *at == role).expect("a linear that families name");
        let site = &linears[at];
        let bias = if site.kind == (Kind::Linear { bias: true }) { Some(values.vector(site, "bias")?) } else { None };
        Ok(Linear::new(site.clone(), values.matrix(site)?, bias))
    };
    let norm = |place: Place| {
        let at = config.names.norms.iter().position(|(at, _)| *at == place);
        at.map(|at| norm(config, values, &norms[at])).transpose()
    };
    let attention = Attention {
        query: linear(Role::Query)?,
        key: linear(Role::Key)?,
        value: linear(Role::Value)?,
        output: linear(Role::Output)?,
        query_norm: norm(Place::Queries)?,
        key_norm: norm(Place::Keys)?,
        heads: config.heads,
        kv_heads: config.kv_heads,
        rule: config.rule(index),
        rope: config.layer_kind(index).rope,
    };
    let mlp = Mlp {
        gate: linear(Role::Gate)?,
        up: linear(Role::Up)?,
        down: linear(Role::Down)?,
        activation: config.activation,
    };
    let around_attention = Residual { input: norm(Place::AttentionInput)?, output: norm(Place::AttentionOutput)? };
    let around_mlp = Residual { input: norm(Place::MlpInput)?, output: norm(Place::MlpOutput)? };
    Ok(Layer { around_attention, attention, around_mlp, mlp })
}

fn norm<T: Real, V: Values<T>>(config: &ModelConfig, values: &V, site: &Site) -> Result<Norm<T>, V::Error> {
    let (offset, eps) = (T::from_f64(config.norm_offset), T::from_f64(config.norm_eps));
    Ok(Norm { site: site.clone(), weight: values.vector(site, "weight")?, offset, eps, unfrozen: None })
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
    let values = Random { range, norm_offset: config.norm_offset, seed, bf16 };
    let Ok(decoder) = assemble(config, &values);
    decoder
}

struct Random {
    range: f64,
    norm_offset: f64,
    seed: u64,
    bf16: bool,
}

impl<T: Real> Values<T> for Random {
    type Error = std::convert::Infallible;

    fn vector(&self, site: &Site, name: &str) -> Result<Vec<T>, Self::Error> {
        let mut values = initial_values(site, name, self.range, self.seed);
        if site.kind == Kind::Norm {
            values.iter_mut().for_each(|value| *value -= T::from_f64(self.norm_offset));
        }
        Ok(values)
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
