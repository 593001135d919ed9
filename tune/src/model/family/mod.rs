//! The table of families: one row and one thin file each.
//!
//! A family turns its `config.json` into a [`ModelConfig`] and answers for every attribute: read, known to be harmless, or refused by name.

mod gemma2;
mod gemma3;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod shared;

use serde_json::{Map, Value};

use super::ModelConfig;
use crate::config::{Problems, Section};

/// A row of the table.
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    read: fn(&mut Section) -> ModelConfig,
}

/// All families.
pub const fn families() -> &'static [Family] {
    &[
        Family { model_type: "llama", read: llama::read },
        Family { model_type: "mistral", read: mistral::read },
        Family { model_type: "qwen2", read: qwen2::read },
        Family { model_type: "qwen3", read: qwen3::read },
        Family { model_type: "gemma2", read: gemma2::read },
        Family { model_type: "gemma3_text", read: gemma3::read },
    ]
}

/// Reads a `config.json`; every unhandled attribute and every bad value is added to `problems`.
pub fn read_config(map: Map<String, Value>, problems: &Problems) -> Option<ModelConfig> {
    let mut section = Section::new("", map, problems);
    let model_type = section.string("model_type").required();
    let Some(family) = families().iter().find(|family| family.model_type == model_type) else {
        if problems.is_empty() {
            let known: Vec<&str> = families().iter().map(|family| family.model_type).collect();
            section.problem(
                "model_type",
                format!("`{model_type}` is not one of the families handled: {}", known.join(", ")),
            );
        }
        return None;
    };
    let config = (family.read)(&mut section);
    shared::ignore_harmless(&mut section);
    section.finish();
    problems.is_empty().then_some(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn llama() -> Map<String, Value> {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096, "hidden_act": "silu", "rope_scaling": null, "torch_dtype": "float16", "use_cache": true,
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn problems_of(change: Value) -> Vec<String> {
        let mut map = llama();
        for (key, value) in change.as_object().into_iter().flatten() {
            map.insert(key.clone(), value.clone());
        }
        let problems = Problems::new();
        read_config(map, &problems);
        problems.to_vec().into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn llama2_7b_has_its_parameter_count() {
        let problems = Problems::new();
        let config = read_config(llama(), &problems);
        assert_eq!(config.map(|config| config.parameters()), Some(6_738_415_616), "{problems}");
    }

    #[test]
    fn the_attributes_that_hub_folders_carry_are_read_or_known() {
        let smollm2 = json!({ "is_llama_config": true, "rope_interleaved": false, "rope_theta": 1e5, "tie_word_embeddings": true,
            "transformers.js_config": { "dtype": "q4" }, "attention_bias": false, "mlp_bias": false, "pretraining_tp": 1 });
        let llama1 = json!({ "max_sequence_length": 2048, "max_position_embeddings": null, "pad_token_id": 0, "num_key_value_heads": null });
        let qwen = json!({ "model_type": "qwen2", "use_mrope": false, "use_sliding_window": false, "sliding_window": 131_072,
            "max_window_layers": 28, "attention_dropout": 0.0 });
        for change in [smollm2, llama1, qwen] {
            assert_eq!(problems_of(change), Vec::<String>::new());
        }
        assert_eq!(
            problems_of(json!({ "rope_interleaved": true, "is_llama_config": false })),
            Vec::from(["rope_interleaved"])
        );
    }

    #[test]
    fn unhandled_attributes_are_refused_by_name() {
        assert_eq!(problems_of(json!({})), Vec::<String>::new());
        assert_eq!(problems_of(json!({ "quantization_config": { "bits": 4 } })), ["quantization_config"]);
        assert_eq!(problems_of(json!({ "hidden_act": "gelu", "pretraining_tp": 2 })), ["hidden_act", "pretraining_tp"]);
        assert_eq!(problems_of(json!({ "rope_scaling": { "type": "yarn", "factor": 2.0 } })).len(), 1);
        assert_eq!(problems_of(json!({ "num_key_value_heads": 5 })), ["num_key_value_heads"]);
        assert_eq!(problems_of(json!({ "hidden_size": 0, "vocab_size": "many" })).len(), 2);
        assert_eq!(problems_of(json!({ "model_type": "gpt2" })), ["model_type"]);
    }
}
