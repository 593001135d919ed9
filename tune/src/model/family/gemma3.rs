//! Gemma 3, its text models: Gemma 2 with norms on queries and keys in place of the cap on scores, and two rotary embeddings, one for layers with a window
//! and one for those without; `model_type` `gemma3_text`.

use serde_json::Value;

use crate::config::Section;
use crate::model::{LayerKind, ModelConfig, Names, Place};
use crate::ops::rope::{Rope, Scaling};

use super::shared;

const NAMES: Names = Names {
    norms: &[
        (Place::AttentionInput, "input_layernorm"),
        (Place::Queries, "self_attn.q_norm"),
        (Place::Keys, "self_attn.k_norm"),
        (Place::AttentionOutput, "post_attention_layernorm"),
        (Place::MlpInput, "pre_feedforward_layernorm"),
        (Place::MlpOutput, "post_feedforward_layernorm"),
    ],
    ..shared::NAMES
};

pub fn read(section: &mut Section) -> ModelConfig {
    let mut config = shared::read_gemma(section, "gemma3_text");
    config.names = NAMES;
    config.ropes = ropes(section, config.head_dim);
    section.only("attn_logit_softcapping", &[]);
    config.logit_softcap = section.f64("final_logit_softcapping").positive().optional();
    let local = LayerKind { window: shared::window(section, 4096), rope: 1 };
    let full = LayerKind { window: None, rope: 0 };
    section.ignore(&["_sliding_window_pattern"]);
    let pattern = section.usize("sliding_window_pattern").at_least(1).or(6);
    let local_by_default = |layer: usize| !(layer + 1).is_multiple_of(pattern);
    config.layer_kinds = shared::layer_kinds(section, config.layers, local_by_default, local, full);
    config
}

/// The rotary embedding of full layers, then that of layers with a window: a section for each in `rope_parameters`, or `rope_local_base_freq` beside the
/// keys of other families.
fn ropes(section: &mut Section, head_dim: usize) -> Vec<Rope> {
    let local_theta = section.f64("rope_local_base_freq").positive().or(10_000.0);
    let by_kind = section.value("rope_parameters").is_some_and(|value| value.get("full_attention").is_some());
    if !by_kind {
        let full = shared::rope(section, head_dim, 1_000_000.0);
        return vec![full, Rope { theta: local_theta, scaling: Scaling::None, head_dim }];
    }
    let mut both = section.required_section("rope_parameters");
    let mut one = |key: &str, theta| {
        let part = both.section(key);
        let plain = Rope { theta, scaling: Scaling::None, head_dim };
        part.map_or(plain, |part| shared::stretched(part, theta, head_dim))
    };
    let ropes = vec![one("full_attention", 1_000_000.0), one("sliding_attention", local_theta)];
    both.finish();
    section.only("rope_scaling", &[Value::Null]);
    section.ignore(&["rope_theta"]);
    ropes
}
