//! What the `config.json` files of LLaMA's relatives have in common: module names, shape keys, rotary keys in their old and new spelling, windows, harmless
//! attributes.

use half::f16;
use serde_json::{Value, json};

use crate::config::Section;
use crate::model::{Dropouts, HeadNames, LayerKind, ModelConfig, Names, Place, Role};
use crate::ops::Activation;
use crate::ops::attention::Rule;
use crate::ops::rope::{Rope, Scaling};
use crate::weights::round_to_bf16;

/// Far above any model there is, and small enough that a product of three such sizes stays inside 64 bits.
pub const LARGEST: usize = 1 << 20;

/// The modules of LLaMA, which its relatives kept.
pub const NAMES: Names = Names {
    layers: "model.layers",
    linears: &[
        (Role::Query, "self_attn.q_proj"),
        (Role::Key, "self_attn.k_proj"),
        (Role::Value, "self_attn.v_proj"),
        (Role::Output, "self_attn.o_proj"),
        (Role::Gate, "mlp.gate_proj"),
        (Role::Up, "mlp.up_proj"),
        (Role::Down, "mlp.down_proj"),
    ],
    norms: &[(Place::AttentionInput, "input_layernorm"), (Place::MlpInput, "post_attention_layernorm")],
    norm: Some("model.norm"),
    embedding: "model.embed_tokens",
    added: None,
    embedding_norm: None,
    head: HeadNames::Vocabulary("lm_head"),
    root: None,
    unused: &[],
};

/// Reads the keys that every decoder here shares; the rotary embedding is the one of all layers, and what a family has beyond LLaMA without biases is left
/// to it.
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
    section.only("attention_dropout", &[json!(0.0)]);
    ModelConfig {
        family,
        names: NAMES,
        hidden_size,
        intermediate_size: section.usize("intermediate_size").at_least(1).at_most(LARGEST).required(),
        layers: section.usize("num_hidden_layers").at_least(1).at_most(10_000).required(),
        heads,
        kv_heads,
        head_dim,
        activation: Activation::Silu,
        attention: Rule::causal(head_dim),
        ropes: Vec::new(),
        layer_kinds: Vec::new(),
        vocab_size: section.usize("vocab_size").at_least(1).at_most(LARGEST).required(),
        embedding_scale: 1.0,
        added: None,
        norm_eps: section.f64("rms_norm_eps").positive().or(1e-6),
        norm_offset: 0.0,
        norm_bias: false,
        logit_softcap: None,
        tied: section.bool("tie_word_embeddings").or(tied_by_default),
        labels: None,
        dropouts: Dropouts::default(),
        initializer_range: section.f64("initializer_range").positive().or(0.02),
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        max_length,
    }
}

/// The one activation of LLaMA and most of its relatives.
pub fn silu(section: &mut Section) -> Activation {
    section.only("hidden_act", &[json!("silu")]);
    Activation::Silu
}

/// Refuses a configuration without `head_dim`, where the family's own default is not the hidden size over the heads.
pub fn needs_head_dim(section: &mut Section) {
    if !section.has("head_dim") {
        section.problem("head_dim", "is missing: give the size of a head");
    }
}

/// What the Gemma models share beyond LLaMA: norms whose weights are stored around zero, a scaled embedding, the tanh form of gelu in the gate, and scores
/// scaled by a number of the configuration.
pub fn read_gemma(section: &mut Section, family: &'static str) -> ModelConfig {
    needs_head_dim(section);
    let mut config = read(section, family, true);
    section.only("hidden_activation", &[json!("gelu_pytorch_tanh")]);
    section.only("hidden_act", &[json!("gelu_pytorch_tanh")]);
    section.only("use_bidirectional_attention", &[json!(false)]);
    section.ignore(&["cache_implementation"]);
    config.activation = Activation::GeluTanh;
    config.norm_offset = 1.0;
    config.embedding_scale = stored(section, (config.hidden_size as f64).sqrt());
    config.attention.scale = 1.0 / section.f64("query_pre_attn_scalar").positive().or(256.0).sqrt();
    let attention_bias = section.bool("attention_bias").or(false);
    config.qkv_bias = attention_bias;
    config.output_bias = attention_bias;
    config
}

/// A number as the model's own type holds it: these models were trained with the embedding's factor rounded to it.
fn stored(section: &mut Section, value: f64) -> f64 {
    let key = if section.has("dtype") { "dtype" } else { "torch_dtype" };
    match section.string(key).or_default().as_str() {
        "bfloat16" => round_to_bf16(value).to_f64(),
        "float16" => f16::from_f64(value).to_f64(),
        _ => f64::from(value as f32),
    }
}

/// Rotary settings: `rope_parameters` (new), or `rope_theta` beside `rope_scaling` (old).
pub fn rope(section: &mut Section, head_dim: usize, default_theta: f64) -> Rope {
    let theta = section.f64("rope_theta").positive().or(default_theta);
    let mut rope = Rope { theta, scaling: Scaling::None, head_dim };
    let parts = [section.section("rope_scaling"), section.section("rope_parameters")];
    for part in parts.into_iter().flatten() {
        rope = stretched(part, rope.theta, head_dim);
    }
    rope
}

/// The rotary settings of one section.
pub fn stretched(mut part: Section, default_theta: f64, head_dim: usize) -> Rope {
    let theta = part.f64("rope_theta").positive().or(default_theta);
    let key = if part.has("rope_type") { "rope_type" } else { "type" };
    part.ignore(&["rope_type", "type"]);
    let kind = part.string(key).or("default".to_owned());
    let scaling = match kind.as_str() {
        "default" => Scaling::None,
        "linear" => Scaling::Linear { factor: part.f64("factor").at_least(1.0).required() },
        "llama3" => Scaling::Llama3 {
            factor: part.f64("factor").at_least(1.0).required(),
            low_frequency_factor: part.f64("low_freq_factor").positive().required(),
            high_frequency_factor: part.f64("high_freq_factor").positive().required(),
            original_length: part.f64("original_max_position_embeddings").positive().required(),
        },
        other => {
            part.problem(key, format!("`{other}` is not one of the rotary scalings handled: default, linear, llama3"));
            // the other keys belong to the scaling that is refused
            return Rope { theta, scaling: Scaling::None, head_dim };
        }
    };
    part.finish();
    Rope { theta, scaling, head_dim }
}

/// The value of a key that means nothing when it is null, and `default` when it is not there.
pub fn unless_null(section: &mut Section, key: &str, default: f64) -> Option<f64> {
    let default = (!section.has_key(key)).then_some(default);
    section.f64(key).positive().optional().or(default)
}

/// The window of `sliding_window`: none when it is null, `default` when it is not there.
pub fn window(section: &mut Section, default: usize) -> Option<usize> {
    let default = (!section.has_key("sliding_window")).then_some(default);
    section.usize("sliding_window").at_least(1).optional().or(default)
}

/// Which layers have a window: `layer_types` says it, otherwise `by_default` of the layer's index. `local` and `full` are what the two kinds of layers are.
pub fn layer_kinds(
    section: &mut Section,
    layers: usize,
    by_default: impl Fn(usize) -> bool,
    local: LayerKind,
    full: LayerKind,
) -> Vec<LayerKind> {
    let Some(types) = section.strings("layer_types").optional() else {
        return (0..layers).map(|layer| if by_default(layer) { local } else { full }).collect();
    };
    if types.len() != layers {
        section.problem("layer_types", format!("{} entries for {layers} layers: one for each", types.len()));
    }
    if let Some(other) = types.iter().find(|kind| !["full_attention", "sliding_attention"].contains(&kind.as_str())) {
        let message = format!("`{other}` is not one of the kinds handled: full_attention, sliding_attention");
        section.problem("layer_types", message);
    }
    types.iter().map(|kind| if kind == "sliding_attention" { local } else { full }).collect()
}

/// Windows as Qwen has them: off unless `use_sliding_window`, then in the layers from `max_window_layers` on.
pub fn switched_windows(section: &mut Section, layers: usize) -> Vec<LayerKind> {
    let used = section.bool("use_sliding_window").or(false);
    let window = window(section, 4096).filter(|_| used);
    let from = section.usize("max_window_layers").or(28);
    let (local, full) = (LayerKind { window, ..LayerKind::default() }, LayerKind::default());
    let types = section.strings("layer_types").or_default();
    if window.is_none() && types.iter().any(|kind| kind == "sliding_attention") {
        section.problem("layer_types", "sliding_attention needs use_sliding_window and a sliding_window");
    }
    layer_kinds(section, layers, |layer| window.is_some() && layer >= from, local, full)
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
