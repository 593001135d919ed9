//! Memory that a thread keeps between calls, so that the kernels allocate nothing in the steady state.
//!
//! A buffer is taken from the thread's own stack of buffers and returned when the closure ends. Buffers only grow. What is in them is left over from
//! earlier calls: the borrower overwrites before it reads. Alignment is that of a cache line, so that vector loads never straddle two lines.

use std::cell::RefCell;

use crate::Real;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with a slice of `len` numbers of unspecified (but initialised) content.
pub(crate) fn with_scratch<T: Real, R>(len: usize, work: impl FnOnce(&mut [T]) -> R) -> R {
    // The buffer is out of the stack while it is lent, so a nested call on this thread gets another one.
    let mut buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
    if buffer.len() < lines {
        buffer = vec![Line([0; 64]); lines];
    }
    // SAFETY: the buffer holds at least `len * size_of::<T>()` initialised bytes, aligned to 64, borrowed mutably for the life of the slice. `Real` is
    // implemented for f32 and f64 only (its `kernels` method names a type that other crates cannot), for which every bit pattern is a value.
    let slice = unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast::<T>(), len) };
    let result = work(slice);
    BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_scratch_does_not_overlap() {
        with_scratch::<f64, _>(10, |outer| {
            outer.fill(1.0);
            with_scratch::<f32, _>(1000, |inner| {
                assert_eq!(inner.as_ptr() as usize % 64, 0);
                inner.fill(2.0);
            });
            assert_eq!(outer, [1.0; 10]);
        });
    }
}
