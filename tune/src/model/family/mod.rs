//! The table of families: one row and one thin file each.
//!
//! A family turns its `config.json` into a [`ModelConfig`] and answers for every attribute: read, known to be harmless, or refused by name.

mod gemma2;
mod gemma3;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod roberta;
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
        Family { model_type: "roberta", read: roberta::read },
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

    fn shape_of(config: Value) -> ModelConfig {
        let problems = Problems::new();
        let config = read_config(config.as_object().cloned().unwrap_or_default(), &problems);
        config.unwrap_or_else(|| panic!("{problems}"))
    }

    #[test]
    fn mistral_7b_has_its_parameter_count_and_window() {
        let config = json!({
            "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
            "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0",
            "use_cache": true, "vocab_size": 32000,
        });
        let windowed = shape_of(config.clone());
        assert_eq!(windowed.parameters(), 7_241_732_096);
        assert_eq!(windowed.rule(31).window, Some(4096));
        let mut later = config.clone();
        later["sliding_window"] = Value::Null;
        assert_eq!(shape_of(later).rule(0).window, None);
        let mut silent = config;
        silent.as_object_mut().map(|map| map.remove("sliding_window"));
        assert_eq!(shape_of(silent).rule(0).window, Some(4096));
    }

    #[test]
    fn qwen3_has_its_parameter_count_and_its_windows_are_off_unless_asked_for() {
        let config = json!({
            "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu",
            "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
            "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_scaling": null,
            "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false, "vocab_size": 151936,
        });
        let shape = shape_of(config.clone());
        assert_eq!(shape.parameters(), 596_049_920);
        assert!((0..28).all(|layer| shape.rule(layer).window.is_none()));
        let mut wanted = config.clone();
        (wanted["use_sliding_window"], wanted["sliding_window"], wanted["max_window_layers"]) =
            (json!(true), json!(512), json!(20));
        let shape = shape_of(wanted);
        assert_eq!((shape.rule(19).window, shape.rule(20).window), (None, Some(512)));
        let problems = Problems::new();
        let mut headless = config.as_object().cloned().unwrap_or_default();
        headless.remove("head_dim");
        headless.insert("num_experts".to_owned(), json!(128));
        read_config(headless, &problems);
        let paths: Vec<String> = problems.to_vec().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["head_dim", "num_experts"]);
    }

    #[test]
    fn gemma_2_and_3_have_their_parameter_counts_and_layers() {
        let second = json!({
            "attention_bias": false, "attention_dropout": 0.0, "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid",
            "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 2304, "intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8,
            "num_hidden_layers": 26, "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
            "sliding_window": 4096, "torch_dtype": "float32", "vocab_size": 256000,
        });
        let shape = shape_of(second.clone());
        assert_eq!(shape.parameters(), 2_614_341_888);
        assert_eq!((shape.rule(0).window, shape.rule(1).window, shape.rule(1).softcap), (Some(4096), None, Some(50.0)));
        assert_eq!((shape.embedding_scale, shape.attention.scale), (48.0, 1.0 / 16.0));
        let third = json!({
            "attention_bias": false, "attn_logit_softcapping": null, "cache_implementation": "hybrid", "final_logit_softcapping": null,
            "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
            "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26,
            "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000,
            "rope_scaling": null, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16",
            "vocab_size": 262144,
        });
        let shape = shape_of(third);
        assert_eq!(shape.parameters(), 999_885_952);
        let kinds: Vec<bool> = (0..12).map(|layer| shape.rule(layer).window == Some(512)).collect();
        assert_eq!(kinds, [[true; 5].as_slice(), &[false], &[true; 5], &[false]].concat());
        assert_eq!((shape.ropes[0].theta, shape.ropes[1].theta), (1e6, 1e4));
        // sqrt(1152) = 33.94 in bf16
        assert_eq!(shape.embedding_scale, 34.0);
        let mut odd = second.as_object().cloned().unwrap_or_default();
        odd.insert("layer_types".to_owned(), json!(["full_attention", "chunked_attention"]));
        odd.insert("hidden_act".to_owned(), json!("gelu"));
        let problems = Problems::new();
        read_config(odd, &problems);
        assert_eq!(problems.to_vec().len(), 3, "{problems}");
    }

    #[test]
    fn roberta_base_has_its_parameter_count_with_a_head_of_two_classes() {
        let config = json!({
            "architectures": ["RobertaForMaskedLM"], "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2,
            "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
            "layer_norm_eps": 1e-5, "max_position_embeddings": 514, "model_type": "roberta", "num_attention_heads": 12,
            "num_hidden_layers": 12, "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 50265,
        });
        let shape = shape_of(config);
        assert_eq!((shape.parameters(), shape.labels, shape.max_length), (124_647_170, Some(2), 512));
        let head: usize = shape.head_sites().iter().map(|site| site.d_out * site.d_in + site.d_out).sum();
        assert_eq!(head, 592_130);
        assert_eq!((shape.dropouts.hidden, shape.dropouts.attention, shape.dropouts.head), (0.1, 0.1, 0.1));
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
