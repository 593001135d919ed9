//! Tokens into a tile and out of it: the transposition between rows of tokens and rows of features.
//!
//! Callers hold tokens as rows; the gate kernels want tokens innermost. Whole blocks of lanes x lanes are transposed in registers; ragged edges value by
//! value. Padding (features that the caller's rows do not have) and the tile's spare tokens become zeros here.

use super::vector::Vector;

/// A rectangle of tokens in the caller's memory and a tile. The pointers are valid for the lengths given and do not overlap.
pub(crate) struct Transfer<T> {
    /// First value of the first token. Only `unload` writes through it.
    pub rows: *mut T,
    /// Distance between tokens.
    pub stride: usize,
    /// Tokens in the rectangle, at most `width`.
    pub tokens: usize,
    /// Features of each token to move, at most `len`.
    pub features: usize,
    /// `[len, width]`.
    pub tile: *mut T,
    /// Features of the tile.
    pub len: usize,
    /// Tokens of the tile, a multiple of the lanes.
    pub width: usize,
}

/// Fills the tile: `tile[f, t] = rows[t, f]`, zero beyond `tokens` and `features`.
///
/// # Safety
/// The arguments keep the promises of [`Transfer`] (`rows` need only be readable), and the machine has `V`'s instructions.
#[inline(always)]
pub(crate) unsafe fn load<V: Vector>(transfer: &Transfer<V::Element>) {
    let &Transfer { rows, stride, tokens, features, tile, len, width } = transfer;
    let (whole_tokens, whole_features) = (tokens / V::LANES * V::LANES, features / V::LANES * V::LANES);
    // SAFETY: every index below is inside the rectangle or the tile.
    unsafe {
        for t in (0..whole_tokens).step_by(V::LANES) {
            for f in (0..whole_features).step_by(V::LANES) {
                let from = block_rows(rows.add(t * stride + f), stride, V::LANES);
                V::transpose_to(&from, tile.add(f * width + t), width);
            }
        }
        for f in 0..features {
            let start = if f < whole_features { whole_tokens } else { 0 };
            for t in start..tokens {
                *tile.add(f * width + t) = *rows.add(t * stride + f);
            }
            for t in tokens..width {
                *tile.add(f * width + t) = V::Element::default();
            }
        }
        for at in features * width..len * width {
            *tile.add(at) = V::Element::default();
        }
    }
}

/// Adds the tile: `rows[t, f] += scale * tile[f, t]` for `tokens` and `features`.
///
/// # Safety
/// The arguments keep the promises of [`Transfer`], and the machine has `V`'s instructions.
#[inline(always)]
pub(crate) unsafe fn unload<V: Vector>(transfer: &Transfer<V::Element>, scale: V::Element) {
    let &Transfer { rows, stride, tokens, features, tile, width, .. } = transfer;
    let (whole_tokens, whole_features) = (tokens / V::LANES * V::LANES, features / V::LANES * V::LANES);
    // SAFETY: every index below is inside the rectangle or the tile.
    unsafe {
        let factor = V::splat(scale);
        for t in (0..whole_tokens).step_by(V::LANES) {
            for f in (0..whole_features).step_by(V::LANES) {
                let values = V::transpose(&block_rows(tile.add(f * width + t), width, V::LANES));
                for row in 0..V::LANES {
                    let place = rows.add((t + row) * stride + f);
                    V::fused(factor, values[row], V::load(place)).store(place);
                }
            }
        }
        for t in 0..tokens {
            let start = if t < whole_tokens { whole_features } else { 0 };
            for f in start..features {
                // One lane of the same operation as above, so that a token's place in a tile does not change its rounding.
                let value = V::fused_one(scale, *tile.add(f * width + t), *rows.add(t * stride + f));
                *rows.add(t * stride + f) = value;
            }
        }
    }
}

/// Pointers to `lanes` rows.
///
/// # Safety
/// All of them lie in one allocation.
#[inline(always)]
unsafe fn block_rows<T>(first: *const T, stride: usize, lanes: usize) -> [*const T; 16] {
    let mut rows = [first; 16];
    for i in 1..lanes {
        // SAFETY: the caller's promise.
        rows[i] = unsafe { first.add(i * stride) };
    }
    rows
}
