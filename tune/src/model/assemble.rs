//! Putting a [`Decoder`] together from its configuration and a source of values: a folder's files, or random numbers.

use super::attention::Attention;
use super::config::{HeadNames, ModelConfig, Place, Role};
use super::decoder::Decoder;
use super::embedding::{Added, Embedding};
use super::head::{Classifier, Head};
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

/// A model of the given shape with values from `values`.
pub(super) fn assemble<T: Real, V: Values<T>>(config: ModelConfig, values: &V) -> Result<Decoder<T>, V::Error> {
    let modules = config.modules();
    let (linears, others) = modules.split_at(config.layers * config.layer_linears());
    let norm_count = config.names.norms.len();
    let (norms, rest) = others.split_at(config.layers * norm_count);
    let mut layers = Vec::with_capacity(config.layers);
    for index in 0..config.layers {
        let linears = &linears[index * config.layer_linears()..][..config.layer_linears()];
        layers.push(layer(&config, values, index, linears, &norms[index * norm_count..][..norm_count])?);
    }
    let site = |name: &str| rest.iter().find(|site| site.name == name).expect("a module of the configuration");
    let norm = |name: Option<&'static str>| name.map(|name| norm(&config, values, site(name))).transpose();
    let table = |name: &str| {
        let site = site(name);
        Ok(Table { site: site.clone(), weight: values.matrix(site)?, unfrozen: None })
    };
    let added = match (config.added, config.names.added) {
        (Some(rows), Some(names)) => {
            let (positions, types) = (table(names.positions)?, table(names.types)?);
            Some(Added { positions, first: rows.first, types })
        }
        _ => None,
    };
    let embedding = Embedding {
        tokens: table(config.names.embedding)?,
        scale: config.embedding_scale,
        added,
        norm: norm(config.names.embedding_norm)?,
        dropout: config.dropouts.hidden,
    };
    let head = match config.names.head {
        HeadNames::Vocabulary(_) if config.tied => Head::Vocabulary(None),
        HeadNames::Vocabulary(name) => Head::Vocabulary(Some(table(name)?)),
        HeadNames::Classes { dense, output } => Head::Classes(Box::new(Classifier {
            dense: linear(values, site(dense))?,
            output: linear(values, site(output))?,
            dropout: config.dropouts.head,
        })),
    };
    Ok(Decoder { norm: norm(config.names.norm)?, embedding, head, layers, learned: None, config })
}

fn linear<T: Real, V: Values<T>>(values: &V, site: &Site) -> Result<Linear<T>, V::Error> {
    let bias = if site.kind == (Kind::Linear { bias: true }) { Some(values.vector(site, "bias")?) } else { None };
    Ok(Linear::new(site.clone(), values.matrix(site)?, bias))
}

/// A layer from the sites of its linears and norms, which are in the order of the family's names.
fn layer<T: Real, V: Values<T>>(
    config: &ModelConfig,
    values: &V,
    index: usize,
    linears: &[Site],
    norms: &[Site],
) -> Result<Layer<T>, V::Error> {
    let optional = |role: Role| {
        let at = config.names.linears.iter().position(|(at, _)| *at == role);
        at.map(|at| linear(values, &linears[at])).transpose()
    };
    let linear = |role| Ok(optional(role)?.expect("a linear that every family names"));
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
        layer: index,
        dropout: config.dropouts.attention,
    };
    let mlp = Mlp {
        gate: optional(Role::Gate)?,
        up: linear(Role::Up)?,
        down: linear(Role::Down)?,
        activation: config.activation,
    };
    let residual = |input, output, sum, last: &Linear<T>| {
        let (dropout, owner) = (config.dropouts.hidden, format!("{}/residual", last.site().name));
        Ok(Residual { input: norm(input)?, output: norm(output)?, sum: norm(sum)?, dropout, owner })
    };
    let around_attention =
        residual(Place::AttentionInput, Place::AttentionOutput, Place::AttentionSum, &attention.output)?;
    let around_mlp = residual(Place::MlpInput, Place::MlpOutput, Place::MlpSum, &mlp.down)?;
    Ok(Layer { around_attention, attention, around_mlp, mlp })
}

fn norm<T: Real, V: Values<T>>(config: &ModelConfig, values: &V, site: &Site) -> Result<Norm<T>, V::Error> {
    let (offset, eps) = (T::from_f64(config.norm_offset), T::from_f64(config.norm_eps));
    let bias = if config.norm_bias { Some(values.vector(site, "bias")?) } else { None };
    Ok(Norm { site: site.clone(), weight: values.vector(site, "weight")?, bias, offset, eps, unfrozen: None })
}

/// The values a module's own parameter starts pretraining from: norms 1, biases 0, matrices normal with standard deviation `range` (transformers'
/// `initializer_range`), from the stream named by `seed` and the parameter.
pub fn initial_values<T: Real>(site: &Site, name: &str, range: f64, seed: u64) -> Vec<T> {
    match (site.kind, name) {
        (_, "bias") => vec![T::ZERO; site.d_out],
        (Kind::Norm { .. }, _) => vec![T::ONE; site.d_out],
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
        if matches!(site.kind, Kind::Norm { .. }) && name == "weight" {
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
