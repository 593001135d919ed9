//! Gates in the order in which the innermost loop reads them: blocks of rows, each column by column.

use super::vector::Vector;
use crate::Real;

/// Length of a packed gate of so many rows and columns; its transpose has the same.
pub(crate) fn packed_len<V: Vector>(rows: usize, cols: usize) -> usize {
    rows.next_multiple_of(V::ELEMENTS) * cols.next_multiple_of(V::ELEMENTS) / V::ELEMENTS
}

/// Packs the matrix whose element `[r, k]` is `gates[rows[r] + cols[k]]` in blocks of [`Vector::ROWS`] rows (then 4, 2, 1), each column by column, as many of
/// them together as an operand's lane holds.
pub(crate) fn pack<V: Vector>(gates: &[V::Element], mut rows: &[usize], cols: &[usize], mut packed: &mut [V::Element]) {
    while !rows.is_empty() {
        let height = row_block(rows.len(), V::ROWS);
        let (first, others) = rows.split_at(height);
        let (here, rest) = packed.split_at_mut(height * cols.len().div_ceil(V::ELEMENTS));
        match height {
            8 => pack_block::<V, 8>(gates, first, cols, here),
            4 => pack_block::<V, 4>(gates, first, cols, here),
            2 => pack_block::<V, 2>(gates, first, cols, here),
            _ => pack_block::<V, 1>(gates, first, cols, here),
        }
        (rows, packed) = (others, rest);
    }
}

/// [`pack`] for a block of `R` rows.
fn pack_block<V: Vector, const R: usize>(
    gates: &[V::Element],
    rows: &[usize],
    cols: &[usize],
    packed: &mut [V::Element],
) {
    let neighbours = |places: &[usize]| places.windows(2).all(|pair| pair[1] == pair[0] + 1);
    let (columns, pairs) = (packed.as_chunks_mut::<R>().0.iter_mut(), cols.chunks(V::ELEMENTS));
    // what lies side by side is moved as one, which is several times as fast
    if neighbours(rows) {
        let values = |col: usize| gates[rows[0] + col..].first_chunk::<R>().expect("every row has this column");
        for (column, pair) in columns.zip(pairs) {
            let (first, second) = (*values(pair[0]), pair.get(1).map_or([V::Element::ZERO; R], |&col| *values(col)));
            *column = std::array::from_fn(|r| V::lane([first[r], second[r]]));
        }
        return;
    }
    let rows: [&[V::Element]; R] = std::array::from_fn(|r| &gates[rows[r]..]);
    for (column, pair) in columns.zip(pairs) {
        let second = |row: &[V::Element]| pair.get(1).map_or(V::Element::ZERO, |&col| row[col]);
        *column = std::array::from_fn(|r| V::lane([rows[r][pair[0]], second(rows[r])]));
    }
}

/// Height of the next block of rows when `left` rows are left: `block` while they last, then powers of two.
#[inline(always)]
pub(crate) fn row_block(left: usize, block: usize) -> usize {
    if left >= block {
        block
    } else if left >= 4 {
        4
    } else if left >= 2 {
        2
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plan;
    use crate::kernel::schedule::Schedule;
    use crate::kernel::unit::low;
    use crate::kernel::vector::{Portable, plain_pairs::PlainPairs};

    /// In blocks of as many rows as the register asks for.
    fn visits_every_value_once<V: Vector>() {
        let plan = Plan::all_pairs(&[3, 5, 2]).unwrap();
        let gates: Vec<V::Element> = (0..plan.parameters()).map(|i| V::Element::from_f64(i as f64)).collect();
        let sorted = |packed: &[V::Element]| {
            let mut values: Vec<f64> = packed.iter().map(|value| value.to_f64()).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        for step in Schedule::new(&plan, 30, 30).steps {
            let ([rows, cols], len) = (step.places(), packed_len::<V>(step.rows(), step.cols()));
            let mut packed = vec![V::Element::from_f64(-1.0); len];
            let mut transposed = packed.clone();
            pack::<V>(&gates, &rows, &cols, &mut packed);
            pack::<V>(&gates, &cols, &rows, &mut transposed);
            let expected = sorted(&gates[step.offset..step.offset + len]);
            assert_eq!([sorted(&packed), sorted(&transposed)], [expected.clone(), expected]);
        }
    }

    #[test]
    fn packing_visits_every_value_once() {
        visits_every_value_once::<Portable<f64, 2>>();
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        visits_every_value_once::<crate::kernel::vector::Avx512F32>();
    }

    #[test]
    fn pairs_hold_neighbouring_columns_in_blocks_of_rows() {
        // 5 x 3 in a block of four rows and one of one, a zero beside the third column
        let gates: Vec<f32> = (1..16).map(|i| i as f32).collect();
        let (rows, cols) = ([0, 3, 6, 9, 12], [0, 1, 2]);
        let mut packed = vec![0.0; packed_len::<PlainPairs>(5, 3)];
        pack::<PlainPairs>(&gates, &rows, &cols, &mut packed);
        let pair = |lane: &f32| [low(lane.to_bits()), low(lane.to_bits() >> 16)];
        let expected = [[1, 2], [4, 5], [7, 8], [10, 11], [3, 0], [6, 0], [9, 0], [12, 0], [13, 14], [15, 0]];
        assert_eq!(packed[..10].iter().map(pair).collect::<Vec<_>>(), expected.map(|pair| pair.map(|i| i as f32)));
        // the transpose has as many words, though it needs fewer: 3 x 5 in blocks of two and one
        pack::<PlainPairs>(&gates, &cols, &rows, &mut packed);
        let expected = [[1, 4], [2, 5], [7, 10], [8, 11], [13, 0], [14, 0], [3, 6], [9, 12], [15, 0]];
        assert_eq!(packed[..9].iter().map(pair).collect::<Vec<_>>(), expected.map(|pair| pair.map(|i| i as f32)));
    }
}
