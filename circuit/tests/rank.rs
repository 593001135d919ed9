//! Theorem 6.2 on many circuits, exactly: the rank over a prime field lies within the bounds.
//!
//! `QUANTA_RANK_CASES` sets the number of circuits (10,000 by default).

use quanta_circuit::Plan;
use quanta_circuit::theory::rank::{PRIME, bounds, exact_operator, exact_rank};

#[test]
fn exact_rank_lies_within_the_bounds() {
    let cases: usize = std::env::var("QUANTA_RANK_CASES").map_or(10_000, |cases| cases.parse().unwrap());
    let mut state = 1u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let (mut lower, mut upper, mut strict) = (0, 0, 0);
    for _ in 0..cases {
        let axes = 2 + below(4);
        let dims: Vec<usize> = (0..axes).map(|_| 2 + below(if axes > 3 { 1 } else { 3 })).collect();
        let plan = Plan::all_pairs(&dims).unwrap();
        let (mut gates, mut ranks) = (Vec::new(), Vec::new());
        for gate in plan.gates() {
            // Random integer gates of planted rank: mostly full, sometimes low.
            let size = gate.rows();
            let rank = if below(3) == 0 { 1 + below(size) } else { size };
            let factor: Vec<u64> = (0..2 * size * rank).map(|_| below(19) as u64).collect();
            let (left, right) = factor.split_at(size * rank);
            let entry = |i: usize| {
                (0..rank).map(|k| left[i / size * rank + k] * right[k * size + i % size]).sum::<u64>() % PRIME
            };
            let values: Vec<u64> = (0..size * size).map(entry).collect();
            ranks.push(exact_rank(&values, size, size).unwrap());
            gates.extend(values);
        }
        let bounds = bounds(&plan, &ranks).unwrap();
        let rank = exact_rank(&exact_operator(&plan, &gates).unwrap(), plan.out_len(), plan.in_len()).unwrap();
        assert!(bounds.lower <= rank && rank <= bounds.upper, "{plan} {ranks:?}: rank {rank}, {bounds:?}");
        lower += usize::from(rank == bounds.lower);
        upper += usize::from(rank == bounds.upper);
        strict += usize::from(bounds.lower < rank && rank < bounds.upper);
    }
    println!("{cases} circuits: rank at the lower bound {lower}, at the upper {upper}, strictly between {strict}");
    assert!(lower > 0 && upper > lower && lower < cases, "the circuits must reach both bounds and differ from them");
}
