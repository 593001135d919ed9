//! Qwen3: Qwen2 without its biases, with a norm on each head's queries and keys; `model_type` `qwen3`. Its mixtures of experts are a family of their own
//! and not handled.

use crate::config::Section;
use crate::model::{ModelConfig, Names, Place};

use super::shared;

const NAMES: Names = Names {
    norms: &[
        (Place::AttentionInput, "input_layernorm"),
        (Place::Queries, "self_attn.q_norm"),
        (Place::Keys, "self_attn.k_norm"),
        (Place::MlpInput, "post_attention_layernorm"),
    ],
    ..shared::NAMES
};

pub fn read(section: &mut Section) -> ModelConfig {
    shared::needs_head_dim(section);
    let mut config = shared::read(section, "qwen3", false);
    config.names = NAMES;
    config.activation = shared::silu(section);
    config.ropes = vec![shared::rope(section, config.head_dim, 10_000.0)];
    let attention_bias = section.bool("attention_bias").or(false);
    config.qkv_bias = attention_bias;
    config.output_bias = attention_bias;
    config.layer_kinds = shared::switched_windows(section, config.layers);
    config
}
