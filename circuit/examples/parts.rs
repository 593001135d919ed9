//! temp
use quanta_circuit::*;
use std::time::Instant;
fn median(repeats: usize, mut work: impl FnMut()) -> f64 {
    work();
    let mut s: Vec<f64> = (0..repeats).map(|_| { let t = Instant::now(); work(); t.elapsed().as_secs_f64() }).collect();
    s.sort_by(f64::total_cmp);
    s[0] * 1e3
}
fn main() {
    // peak
    let t = Instant::now();
    let mut acc = [1.0f64; 1];
    let mut n = 0u64;
    while n < 400_000_000 { acc[0] = std::hint::black_box(acc[0]); n += 1; }
    let _ = acc;
    println!("loop {:?}", t.elapsed());
    let tokens: usize = std::env::args().nth(1).map_or(512, |a| a.parse().unwrap());
    for (dims, d_in, d_out) in [
        (&[16usize, 8, 8, 4][..], 4096usize, 4096usize), (&[16, 16, 16], 4096, 4096), (&[8, 8, 8, 8], 4096, 4096), (&[16, 8, 8, 5], 5120, 5120),
        (&[16, 8, 8, 8], 8192, 1024), (&[9, 8, 8], 576, 576),
    ] {
        let plan = Plan::all_pairs(dims).unwrap();
        let gates: Vec<f32> = (0..plan.parameters()).map(|i| ((i * 7919) % 1000) as f32 / 5000.0 - 0.1).collect();
        let x: Vec<f32> = (0..tokens * d_in).map(|i| ((i * 7919) % 1000) as f32 / 1000.0).collect();
        let dy: Vec<f32> = (0..tokens * d_out).map(|i| ((i * 7919) % 1000) as f32 / 1000.0).collect();
        let (mut y, mut dx, mut dg) = (dy.clone(), x.clone(), gates.clone());
        let f = median(40, || apply(&plan, &gates, &x, d_in, &mut y, d_out, 1.0));
        let b0 = median(40, || backward(&plan, &gates, &x, d_in, &dy, d_out, 1.0, Some(&mut dx), None));
        let b1 = median(40, || backward(&plan, &gates, &x, d_in, &dy, d_out, 1.0, None, Some(&mut dg)));
        let b2 = median(40, || backward(&plan, &gates, &x, d_in, &dy, d_out, 1.0, Some(&mut dx), Some(&mut dg)));
        println!("{dims:?} fwd {f:.2} dx {b0:.2} dg {b1:.2} both {b2:.2}  GF/s fwd {:.0}", plan.flops_per_token() as f64 * tokens as f64 / f / 1e6);
    }
}
