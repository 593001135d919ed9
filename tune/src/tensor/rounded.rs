//! Rows rounded to bf16: the coarser arithmetic of products with bf16 weights, which PyTorch's products of bf16 tensors have, too.
//!
//! A number keeps eight bits, so that products are off by 2^-9 of their size each; sums are in f32. It takes half the instructions of two parts on a matrix
//! unit, and of f32 where the processor has AVX-512-BF16, and is too coarse for what `tests/bf16.rs` asks of the others: it runs only where it is asked for.
//! Products round the rows that they are given; rows that nothing else reads may be rounded before, by who makes them ([`RoundedRows`]).

use std::any::TypeId;

use quanta_circuit::unit::{self, SIDE, nearest};
use rayon::prelude::*;

use super::vector::widest;
use super::{Bf16Products, Matrix, Real, Rounder, Workspace};

/// Rows that one parallel task makes and rounds.
const BLOCK: usize = 16;

/// Whether the processor multiplies pairs of bf16 numbers in vectors, AVX-512-BF16, and has the instructions around them.
pub(crate) fn has_pairs() -> bool {
    super::vector::width() == 512 && unit::has_pairs()
}

/// Rows rounded to bf16 where they were made, while they are in the nearest cache: for products in vectors of pairs ([`Rounder::Avx512`]), and for nothing
/// else.
///
/// A matrix `[rows, cols]` whose rows begin with their pairs, half as many words; what is behind them is left over.
pub(crate) struct RoundedRows<T: Real>(Matrix<T>);

impl<T: Real> RoundedRows<T> {
    /// Whether products of so many rows with bf16 weights are made of such rows.
    pub(crate) fn taken(rows: usize, workspace: &Workspace<T>) -> bool {
        let vectors = workspace.bf16_products() == Bf16Products::Rounded(Rounder::Avx512);
        vectors && rows >= SIDE && TypeId::of::<T>() == TypeId::of::<f32>()
    }

    /// Rows of matrices of one shape: `make` is given the index of a row and the row of each, writes or changes them, and they are rounded.
    ///
    /// # Panics
    /// When the shapes differ, or the type is not f32 on a machine with AVX-512-BF16.
    pub(crate) fn made<const N: usize>(
        mut matrices: [Matrix<T>; N],
        make: impl Fn(usize, [&mut [T]; N]) + Sync,
    ) -> [Self; N] {
        assert!(has_pairs() && TypeId::of::<T>() == TypeId::of::<f32>(), "rows of f32, and AVX-512-BF16");
        let [rows, cols] = matrices.first().map_or([0; 2], |first| [first.rows(), first.cols()]);
        assert!(matrices.iter().all(|matrix| [matrix.rows(), matrix.cols()] == [rows, cols]), "matrices of one shape");
        if rows * cols > 0 {
            let mut blocks = matrices.each_mut().map(|matrix| matrix.data_mut().chunks_mut(BLOCK * cols));
            let next = |_| blocks.each_mut().map(|blocks| blocks.next().expect("as many blocks as rows"));
            let tasks: Vec<_> = (0..rows.div_ceil(BLOCK)).map(next).collect();
            tasks.into_par_iter().with_max_len(1).enumerate().for_each(|(block, parts)| {
                let mut parts = parts.map(|part| part.chunks_exact_mut(cols));
                for row in block * BLOCK..rows.min((block + 1) * BLOCK) {
                    let mut here = parts.each_mut().map(|part| part.next().expect("a row of the block"));
                    make(row, here.each_mut().map(|row| &mut **row));
                    here.into_iter().for_each(round_in_place);
                }
            });
        }
        matrices.map(Self)
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.0.rows()
    }

    /// The matrix whose rows begin with pairs.
    pub(super) fn words(&self) -> &Matrix<T> {
        &self.0
    }
}

/// A row's pairs take the place of its first half.
fn round_in_place<T: Real>(row: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    super::pack::round_row(row);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

widest! {
    /// A row as pairs of bf16 numbers, the earlier one in the lower half of its word; a zero beside the last of an odd number.
    pub(crate) fn round_pairs(row: &[f32], words: &mut [u32]) {
        let (pairs, last) = row.as_chunks::<2>();
        for (word, [even, odd]) in words.iter_mut().zip(pairs) {
            *word = nearest(*even) | nearest(*odd) << 16;
        }
        if let [last] = last {
            words[pairs.len()] = nearest(*last);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::tensor::Stream;

    #[test]
    fn numbers_round_as_elsewhere() {
        let mut bits = vec![0, 1, 0x3f80_8000, 0x3f81_8000, 0x7f7f_7fff, 0x7f7f_8000, 0x7f80_0000, 0x7f80_0001, !0];
        let mut stream = Stream::new(5, "test", "bits");
        bits.extend((0..10_000).map(|_| stream.below(1 << 32) as u32));
        for x in bits.into_iter().flat_map(|bits| [bits, bits ^ 0x8000_0000]).map(f32::from_bits) {
            assert_eq!(nearest(x), u32::from(bf16::from_f32(x).to_bits()), "{x:e}");
        }
        let mut words = [0; 2];
        round_pairs(&[1.0, -2.0, 3.0], &mut words);
        assert_eq!(words, [0xc000_3f80, 0x4040]);
    }
}
