//! A decoder's shape, whatever its family: what `config.json` says once a family has read it.

use crate::adapter::Site;
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

impl ModelConfig {
    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.rope.head_dim
    }

    /// The linears of all layers, in the order of the forward pass.
    pub fn sites(&self) -> Vec<Site> {
        let site = |layer, module: usize| {
            let (d_out, d_in) = self.module_shape(module);
            Site { name: format!("model.layers.{layer}.{}", MODULES[module]), layer, d_in, d_out }
        };
        (0..self.layers).flat_map(|layer| (0..MODULES.len()).map(move |module| site(layer, module))).collect()
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
        let d = self.hidden_size;
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, d])];
        for layer in 0..self.layers {
            let path = format!("model.layers.{layer}");
            for (module, name) in MODULES.iter().enumerate() {
                let (d_out, d_in) = self.module_shape(module);
                tensors.push((format!("{path}.{name}.weight"), vec![d_out, d_in]));
                if self.module_bias(module) {
                    tensors.push((format!("{path}.{name}.bias"), vec![d_out]));
                }
            }
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                tensors.push((format!("{path}.{norm}.weight"), vec![d]));
            }
        }
        tensors.push(("model.norm.weight".to_owned(), vec![d]));
        if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocab_size, d]));
        }
        tensors
    }

    /// Number of the base model's parameters; a tied head counts once.
    pub fn parameters(&self) -> usize {
        self.inventory().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}
