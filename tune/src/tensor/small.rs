//! Products of small matrices that both change, as attention has them, for the calling thread: in the compute type, or, where rows are rounded
//! ([`super::rounded`]) and the processor has AVX-512-BF16, of both operands rounded to bf16, with half the multiplications.

#[cfg(target_arch = "x86_64")]
use std::any::Any;

#[cfg(target_arch = "x86_64")]
use super::{Bf16Products, Rounder};
use super::{MatMut, MatRef, Real, Workspace, matmul_here};

/// `dst = scale * a b`, or `dst += scale * a b` when `accumulate`, with any strides: [`matmul_here`], or its like of operands rounded to bf16, products exact
/// and sums in f32, where `workspace` rounds rows in vectors of pairs. Subnormal numbers count as zero there.
///
/// # Panics
/// As [`matmul_here`].
pub(crate) fn small_product<T: Real>(
    dst: MatMut<'_, T>,
    accumulate: bool,
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    scale: T,
    workspace: &Workspace<T>,
) {
    #[cfg(target_arch = "x86_64")]
    if workspace.bf16_products() == Bf16Products::Rounded(Rounder::Avx512)
        && let (Some(a), Some(b)) = (a.into_f32(), b.into_f32())
        && let Some(workspace) = (workspace as &dyn Any).downcast_ref()
    {
        let dst = dst.into_f32().expect("T is f32, as a showed");
        return pairs::product(dst, accumulate, a, b, scale.to_f64() as f32, workspace);
    }
    let _ = workspace;
    matmul_here(dst, accumulate, a, b, scale);
}

#[cfg(target_arch = "x86_64")]
mod pairs {
    //! The left operand is rounded to rows of pairs, the right one to panels of pairs, which meet in the kernel of `block`.

    use super::super::block::{Block, COLUMNS};
    use super::super::gemm::fit;
    use super::super::pack::{Ahead, Pairs, Rounded, pack, round_left};
    use super::super::rounded::has_pairs;
    use super::super::tiles::Frozen;
    use super::{MatMut, MatRef, Workspace, matmul_here};

    /// Words of the summed dimension that a panel holds at most.
    const DEPTH: usize = 256;

    /// See [`super::small_product`].
    pub fn product(
        dst: MatMut<'_, f32>,
        accumulate: bool,
        a: MatRef<'_, f32>,
        b: MatRef<'_, f32>,
        scale: f32,
        workspace: &Workspace<f32>,
    ) {
        let [m, n, k] = fit(&dst, a, b);
        assert!(has_pairs(), "AVX-512-BF16: not in this processor");
        if m == 0 || n == 0 || k == 0 {
            return matmul_here(dst, accumulate, a, b, scale);
        }
        let (out, out_stride) = dst.into_lines();
        let words = k.div_ceil(2);
        let mut left = workspace.buffer(m * words);
        let (elements, stride, transposed) = a.lines();
        // SAFETY: the instructions were found; the operand's elements were placed inside its slice, and one of its strides is 1
        unsafe { round_left(elements.as_ptr(), stride, [m, k], transposed, scale, &mut left) };
        let (elements, cols, transposed) = b.lines();
        let right = Frozen { elements, cols, transposed };
        let depth = words.min(DEPTH);
        // one row more than it holds, which is read ahead
        let mut panel = workspace.buffer((depth + 1) * COLUMNS);
        let mut columns = 0..0;
        while columns.end < n {
            columns = columns.end..columns.end + width(n - columns.end);
            for part in (0..words).step_by(depth).map(|from| from..(from + depth).min(words)) {
                // SAFETY: the instructions were found; both operands and the results were placed inside their slices, which `dst` borrows alone; the
                // panel holds `depth` rows of three registers and one to spare
                unsafe {
                    pack::<Rounded>(right, 2 * part.start..(2 * part.end).min(k), columns.clone(), &mut panel);
                    let block = Block {
                        rows: m,
                        x: left.as_ptr().add(part.start),
                        stride: words,
                        panel: panel.as_ptr(),
                        depth: part.len(),
                        out: out.as_mut_ptr().add(columns.start),
                        m: out_stride,
                        add: accumulate || part.start > 0,
                        columns: columns.len(),
                        ahead: Ahead::none(),
                    };
                    block.multiply::<Pairs>();
                }
            }
        }
    }

    /// Columns of the next panel when `left` are left: as many as fit, but never so few behind them that their sums wait for each other.
    fn width(left: usize) -> usize {
        match left {
            0..=48 => left,
            49..=64 => 32,
            _ => 48,
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::tensor::rounded::has_pairs;
    use crate::tensor::{Bf16Products, Rounder, Stream};

    fn random(len: usize, name: &str) -> Vec<f32> {
        let mut stream = Stream::new(7, "test", name);
        (0..len).map(|_| stream.normal() as f32).collect()
    }

    /// A view of `[rows, cols]`, its lines four elements apart from each other, or of the transpose of what lies there.
    fn view(data: &[f32], [rows, cols]: [usize; 2], transposed: bool) -> MatRef<'_, f32> {
        if transposed {
            MatRef::new(data, cols, rows + 4).columns(3, rows + 3).t()
        } else {
            MatRef::new(data, rows, cols + 4).columns(3, cols + 3)
        }
    }

    fn at(transposed: bool, [rows, cols]: [usize; 2], i: usize, j: usize) -> usize {
        if transposed { j * (rows + 4) + i + 3 } else { i * (cols + 4) + j + 3 }
    }

    #[test]
    fn rounded_products_are_those_of_rounded_operands() {
        if !has_pairs() {
            return;
        }
        let workspace = Workspace::new(1).unwrap().with_bf16_products(Bf16Products::Rounded(Rounder::Avx512));
        // rows in every remainder of eight and around sixteen, columns in one to four registers, sums of odd lengths and of more than one panel
        let shapes =
            [(1, 1, 1), (3, 17, 2), (8, 33, 31), (21, 64, 33), (64, 49, 64), (70, 130, 65), (12, 65, 515), (5, 20, 0)];
        for ((m, n, k), case) in shapes.into_iter().flat_map(|shape| (0..8).map(move |case| (shape, case))) {
            let (ta, tb, accumulate) = (case & 1 > 0, case & 2 > 0, case & 4 > 0);
            let (a, b) = (random((m + 4) * (k + 4), "a"), random((n + 4) * (k + 4), "b"));
            let before = random(m * (n + 5), "before");
            let mut out = before.clone();
            let (left, right) = (view(&a, [m, k], ta), view(&b, [k, n], tb));
            let dst = MatMut::new(&mut out, m, n + 5).columns(2, n + 2);
            small_product(dst, accumulate, left, right, -0.3, &workspace);
            let rounded = |x: f32| f64::from(bf16::from_f32(x).to_f32());
            for (place, (got, before)) in out.iter().zip(&before).enumerate() {
                let (i, j) = (place / (n + 5), place % (n + 5));
                if !(2..n + 2).contains(&j) {
                    assert_eq!(got, before, "beside the results of {m} {n} {k}");
                    continue;
                }
                let term = |l: usize| rounded(-0.3 * a[at(ta, [m, k], i, l)]) * rounded(b[at(tb, [k, n], l, j - 2)]);
                let sum: f64 = (0..k).map(term).sum::<f64>() + if accumulate { f64::from(*before) } else { 0.0 };
                let size: f64 = (0..k).map(|l| term(l).abs()).sum::<f64>() + f64::from(before.abs());
                // k + 2 roundings of sums in f32
                let bound = f64::from(f32::EPSILON) / 2.0 * (k + 2) as f64 * size;
                assert!((f64::from(*got) - sum).abs() <= bound, "{m} {n} {k}, case {case}: {got} instead of {sum}");
            }
        }
    }

    #[test]
    fn other_workspaces_do_not_round() {
        let (a, b) = (random(6 * 5, "a"), random(5 * 7, "b"));
        for products in [Bf16Products::Widened, Bf16Products::Portable, Bf16Products::Rounded(Rounder::Portable)] {
            let workspace = Workspace::new(1).unwrap().with_bf16_products(products);
            let (mut got, mut expected) = ([0.0; 42], [0.0; 42]);
            let (a, b) = (MatRef::new(&a, 6, 5), MatRef::new(&b, 5, 7));
            small_product(MatMut::new(&mut got, 6, 7), false, a, b, 0.5, &workspace);
            matmul_here(MatMut::new(&mut expected, 6, 7), false, a, b, 0.5);
            assert_eq!(got, expected);
        }
    }
}
