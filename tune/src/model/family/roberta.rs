//! RoBERTa with a head over whole sequences: an encoder with norms on the sums, added positions, biases everywhere; `model_type` `roberta`.
//!
//! A folder may hold the head, or a pretrained model without one: its head for masked tokens and its pooler are not used.

use serde_json::{Value, json};

use crate::config::Section;
use crate::model::{AddedNames, AddedRows, Dropouts, HeadNames, ModelConfig, Names, Place, Role};
use crate::ops::Activation;
use crate::ops::attention::Rule;

use super::shared::LARGEST;

/// More classes than any task has, and few enough that a head drawn for them is small.
const MOST_LABELS: usize = 10_000;

const NAMES: Names = Names {
    layers: "roberta.encoder.layer",
    linears: &[
        (Role::Query, "attention.self.query"),
        (Role::Key, "attention.self.key"),
        (Role::Value, "attention.self.value"),
        (Role::Output, "attention.output.dense"),
        (Role::Up, "intermediate.dense"),
        (Role::Down, "output.dense"),
    ],
    norms: &[(Place::AttentionSum, "attention.output.LayerNorm"), (Place::MlpSum, "output.LayerNorm")],
    norm: None,
    embedding: "roberta.embeddings.word_embeddings",
    added: Some(AddedNames {
        positions: "roberta.embeddings.position_embeddings",
        types: "roberta.embeddings.token_type_embeddings",
    }),
    embedding_norm: Some("roberta.embeddings.LayerNorm"),
    head: HeadNames::Classes { dense: "classifier.dense", output: "classifier.out_proj" },
    root: Some("roberta."),
    unused: &["lm_head.", "roberta.pooler.", "roberta.embeddings.position_ids", "roberta.embeddings.token_type_ids"],
};

pub fn read(section: &mut Section) -> ModelConfig {
    let hidden_size = section.usize("hidden_size").at_least(1).at_most(LARGEST).required();
    let heads = section.usize("num_attention_heads").at_least(1).at_most(LARGEST).required().max(1);
    if !hidden_size.is_multiple_of(heads) {
        section.problem("num_attention_heads", format!("{heads} heads cannot share {hidden_size} evenly"));
    }
    let head_dim = (hidden_size / heads).max(1);
    section.only("hidden_act", &[json!("gelu")]);
    section.only("position_embedding_type", &[json!("absolute")]);
    for unsupported in ["is_decoder", "add_cross_attention", "gradient_checkpointing"] {
        section.only(unsupported, &[]);
    }
    section.only("chunk_size_feed_forward", &[json!(0)]);
    section.only("problem_type", &[json!("single_label_classification"), json!("regression")]);
    section.ignore(&["tie_word_embeddings", "finetuning_task", "layer_norm_eps"]);
    // positions begin behind the row of padding
    let first = section.usize("pad_token_id").at_most(LARGEST).or(1) + 1;
    let positions = section.usize("max_position_embeddings").at_least(1).at_most(LARGEST).or(512);
    if positions <= first {
        section
            .problem("max_position_embeddings", format!("the first {first} rows are not positions: more are needed"));
    }
    let share = |section: &mut Section, key: &str, default| {
        section.f64(key).must("must be from 0 to below 1", |p| (0.0..1.0).contains(p)).or(default)
    };
    let hidden_dropout = share(section, "hidden_dropout_prob", 0.1);
    ModelConfig {
        family: "roberta",
        names: NAMES,
        hidden_size,
        intermediate_size: section.usize("intermediate_size").at_least(1).at_most(LARGEST).required(),
        layers: section.usize("num_hidden_layers").at_least(1).at_most(10_000).required(),
        heads,
        kv_heads: heads,
        head_dim,
        activation: Activation::Gelu,
        attention: Rule { causal: false, ..Rule::causal(head_dim) },
        ropes: Vec::new(),
        layer_kinds: Vec::new(),
        vocab_size: section.usize("vocab_size").at_least(1).at_most(LARGEST).required(),
        embedding_scale: 1.0,
        added: Some(AddedRows {
            positions,
            first,
            types: section.usize("type_vocab_size").at_least(1).at_most(LARGEST).or(2),
        }),
        norm_eps: section.f64("layer_norm_eps").positive().or(1e-12),
        norm_offset: 0.0,
        norm_bias: true,
        logit_softcap: None,
        tied: false,
        labels: Some(labels(section)),
        dropouts: Dropouts {
            hidden: hidden_dropout,
            attention: share(section, "attention_probs_dropout_prob", 0.1),
            head: share(section, "classifier_dropout", hidden_dropout),
        },
        initializer_range: section.f64("initializer_range").positive().or(0.02),
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        max_length: positions.saturating_sub(first).max(1),
    }
}

/// The number of classes: as many as `id2label` names, or `num_labels`; two where neither is there. One is a number to be predicted.
fn labels(section: &mut Section) -> usize {
    section.ignore(&["label2id"]);
    let named = match section.value("id2label") {
        Some(Value::Object(map)) => Some(map.len()),
        None => None,
        Some(_) => {
            section.problem("id2label", "expected an object of class names");
            None
        }
    };
    let labels = section.usize("num_labels").at_least(1).at_most(MOST_LABELS).or(named.unwrap_or(2));
    if labels == 0 || labels > MOST_LABELS || named.is_some_and(|named| named != labels) {
        let named = named.unwrap_or(0);
        section.problem("id2label", format!("{named} names for {labels} classes: name each, or leave them out"));
    }
    labels.max(1)
}
