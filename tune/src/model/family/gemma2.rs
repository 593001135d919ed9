//! Gemma 2: norms on both sides of attention and MLP, scores and logits below soft caps, every other layer with a window; `model_type` `gemma2`.

use crate::config::Section;
use crate::model::{LayerKind, ModelConfig, Names, Place};

use super::shared;

const NAMES: Names = Names {
    norms: &[
        (Place::AttentionInput, "input_layernorm"),
        (Place::AttentionOutput, "post_attention_layernorm"),
        (Place::MlpInput, "pre_feedforward_layernorm"),
        (Place::MlpOutput, "post_feedforward_layernorm"),
    ],
    ..shared::NAMES
};

pub fn read(section: &mut Section) -> ModelConfig {
    let mut config = shared::read_gemma(section, "gemma2");
    config.names = NAMES;
    config.ropes = vec![shared::rope(section, config.head_dim, 10_000.0)];
    config.attention.softcap = shared::unless_null(section, "attn_logit_softcapping", 50.0);
    config.logit_softcap = shared::unless_null(section, "final_logit_softcapping", 30.0);
    let local = LayerKind { window: shared::window(section, 4096), ..LayerKind::default() };
    let even = |layer: usize| layer.is_multiple_of(2);
    config.layer_kinds = shared::layer_kinds(section, config.layers, even, local, LayerKind::default());
    config
}
