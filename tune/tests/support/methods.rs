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
    /// To the rounding of bf16.
    Bf16,
    /// Not at all, and says so.
    Elsewhere,
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
    row("quanta", r#"{"dims": [4, 3, 2], "s": "reference"}"#, Start::Bf16, true, |_, _| PAIRS),
    row(
        "quanta",
        r#"{"dims": [4, 3, 2], "dims_pattern": {"q_proj": [6, 4]}, "s": "folded"}"#,
        Start::Rounded,
        true,
        |_, _| 24 * 24,
    ),
    row("lora", r#"{"r": 1}"#, Start::Exact, true, |d_in, d_out| d_in + d_out),
    row("lora", r#"{"r": 4, "alpha": 6.0, "dropout": 0.3}"#, Start::Exact, true, |d_in, d_out| 4 * (d_in + d_out)),
    row(
        "lora",
        r#"{"r": 3, "rslora": true, "rank_pattern": {"self_attn.q_proj": 2}}"#,
        Start::Exact,
        true,
        |d_in, d_out| 2 * (d_in + d_out),
    ),
    row("dora", r#"{"r": 2, "alpha": 6.0, "dropout": 0.3}"#, Start::Rounded, true, |d_in, d_out| {
        2 * (d_in + d_out) + d_out
    }),
    row("mora", r#"{"r": 1, "variant": "sharing"}"#, Start::Exact, false, |d_in, d_out| side(d_in + d_out).pow(2)),
    row("mora", r#"{"r": 1, "variant": "rotation"}"#, Start::Exact, false, |d_in, d_out| {
        (side(d_in + d_out) / 2 * 2).pow(2)
    }),
    row("krona", r#"{"decompose_factor": 3, "scale": 0.5}"#, Start::Exact, true, |d_in, d_out| {
        let ([a, b], [c, d]) = (split(d_in), split(d_out));
        a * c + b * d
    }),
    row("krona", r#"{"factor": [1, 2]}"#, Start::Exact, true, |d_in, d_out| 2 + d_in / 2 * d_out),
    row("loretta-rep", r#"{"r": 4, "tt_rank": 3, "alpha": 2.0}"#, Start::Exact, true, train_of_factors),
    row("loretta-rep", r#"{"r": 4, "tt_rank": 3, "init": "reference"}"#, Start::Elsewhere, true, train_of_factors),
    row("loretta-adp", r#"{"bottleneck": 4, "tt_rank": 2, "activation": "gelu"}"#, Start::Exact, true, |width, _| {
        2 * train(&[parts(width), vec![4]].concat(), 2) + 4 + width
    }),
    row(
        "loretta-adp",
        r#"{"bottleneck": 4, "tt_rank": 2, "init": "reference"}"#,
        Start::Elsewhere,
        true,
        |width, _| 2 * train(&[parts(width), vec![4]].concat(), 2) + 4 + width,
    ),
    row("series", r#"{"bottleneck": 5}"#, Start::Exact, true, |width, _| 10 * width),
    row(
        "series",
        r#"{"bottleneck": 3, "activation": "silu", "init": "reference"}"#,
        Start::Elsewhere,
        true,
        |width, _| 6 * width,
    ),
    row("parallel", r#"{"bottleneck": 5, "scale": 2.0, "activation": "gelu"}"#, Start::Exact, true, |d_in, d_out| {
        5 * (d_in + d_out)
    }),
    row("loha", r#"{"r": 2, "alpha": 3.0}"#, Start::Exact, true, |d_in, d_out| 4 * (d_in + d_out)),
    row("miss", r#"{"r": 5, "dropout": 0.3}"#, Start::Exact, false, |_, d_out| 5 * d_out),
    row("magnitude", "{}", Start::Rounded, false, |_, d_out| d_out),
];

/// Side of a square with as many elements as a rank-one pair of factors.
fn side(sides: usize) -> usize {
    (sides as f64).sqrt().round() as usize
}

/// How a side is split by a wanted factor of 3: 24 = 3 * 8, 12 = 3 * 4, 6 = 3 * 2; 22 = 2 * 11, 23 and 17 are primes.
fn split(side: usize) -> [usize; 2] {
    match side {
        22 => [2, 11],
        17 | 23 => [1, side],
        _ => [3, side / 3],
    }
}

/// How a side is cut into parts up to 16.
fn parts(side: usize) -> Vec<usize> {
    match side {
        24 => vec![12, 2],
        22 => vec![11, 2],
        side => vec![side],
    }
}

/// Elements of the cores of a train with these axes.
fn train(axes: &[usize], rank: usize) -> usize {
    let last = axes.len() - 1;
    let bond = |open: bool| if open { 1 } else { rank };
    axes.iter().enumerate().map(|(k, n)| bond(k == 0) * n * bond(k == last)).sum()
}

fn train_of_factors(d_in: usize, d_out: usize) -> usize {
    train(&[parts(d_in), vec![4]].concat(), 3) + train(&[vec![4], parts(d_out)].concat(), 3)
}

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
