//! Qwen2 and Qwen2.5: LLaMA with biases on the query, key and value projections; `model_type` `qwen2`.

use crate::config::Section;
use crate::model::ModelConfig;

pub fn read(section: &mut Section) -> ModelConfig {
    let mut config = super::shared::read(section, "qwen2", false);
    config.qkv_bias = true;
    // the window counts only where `use_sliding_window` says so
    section.only("use_sliding_window", &[]);
    section.ignore(&["sliding_window", "max_window_layers"]);
    let layer_types = section.strings("layer_types").or_default();
    if layer_types.iter().any(|kind| kind != "full_attention") {
        section.problem("layer_types", "only full_attention is handled");
    }
    config
}
