//! Mistral: LLaMA without biases whose layers all see through a window; `model_type` `mistral`.

use crate::config::Section;
use crate::model::{LayerKind, ModelConfig};

use super::shared;

pub fn read(section: &mut Section) -> ModelConfig {
    let mut config = shared::read(section, "mistral", false);
    config.activation = shared::silu(section);
    config.ropes = vec![shared::rope(section, config.head_dim, 10_000.0)];
    let window = shared::window(section, 4096);
    config.layer_kinds = vec![LayerKind { window, ..LayerKind::default() }; config.layers];
    config
}
