//! A decoder's shape, whatever its family: what `config.json` says once a family has read it.

use crate::adapter::{Kind, Site};
use crate::ops::rope::Rope;

/// The shape of a decoder-only transformer with rotary positions, grouped key/value heads and a gated MLP.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `model_type` of the configuration: the family that read it.
    pub family: &'static str,
    /// Length of the residual stream.
    pub hidden_size: usize,
    /// Length of the MLP's gate.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Rotary embedding; holds the head size.
    pub rope: Rope,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Added to the mean square in norms.
    pub norm_eps: f64,
    /// The output head is the embedding.
    pub tied: bool,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub output_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Longest sequence the model was made for, in tokens.
    pub max_length: usize,
}

/// The linears of a decoder layer in the order of the forward pass: Hugging Face's module paths below the layer.
pub const MODULES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// The norms of a decoder layer, before attention and before the MLP: Hugging Face's names below the layer.
pub const NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];

impl ModelConfig {
    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.rope.head_dim
    }

    /// The linears of all layers, in the order of the forward pass.
    pub fn sites(&self) -> Vec<Site> {
        let site = |layer, module: usize| {
            let (d_out, d_in) = self.module_shape(module);
            let kind = Kind::Linear { bias: self.module_bias(module) };
            Site { name: format!("model.layers.{layer}.{}", MODULES[module]), layer: Some(layer), kind, d_in, d_out }
        };
        (0..self.layers).flat_map(|layer| (0..MODULES.len()).map(move |module| site(layer, module))).collect()
    }

    /// All modules with parameters: [`Self::sites`], so that indices agree, then each layer's two norms, the final norm, the embedding, and the head where it
    /// is not tied.
    pub fn modules(&self) -> Vec<Site> {
        let (d, vocab) = (self.hidden_size, self.vocab_size);
        let norm = |name: String, layer| Site { name, layer, kind: Kind::Norm, d_in: d, d_out: d };
        let table = |name: &str| Site { name: name.to_owned(), layer: None, kind: Kind::Table, d_in: d, d_out: vocab };
        let mut modules = self.sites();
        for layer in 0..self.layers {
            modules.extend(NORMS.map(|name| norm(format!("model.layers.{layer}.{name}"), Some(layer))));
        }
        modules.push(norm("model.norm".to_owned(), None));
        modules.push(table("model.embed_tokens"));
        if !self.tied {
            modules.push(table("lm_head"));
        }
        modules
    }

    /// Everything a method can attach to: [`Self::modules`], so that indices agree, then the attention of all layers together.
    pub fn attachable(&self) -> Vec<Site> {
        let kv = self.kv_heads * self.head_dim();
        let mut sites = self.modules();
        let name = "attention".to_owned();
        sites.push(Site { name, layer: None, kind: Kind::Attention, d_in: kv, d_out: self.layers * 2 * kv });
        sites
    }

    /// `(d_out, d_in)` of a module of [`MODULES`].
    pub fn module_shape(&self, module: usize) -> (usize, usize) {
        let (d, q) = (self.hidden_size, self.heads * self.head_dim());
        let kv = self.kv_heads * self.head_dim();
        [
            (q, d),
            (kv, d),
            (kv, d),
            (d, q),
            (self.intermediate_size, d),
            (self.intermediate_size, d),
            (d, self.intermediate_size),
        ][module]
    }

    /// Whether a module of [`MODULES`] has a bias.
    pub fn module_bias(&self, module: usize) -> bool {
        match module {
            0..=2 => self.qkv_bias,
            3 => self.output_bias,
            _ => self.mlp_bias,
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
