//! The table of methods that the law suites judge: settings, and what each row claims.
//!
//! A new method is one row here. The suites (`laws.rs`, `laws_in_a_model.rs`) read the claims and know no method by name.

use quanta_tune::adapter::Method;
use serde_json::Value;

use super::method;

/// How near a method's start is to the base layer.
#[derive(Clone, Copy, PartialEq)]
pub enum Start {
    /// The same bits.
    Exact,
    /// To rounding.
    Rounded,
}

/// One method with its settings, and what it claims.
pub struct Row {
    /// Name in configs.
    pub name: &'static str,
    /// The keys of a config entry, as JSON.
    pub settings: &'static str,
    /// Whether the start is the base layer to the bit.
    pub start: Start,
    /// Whether initial values are drawn, so that another seed or site gives others.
    pub drawn: bool,
    /// Trainable parameters at a site `(d_in, d_out)`, counted by hand.
    pub parameters: fn(usize, usize) -> usize,
}

const fn row(
    name: &'static str,
    settings: &'static str,
    start: Start,
    drawn: bool,
    parameters: fn(usize, usize) -> usize,
) -> Row {
    Row { name, settings, start, drawn, parameters }
}

/// Gates of dims 4-3-2: (2 * 3)^2 + (2 * 4)^2 + (3 * 4)^2.
const PAIRS: usize = 36 + 64 + 144;
/// Gates (-1,-2), (-2,-1), (-3), (-1,-3) of dims 4-3-2.
const FREE: usize = 36 + 36 + 16 + 64;
/// Gates of 4-3-2 -> 2-3-2: as [`PAIRS`], but the last, on axes 4 and 3, halves its output.
const RECTANGULAR: usize = 36 + 64 + 6 * 12;

/// The table. Sites have sides of 6 to 24, which dims 4-3-2 fit, pad and truncate.
pub const ROWS: &[Row] = &[
    row("quanta", r#"{"dims": [4, 3, 2], "s": "folded"}"#, Start::Rounded, true, |_, _| PAIRS),
    row("quanta", r#"{"dims": [4, 3, 2], "s": "circuit"}"#, Start::Exact, true, |_, _| PAIRS),
    row("quanta", r#"{"dims": [4, 3, 2], "s": "folded", "init": "identity"}"#, Start::Rounded, false, |_, _| PAIRS),
    row("quanta", r#"{"dims": [4, 3, 2], "s": "circuit", "init": "identity"}"#, Start::Exact, false, |_, _| PAIRS),
    row("quanta", r#"{"dims": [4, 3, 2], "s": "circuit", "dropout": 0.3}"#, Start::Exact, true, |_, _| PAIRS),
    row(
        "quanta",
        r#"{"plan": "4-3-2: (-1,-2) (-2,-1) (-3) (-1,-3)", "s": "folded", "dropout": 0.2}"#,
        Start::Rounded,
        true,
        |_, _| FREE,
    ),
    row(
        "quanta",
        r#"{"plan": "4-3-2: (-1,-2) (-2,-1) (-3) (-1,-3)", "s": "circuit", "init": "identity"}"#,
        Start::Exact,
        false,
        |_, _| FREE,
    ),
    row("quanta", r#"{"plan": "4-3-2 -> 2-3-2", "s": "folded"}"#, Start::Rounded, true, |_, _| RECTANGULAR),
    row("quanta", r#"{"plan": "4-3-2 -> 2-3-2", "s": "circuit", "dropout": 0.2}"#, Start::Exact, true, |_, _| {
        RECTANGULAR
    }),
    row("lora", r#"{"r": 1}"#, Start::Exact, true, |d_in, d_out| d_in + d_out),
    row("lora", r#"{"r": 4, "alpha": 6.0, "dropout": 0.3}"#, Start::Exact, true, |d_in, d_out| 4 * (d_in + d_out)),
];

impl Row {
    /// The method with the row's settings.
    pub fn method(&self) -> Method {
        method(self.name, &serde_json::from_str::<Value>(self.settings).unwrap())
    }

    /// The row in a failure's message.
    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.settings)
    }
}
