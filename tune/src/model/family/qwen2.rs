//! Qwen2 and Qwen2.5: LLaMA with biases on the query, key and value projections, and windows that can be switched on; `model_type` `qwen2`.

use crate::config::Section;
use crate::model::ModelConfig;

use super::shared;

pub fn read(section: &mut Section) -> ModelConfig {
    let mut config = shared::read(section, "qwen2", false);
    config.activation = shared::silu(section);
    config.ropes = vec![shared::rope(section, config.head_dim, 10_000.0)];
    config.qkv_bias = true;
    config.layer_kinds = shared::switched_windows(section, config.layers);
    config
}
