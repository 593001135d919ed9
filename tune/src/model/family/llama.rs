//! LLaMA 1, 2, 3 and 3.1 and later: `model_type` `llama`.

use crate::config::Section;
use crate::model::ModelConfig;

use super::shared;

pub fn read(section: &mut Section) -> ModelConfig {
    let mut config = shared::read(section, "llama", false);
    config.activation = shared::silu(section);
    config.ropes = vec![shared::rope(section, config.head_dim, 10_000.0)];
    let attention_bias = section.bool("attention_bias").or(false);
    config.qkv_bias = attention_bias;
    config.output_bias = attention_bias;
    config.mlp_bias = section.bool("mlp_bias").or(false);
    config
}
