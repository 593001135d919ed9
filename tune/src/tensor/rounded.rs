//! Rows rounded to bf16: the coarser arithmetic of products with bf16 weights, which PyTorch's products of bf16 tensors have, too.
//!
//! A number keeps eight bits, so that products are off by 2^-9 of their size each; sums are in f32. It takes half the instructions of two parts on a matrix
//! unit, and of f32 where the processor has AVX-512-BF16, and is too coarse for what `tests/bf16.rs` asks of the others: it runs only where it is asked for.

use quanta_circuit::unit::{self, nearest};

use super::vector::widest;

/// Whether the processor multiplies pairs of bf16 numbers in vectors, AVX-512-BF16, and has the instructions around them.
pub(crate) fn has_pairs() -> bool {
    super::vector::width() == 512 && unit::has_pairs()
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
