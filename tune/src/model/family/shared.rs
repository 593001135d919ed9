//! What the `config.json` files of LLaMA's relatives have in common: shape keys, rotary keys in their old and new spelling, harmless attributes.

use serde_json::{Value, json};

use crate::config::Section;
use crate::model::ModelConfig;
use crate::ops::rope::{Rope, Scaling};

/// Far above any model there is, and small enough that a product of three such sizes stays inside 64 bits.
const LARGEST: usize = 1 << 20;

/// Reads the keys that every family here shares; biases are left to the family.
pub fn read(section: &mut Section, family: &'static str, tied_by_default: bool) -> ModelConfig {
    let hidden_size = section.usize("hidden_size").at_least(1).at_most(LARGEST).required();
    let heads = section.usize("num_attention_heads").at_least(1).at_most(LARGEST).required().max(1);
    let kv_heads = section.usize("num_key_value_heads").at_least(1).at_most(LARGEST).or(heads).max(1);
    if !heads.is_multiple_of(kv_heads) {
        let message = format!("{kv_heads} key/value heads cannot share {heads} query heads evenly");
        section.problem("num_key_value_heads", message);
    }
    let given = section.usize("head_dim").at_least(2).at_most(1 << 16).optional();
    let head_dim = given.unwrap_or(hidden_size / heads);
    if !head_dim.is_multiple_of(2) || (given.is_none() && !hidden_size.is_multiple_of(heads)) {
        let message = format!("hidden_size {hidden_size} over {heads} heads gives no even head size: set head_dim");
        section.problem("num_attention_heads", message);
    }
    // LLaMA 1's folders say it in the second way
    let older = section.usize("max_sequence_length").at_least(1).or(2048);
    let max_length = section.usize("max_position_embeddings").at_least(1).or(older);
    section.only("hidden_act", &[json!("silu")]);
    section.only("attention_dropout", &[json!(0.0)]);
    ModelConfig {
        family,
        hidden_size,
        intermediate_size: section.usize("intermediate_size").at_least(1).at_most(LARGEST).required(),
        layers: section.usize("num_hidden_layers").at_least(1).at_most(10_000).required(),
        heads,
        kv_heads,
        rope: rope(section, head_dim),
        vocab_size: section.usize("vocab_size").at_least(1).at_most(LARGEST).required(),
        norm_eps: section.f64("rms_norm_eps").positive().or(1e-6),
        tied: section.bool("tie_word_embeddings").or(tied_by_default),
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        max_length,
    }
}

/// Rotary settings: `rope_parameters` (new), or `rope_theta` beside `rope_scaling` (old).
fn rope(section: &mut Section, head_dim: usize) -> Rope {
    let outer = section.f64("rope_theta").positive().optional();
    let old = section.section("rope_scaling");
    let new = section.section("rope_parameters");
    let (mut theta, mut scaling) = (outer.unwrap_or(10_000.0), Scaling::None);
    for mut part in [old, new].into_iter().flatten() {
        theta = part.f64("rope_theta").positive().or(theta);
        let key = if part.has("rope_type") { "rope_type" } else { "type" };
        part.ignore(&["rope_type", "type"]);
        let kind = part.string(key).or("default".to_owned());
        scaling = match kind.as_str() {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: part.f64("factor").at_least(1.0).required() },
            "llama3" => Scaling::Llama3 {
                factor: part.f64("factor").at_least(1.0).required(),
                low_frequency_factor: part.f64("low_freq_factor").positive().required(),
                high_frequency_factor: part.f64("high_freq_factor").positive().required(),
                original_length: part.f64("original_max_position_embeddings").positive().required(),
            },
            other => {
                part.problem(
                    key,
                    format!("`{other}` is not one of the rotary scalings handled: default, linear, llama3"),
                );
                // the other keys belong to the scaling that is refused
                continue;
            }
        };
        part.finish();
    }
    Rope { theta, scaling, head_dim }
}

/// Attributes that change nothing in this program: notes of the writer, settings of generation, of other frameworks or of pretraining.
pub fn ignore_harmless(section: &mut Section) {
    section.ignore(&[
        "architectures",
        "auto_map",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "initializer_range",
        "model_type",
        "_name_or_path",
        "pad_token_id",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "use_cache",
    ]);
    section.only("pretraining_tp", &[json!(1)]);
    section.only("is_llama_config", &[json!(true)]);
    section.only("rope_interleaved", &[]);
    section.only("use_mrope", &[]);
    section.only("is_decoder", &[Value::Bool(true)]);
}
