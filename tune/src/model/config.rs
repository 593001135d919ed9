//! A model's shape, whatever its family: what `config.json` says once a family has read it.

use crate::adapter::{Kind, Site};
use crate::ops::Activation;
use crate::ops::attention::Rule;
use crate::ops::rope::Rope;

/// The shape of a transformer: a decoder with a head over the vocabulary, or an encoder with a head over whole sequences. Which linears and norms a layer has
/// is the list of their names: [`Names`].
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `model_type` of the configuration: the family that read it.
    pub family: &'static str,
    /// What the modules are called, and so which there are.
    pub names: Names,
    /// Length of the residual stream.
    pub hidden_size: usize,
    /// Length of the MLP's inner rows.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// The MLP's non-linearity.
    pub activation: Activation,
    /// How scores are made, and which keys are seen in layers without a window of their own.
    pub attention: Rule,
    /// Rotary embeddings; a layer uses one of them.
    pub ropes: Vec<Rope>,
    /// What differs from layer to layer; layers beyond the list are as [`LayerKind::default`].
    pub layer_kinds: Vec<LayerKind>,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Factor of the embedding's rows as they enter the first layer.
    pub embedding_scale: f64,
    /// Learned rows that are added to the tokens'.
    pub added: Option<AddedRows>,
    /// Added to the mean square or the variance in norms.
    pub norm_eps: f64,
    /// Added to the weights of norms.
    pub norm_offset: f64,
    /// Norms are layer norms, with biases.
    pub norm_bias: bool,
    /// Bound of the logits: each becomes `softcap * tanh(logit / softcap)`.
    pub logit_softcap: Option<f64>,
    /// The output head is the embedding.
    pub tied: bool,
    /// Outputs of a head over whole sequences, of which one is a number and more are classes; none where the head is one over the vocabulary.
    pub labels: Option<usize>,
    /// Dropout while the model trains.
    pub dropouts: Dropouts,
    /// Standard deviation that a new head is drawn with.
    pub initializer_range: f64,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub output_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Longest sequence the model was made for, in tokens.
    pub max_length: usize,
}

/// Probabilities of dropout, all zero in most families.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropouts {
    /// Of what enters the first layer, and of what attention and MLP add to the residual stream.
    pub hidden: f64,
    /// Of attention's probabilities.
    pub attention: f64,
    /// Before each linear of a head over whole sequences.
    pub head: f64,
}

/// Learned rows of positions and token types that are added to the tokens'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedRows {
    /// Rows of the table of positions.
    pub positions: usize,
    /// The row of a sequence's first token.
    pub first: usize,
    /// Rows of the table of token types, of which every token has the first.
    pub types: usize,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerKind {
    /// Only keys at a distance of less than this many positions are seen.
    pub window: Option<usize>,
    /// Index of the rotary embedding.
    pub rope: usize,
}

/// The module paths of a family, as Hugging Face has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// What stands before a layer's index.
    pub layers: &'static str,
    /// The linears of a layer below its path, in the order of [`Role`].
    pub linears: &'static [(Role, &'static str)],
    /// The norms of a layer below its path, in the order of [`Place`].
    pub norms: &'static [(Place, &'static str)],
    /// The norm behind the last layer.
    pub norm: Option<&'static str>,
    /// The embedding of the tokens.
    pub embedding: &'static str,
    /// Learned rows that are added to the tokens'.
    pub added: Option<AddedNames>,
    /// The norm of what enters the first layer.
    pub embedding_norm: Option<&'static str>,
    /// The head.
    pub head: HeadNames,
    /// The beginning of names that a folder saved without its head leaves out.
    pub root: Option<&'static str>,
    /// Beginnings of the names of tensors that folders may hold and nothing here uses.
    pub unused: &'static [&'static str],
}

/// Module paths of the tables of added rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedNames {
    /// The table of positions.
    pub positions: &'static str,
    /// The table of token types.
    pub types: &'static str,
}

/// Module paths of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNames {
    /// The output matrix over the vocabulary, where it is not the embedding.
    Vocabulary(&'static str),
    /// The two linears of a head over whole sequences.
    Classes {
        /// The first, `[hidden, hidden]`.
        dense: &'static str,
        /// The second, `[labels, hidden]`.
        output: &'static str,
    },
}

/// What a linear of a layer computes. An MLP without a gate has no linear of that role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// The output of attention.
    Output,
    /// The MLP's gate.
    Gate,
    /// Into the MLP.
    Up,
    /// Out of the MLP.
    Down,
}

/// Where a norm of a layer stands; a family has those that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Before attention.
    AttentionInput,
    /// On each head's queries, before they are rotated.
    Queries,
    /// On each head's keys, before they are rotated.
    Keys,
    /// On the output of attention, before the residual stream is added.
    AttentionOutput,
    /// Behind attention, on the residual stream.
    AttentionSum,
    /// Before the MLP.
    MlpInput,
    /// On the output of the MLP, before the residual stream is added.
    MlpOutput,
    /// Behind the MLP, on the residual stream.
    MlpSum,
}

impl ModelConfig {
    /// Number of linears in a layer.
    pub fn layer_linears(&self) -> usize {
        self.names.linears.len()
    }

    /// Whether a layer has a norm at `place`.
    pub fn has_norm(&self, place: Place) -> bool {
        self.names.norms.iter().any(|(at, _)| *at == place)
    }

    /// Whether the MLP has a gate.
    pub fn gated(&self) -> bool {
        self.names.linears.iter().any(|(role, _)| *role == Role::Gate)
    }

    /// What is special about a layer.
    pub fn layer_kind(&self, layer: usize) -> LayerKind {
        self.layer_kinds.get(layer).copied().unwrap_or_default()
    }

    /// The rule of a layer's attention.
    pub fn rule(&self, layer: usize) -> Rule {
        Rule { window: self.layer_kind(layer).window, ..self.attention }
    }

    /// The linears of all layers, in the order of the forward pass.
    pub fn sites(&self) -> Vec<Site> {
        let site = |layer, (role, name): (Role, &str)| {
            let (d_out, d_in) = self.linear_shape(role);
            let kind = Kind::Linear { bias: self.linear_bias(role) };
            Site { name: format!("{}.{layer}.{name}", self.names.layers), layer: Some(layer), kind, d_in, d_out }
        };
        (0..self.layers).flat_map(|layer| self.names.linears.iter().map(move |&linear| site(layer, linear))).collect()
    }

    /// All modules with parameters: [`Self::sites`], so that indices agree, then each layer's norms, the other norms, the tables of the embedding, and the
    /// head where it is not tied.
    pub fn modules(&self) -> Vec<Site> {
        let d = self.hidden_size;
        let kind = Kind::Norm { bias: self.norm_bias };
        let norm = |name: String, layer, d| Site { name, layer, kind, d_in: d, d_out: d };
        let table =
            |name: &str, rows| Site { name: name.to_owned(), layer: None, kind: Kind::Table, d_in: d, d_out: rows };
        let mut modules = self.sites();
        for layer in 0..self.layers {
            modules.extend(self.names.norms.iter().map(|&(place, name)| {
                let length = if matches!(place, Place::Queries | Place::Keys) { self.head_dim } else { d };
                norm(format!("{}.{layer}.{name}", self.names.layers), Some(layer), length)
            }));
        }
        let names = &self.names;
        modules.extend(names.norm.iter().chain(&names.embedding_norm).map(|name| norm((*name).to_owned(), None, d)));
        modules.push(table(names.embedding, self.vocab_size));
        if let Some((rows, names)) = self.added.zip(names.added) {
            modules.extend([table(names.positions, rows.positions), table(names.types, rows.types)]);
        }
        if let (HeadNames::Vocabulary(name), false) = (names.head, self.tied) {
            modules.push(table(name, self.vocab_size));
        }
        modules.extend(self.head_sites());
        modules
    }

    /// Everything a method can attach to: [`Self::modules`], so that indices agree, then the attention of all layers together.
    pub fn attachable(&self) -> Vec<Site> {
        let kv = self.kv_heads * self.head_dim;
        let mut sites = self.modules();
        let name = "attention".to_owned();
        sites.push(Site { name, layer: None, kind: Kind::Attention, d_in: kv, d_out: self.layers * 2 * kv });
        sites
    }

    /// The names of the modules below the first layer.
    pub fn embedding_names(&self) -> impl Iterator<Item = &'static str> {
        let added = self.names.added.into_iter().flat_map(|added| [added.positions, added.types]);
        std::iter::once(self.names.embedding).chain(added).chain(self.names.embedding_norm)
    }

    /// The linears of a head over whole sequences; none where the head is one over the vocabulary.
    pub fn head_sites(&self) -> Vec<Site> {
        let (HeadNames::Classes { dense, output }, Some(labels)) = (self.names.head, self.labels) else {
            return Vec::new();
        };
        let linear = |name: &str, d_out| {
            let kind = Kind::Linear { bias: true };
            Site { name: name.to_owned(), layer: None, kind, d_in: self.hidden_size, d_out }
        };
        vec![linear(dense, self.hidden_size), linear(output, labels)]
    }

    /// `(d_out, d_in)` of a linear.
    fn linear_shape(&self, role: Role) -> (usize, usize) {
        let (d, q, kv) = (self.hidden_size, self.heads * self.head_dim, self.kv_heads * self.head_dim);
        match role {
            Role::Query => (q, d),
            Role::Key | Role::Value => (kv, d),
            Role::Output => (d, q),
            Role::Gate | Role::Up => (self.intermediate_size, d),
            Role::Down => (d, self.intermediate_size),
        }
    }

    fn linear_bias(&self, role: Role) -> bool {
        match role {
            Role::Query | Role::Key | Role::Value => self.qkv_bias,
            Role::Output => self.output_bias,
            Role::Gate | Role::Up | Role::Down => self.mlp_bias,
        }
    }

    /// Name and shape of every tensor of the model's folder.
    pub fn inventory(&self) -> Vec<(String, Vec<usize>)> {
        let own =
            |site: Site| site.own().into_iter().map(move |(name, shape)| (format!("{}.{name}", site.name), shape));
        self.modules().into_iter().flat_map(own).collect()
    }

    /// Number of the base model's parameters; a tied head counts once.
    pub fn parameters(&self) -> usize {
        self.inventory().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}
