//! `quanta bench gemm`: the frozen product of training, `y = x W^T` and `dx = dy W`, in turn with the machine's arithmetic limit in one run.
//!
//! The limit is independent f32 fused multiply-adds on the same threads, see [`super::limit`].

use std::fmt;
use std::str::FromStr;

use super::clock::{median, seconds};
use super::limit;
use crate::ops::{Storage, Weight};
use crate::run::source::training_workspace;
use crate::run::{RunError, memory};
use crate::tensor::{Stream, product_kernel};
use crate::weights::round_to_bf16;

/// The shape of a product, written `MxNxK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// M: rows of x and y, the tokens of a batch.
    pub rows: usize,
    /// N: output features.
    pub outputs: usize,
    /// K: input features.
    pub inputs: usize,
}

impl Product {
    /// What is measured where nothing is asked for: a large square, a projection of a 7B model, both ways of a small model's MLP, and a head.
    pub const DEFAULTS: [Self; 5] = [
        Self { rows: 2048, outputs: 2048, inputs: 2048 },
        Self { rows: 512, outputs: 4096, inputs: 4096 },
        Self { rows: 2048, outputs: 576, inputs: 1536 },
        Self { rows: 2048, outputs: 1536, inputs: 576 },
        Self { rows: 512, outputs: 32_000, inputs: 768 },
    ];

    /// Floating-point operations of `y = x W^T`, and of `dx = dy W`.
    pub fn flops(&self) -> f64 {
        2.0 * self.rows as f64 * self.outputs as f64 * self.inputs as f64
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.rows, self.outputs, self.inputs)
    }
}

impl FromStr for Product {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes: Option<Vec<usize>> = text
            .split('x')
            .map(|size| size.parse::<u32>().ok().filter(|&size| size > 0).map(|size| size as usize))
            .collect();
        match sizes.as_deref() {
            Some(&[rows, outputs, inputs]) => Ok(Self { rows, outputs, inputs }),
            _ => Err("write rows x output features x input features, such as 512x4096x4096".to_owned()),
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct GemmBench {
    /// The shape.
    pub product: Product,
    /// Whether the weight is held as bf16.
    pub bf16: bool,
    /// Whether rows are rounded to bf16 before they meet it.
    pub rounded: bool,
    /// Measurements of each; the median counts.
    pub repeats: usize,
    /// Threads; 0: one for each processor.
    pub threads: usize,
}

/// Medians of what was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct GemmTimes {
    /// Instruction set of the products.
    pub kernel: &'static str,
    /// Threads in use.
    pub threads: usize,
    /// Seconds of `y = x W^T`.
    pub forward: f64,
    /// Seconds of `dx = dy W`.
    pub backward: f64,
    /// Operations a second of independent f32 fused multiply-adds.
    pub limit: f64,
}

/// Measures a product.
///
/// # Errors
/// When memory is short or the threads cannot be started.
pub fn gemm(bench: &GemmBench) -> Result<GemmTimes, RunError> {
    let Product { rows, outputs, inputs } = bench.product;
    let size = |a: usize, b: usize, bytes: u64| (a as u64).saturating_mul(b as u64).saturating_mul(bytes);
    let both = size(rows, outputs, 4).saturating_add(size(rows, inputs, 4)).saturating_mul(2);
    // numbers are drawn in f32 and rounded afterwards
    memory::check_bytes(size(outputs, inputs, if bench.bf16 { 6 } else { 4 }).saturating_add(both))?;
    let workspace = training_workspace::<f32>(bench.threads, bench.rounded.then_some("--rounded"))?;
    let mut stream = Stream::new(0, "bench", "gemm");
    let mut numbers = |count: usize| -> Vec<f32> { (0..count).map(|_| stream.normal() as f32).collect() };
    let drawn = numbers(outputs * inputs);
    let storage = match bench.bf16 {
        true => Storage::Bf16(drawn.iter().map(|&w| round_to_bf16(f64::from(w))).collect()),
        false => Storage::Dense(drawn),
    };
    let weight = Weight::new(storage, outputs, inputs);
    let (mut x, mut dy) = (workspace.matrix(rows, inputs), workspace.matrix(rows, outputs));
    x.copy_from(&numbers(rows * inputs));
    dy.copy_from(&numbers(rows * outputs));
    let mut dx = workspace.matrix(rows, inputs);
    let mut measured: [Vec<f64>; 3] = Default::default();
    workspace.run_awake(|| {
        // the first round warms caches and buffers and is not counted
        for round in 0..=bench.repeats {
            let forward = seconds(|| drop(weight.forward(&x, &workspace)));
            let backward = seconds(|| weight.backward(&dy, &mut dx, false, &workspace));
            let limit = limit::multiply_adds();
            if round > 0 {
                measured.iter_mut().zip([forward, backward, limit]).for_each(|(list, number)| list.push(number));
            }
        }
    });
    let [forward, backward, limit] = measured.map(|mut list| median(&mut list));
    let kernel = if bench.bf16 { workspace.bf16_products().kernel(rows) } else { product_kernel() };
    Ok(GemmTimes { kernel, threads: workspace.threads(), forward, backward, limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_as_they_are_written() {
        for product in Product::DEFAULTS {
            assert_eq!(product.to_string().parse(), Ok(product));
        }
        for text in ["", "3x4", "3x4x5x6", "3x0x5", "3x-4x5", "axbxc", "3x4x5000000000"] {
            assert!(text.parse::<Product>().is_err(), "{text}");
        }
    }
}
