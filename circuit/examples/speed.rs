//! Times a circuit against the frozen linear layer that it adapts: `cargo run --release --example speed -- [tokens]`.
//!
//! For every shape: the frozen layer's forward and forward + dx (two matrix products by faer), the circuit's forward, and its forward +
//! backward (dx and all gate gradients) as a share of the frozen layer, and the same in plain einsum order with
//! permutations; medians of several runs in one process. GFLOP/s of forward + backward count three applications.

use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use quanta_circuit::{Plan, apply, backward, init, instruction_set, permuted};
use rayon::prelude::*;

/// `y = x W^t` (`[tokens, d_out]`) or, transposed, `dx = dy W` (`[tokens, d_in]`), for a row-major weight `[d_out, d_in]`: token blocks over threads.
fn frozen(x: &[f32], weight: &[f32], [d_in, d_out]: [usize; 2], transposed: bool, y: &mut [f32]) {
    let weight = MatRef::from_row_major_slice(weight, d_out, d_in);
    let (from, to, right) = if transposed { (d_out, d_in, weight) } else { (d_in, d_out, weight.transpose()) };
    let block = (x.len() / from).div_ceil(rayon::current_num_threads());
    x.par_chunks(block * from).zip(y.par_chunks_mut(block * to)).for_each(|(x, y)| {
        let tokens = x.len() / from;
        let (x, y) = (MatRef::from_row_major_slice(x, tokens, from), MatMut::from_row_major_slice_mut(y, tokens, to));
        matmul(y, Accum::Replace, x, right, 1.0, Par::Seq);
    });
}

fn median(repeats: usize, mut work: impl FnMut()) -> f64 {
    work();
    let mut seconds: Vec<f64> = (0..repeats)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[repeats / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tokens: usize = std::env::args().nth(1).map_or(Ok(512), |argument| argument.parse())?;
    println!("{tokens} tokens, f32, {}, {} threads", instruction_set::<f32>(), rayon::current_num_threads());
    println!(
        "{:<10} {:>12} {:>11} {:>8} {:>8} {:>8} {:>8} {:>7} {:>7} {:>9} {:>7}",
        "dims",
        "d_in>d_out",
        "frozen ms",
        "GFLOP/s",
        "fwd ms",
        "GFLOP/s",
        "f+b ms",
        "GFLOP/s",
        "share",
        "einsum ms",
        "gain"
    );
    for (dims, d_in, d_out) in [
        (&[16, 8, 8, 4][..], 4096, 4096),
        (&[16, 16, 16], 4096, 4096),
        (&[8, 8, 8, 8], 4096, 4096),
        (&[16, 16, 4, 4], 4096, 4096),
        (&[16, 8, 8, 5], 5120, 5120),
        (&[16, 8, 8, 8], 8192, 1024),
        (&[9, 8, 8], 576, 576),
    ] {
        let plan = Plan::all_pairs(dims)?;
        let mut state = 1u64;
        let mut uniform01 = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let gates: Vec<f32> = init::uniform(&plan, &mut uniform01);
        let mut numbers = |len: usize| -> Vec<f32> { (0..len).map(|_| uniform01() as f32 - 0.5).collect() };
        let (x, dy, weight) = (numbers(tokens * d_in), numbers(tokens * d_out), numbers(d_in * d_out));
        let (mut y, mut dx, mut dgates) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; gates.len()]);
        let frozen = median(5, || {
            frozen(&x, &weight, [d_in, d_out], false, &mut y);
            frozen(&dy, &weight, [d_in, d_out], true, &mut dx);
        });
        let forward = median(7, || apply(&plan, &gates, &x, d_in, &mut y, d_out, 1.0));
        let both = median(7, || {
            apply(&plan, &gates, &x, d_in, &mut y, d_out, 1.0);
            backward(&plan, &gates, &x, d_in, &dy, d_out, 1.0, Some(&mut dx), Some(&mut dgates));
        });
        let mut sums = vec![0.0; gates.len()];
        let einsum = median(3, || {
            permuted::apply(&plan, &gates, &x, d_in, &mut y, d_out, 1.0);
            permuted::backward(&plan, &gates, &x, d_in, &dy, d_out, 1.0, &mut dx, &mut sums);
        });
        let flops = plan.flops_per_token() as f64 * tokens as f64 / 1e9;
        let frozen_flops = 4.0 * (tokens * d_in * d_out) as f64 / 1e9;
        let name = dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("-");
        println!(
            "{name:<10} {:>12} {:>11.2} {:>8.0} {:>8.2} {:>8.0} {:>8.2} {:>7.0} {:>6.1}% {:>9.2} {:>6.1}x",
            format!("{d_in}>{d_out}"),
            frozen * 1e3,
            frozen_flops / frozen,
            forward * 1e3,
            flops / forward,
            both * 1e3,
            3.0 * flops / both,
            100.0 * both / frozen,
            einsum * 1e3,
            einsum / both
        );
    }
    Ok(())
}
