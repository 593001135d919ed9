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
    let rows: [&[V::Element]; R] = std::array::from_fn(|r| &gates[rows[r]..]);
    let columns = packed.as_chunks_mut::<R>().0.iter_mut();
    if V::ELEMENTS == 1 {
        for (column, &col) in columns.zip(cols) {
            *column = std::array::from_fn(|r| rows[r][col]);
        }
        return;
    }
    for (column, cols) in columns.zip(cols.chunks(2)) {
        let second = |row: &[V::Element]| cols.get(1).map_or(V::Element::ZERO, |&col| row[col]);
        *column = std::array::from_fn(|r| V::lane([rows[r][cols[0]], second(rows[r])]));
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
    use crate::kernel::vector::Portable;

    /// [`pack`] in blocks of four, or of eight where that is what a register asks for.
    fn visits_every_value_once<V: Vector<Element = f64>>() {
        let plan = Plan::all_pairs(&[3, 5, 2]).unwrap();
        let gates: Vec<f64> = (0..plan.parameters()).map(|i| i as f64).collect();
        for step in Schedule::new(&plan, 30, 30).steps {
            let ([rows, cols], len) = (step.places(), packed_len::<V>(step.rows(), step.cols()));
            let (mut packed, mut transposed) = (vec![-1.0; len], vec![-1.0; len]);
            pack::<V>(&gates, &rows, &cols, &mut packed);
            pack::<V>(&gates, &cols, &rows, &mut transposed);
            packed.sort_by(f64::total_cmp);
            transposed.sort_by(f64::total_cmp);
            let expected = &gates[step.offset..step.offset + len];
            assert_eq!((&packed[..], &transposed[..]), (expected, expected));
        }
    }

    #[test]
    fn packing_visits_every_value_once() {
        visits_every_value_once::<Portable<f64, 2>>();
    }
}
