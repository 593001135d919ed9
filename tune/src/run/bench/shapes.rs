//! Shapes of models by name, for benchmarks on random weights, and the axes of a circuit that fits each.

use serde_json::json;

use crate::config::Problems;
use crate::model::{ModelConfig, families, read_config};
use crate::run::RunError;

/// A model's shape by name, and the axes of a circuit that fits it.
pub(super) struct Shape {
    name: &'static str,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    tied: bool,
    /// Axes whose product is the hidden size.
    pub(super) dims: &'static [usize],
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "tiny-288",
        hidden: 288,
        intermediate: 768,
        layers: 6,
        heads: 6,
        kv_heads: 6,
        vocab: 32_000,
        tied: false,
        dims: &[8, 6, 6],
    },
    Shape {
        name: "smollm2-135m",
        hidden: 576,
        intermediate: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        vocab: 49_152,
        tied: true,
        dims: &[9, 8, 8],
    },
    Shape {
        name: "llama2-7b-2l",
        hidden: 4096,
        intermediate: 11_008,
        layers: 2,
        heads: 32,
        kv_heads: 32,
        vocab: 32_000,
        tied: false,
        dims: &[16, 8, 8, 4],
    },
];

/// Names of the shapes.
pub fn shapes() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.name)
}

/// The shape of that name.
///
/// # Errors
/// When there is none.
pub(super) fn shape(name: &str) -> Result<&'static Shape, RunError> {
    SHAPES.iter().find(|shape| shape.name == name).ok_or_else(|| {
        let known: Vec<&str> = shapes().collect();
        RunError::Usage(format!("there is no shape `{name}`: choose one of {}", known.join(", ")))
    })
}

impl Shape {
    /// The shape as a model.
    pub(super) fn config(&self) -> ModelConfig {
        let value = json!({
            "model_type": families()[0].model_type, "hidden_size": self.hidden, "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab, "tie_word_embeddings": self.tied, "max_position_embeddings": 2048,
        });
        let map = value.as_object().cloned().unwrap_or_default();
        // the table's shapes are complete: a test reads all of them
        read_config(map, &Problems::new()).expect("a shape of the table is a model")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_a_model_that_its_circuit_fits() {
        for shape in &SHAPES {
            assert_eq!(shape.dims.iter().product::<usize>(), shape.config().hidden_size);
        }
        assert_eq!(SHAPES[1].config().parameters(), 134_515_008);
        assert!(shape("smollm2-135m").is_ok() && shape("smollm").is_err());
    }
}
