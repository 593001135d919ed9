//! Memory for the buffers of a step: regions asked from the system once, cut into spans, given back and joined again.
//!
//! A training step asks for thousands of buffers whose sizes follow the batch's length. Asked from the system each time, their pages would have to be
//! cleared by the kernel again and again, which cost a tenth of a step; kept in lists by size, those of yesterday's lengths would stay around unused. Here a
//! request takes the lowest free span that is long enough, and spans that become free join their neighbours, so that memory in use stays near what is alive
//! at one time. Regions are large and mostly untouched, which costs nothing: the system gives pages when they are first written, huge ones where it can.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::MmapMut;

use super::Real;

/// Bytes of a region, unless one request is larger.
const REGION: usize = 1 << 30;
/// Spans begin and end at multiples of so many bytes: a cache line.
const ALIGN: usize = 64;

/// Regions and their free spans.
pub(super) struct Arena<T>(Mutex<State<T>>);

struct State<T> {
    regions: Vec<Region<T>>,
    /// Numbers in spans that are out, and the most there were at one time.
    live: usize,
    peak: usize,
}

struct Region<T> {
    start: NonNull<T>,
    len: usize,
    /// Free spans: where they begin and how many numbers they hold. No two touch.
    free: BTreeMap<usize, usize>,
    /// Keeps the memory.
    _map: MmapMut,
}

// SAFETY: a region is memory and a table of its free spans; the numbers in it are reached through spans alone, each of which has one owner.
unsafe impl<T: Send> Send for Region<T> {}

/// Numbers of a region that nobody else has. Dropped, they go back to the arena.
pub(super) struct Span<T: Real> {
    arena: Arc<Arena<T>>,
    region: usize,
    offset: usize,
    len: usize,
    start: NonNull<T>,
}

// SAFETY: a span is the only way to its numbers, as a boxed slice would be.
unsafe impl<T: Real> Send for Span<T> {}
// SAFETY: as above; a shared span gives shared access only.
unsafe impl<T: Real> Sync for Span<T> {}

impl<T: Real> Arena<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { regions: Vec::new(), live: 0, peak: 0 })))
    }

    /// A span of at least `len` numbers, whose contents are unspecified.
    ///
    /// Ends the process as every allocation does when the system has no memory left.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Span<T> {
        let step = ALIGN / size_of::<T>();
        let len = len.max(1).div_ceil(step) * step;
        let mut state = self.lock();
        state.live += len;
        state.peak = state.peak.max(state.live);
        let regions = &mut state.regions;
        let held = regions.iter_mut().enumerate().find_map(|(index, region)| Some((index, region.take(len)?)));
        let (region, offset) = held.unwrap_or_else(|| {
            let mut region = Region::new(len);
            let offset = region.take(len).expect("a new region holds the span it was made for");
            regions.push(region);
            (regions.len() - 1, offset)
        });
        // SAFETY: free spans lie inside the region's memory
        let start = unsafe { regions[region].start.add(offset) };
        Span { arena: Arc::clone(self), region, offset, len, start }
    }

    /// The most numbers that were in spans at one time.
    pub(super) fn peak(&self) -> usize {
        self.lock().peak
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Real> Region<T> {
    fn new(len: usize) -> Self {
        let bytes = (len * size_of::<T>()).max(REGION);
        let fail =
            |_| std::alloc::handle_alloc_error(std::alloc::Layout::from_size_align(bytes, ALIGN).expect("a size"));
        let mut map = MmapMut::map_anon(bytes).unwrap_or_else(fail);
        // only advice: without huge pages the same numbers come from small ones
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let len = bytes / size_of::<T>();
        let start = NonNull::new(map.as_mut_ptr().cast()).expect("memory is not at address zero");
        Self { start, len, free: BTreeMap::from([(0, len)]), _map: map }
    }

    /// Where the lowest free span of at least `len` numbers begins; it is cut to that length.
    fn take(&mut self, len: usize) -> Option<usize> {
        let (&offset, &held) = self.free.iter().find(|&(_, &held)| held >= len)?;
        self.free.remove(&offset);
        if held > len {
            self.free.insert(offset + len, held - len);
        }
        Some(offset)
    }

    fn give_back(&mut self, mut offset: usize, mut len: usize) {
        debug_assert!(offset + len <= self.len);
        if let Some((&before, &held)) = self.free.range(..offset).next_back()
            && before + held == offset
        {
            self.free.remove(&before);
            (offset, len) = (before, len + held);
        }
        if let Some(behind) = self.free.remove(&(offset + len)) {
            len += behind;
        }
        self.free.insert(offset, len);
    }
}

impl<T: Real> Span<T> {
    /// The numbers, at least as many as were asked for.
    pub(super) fn numbers(&self) -> &[T] {
        // SAFETY: the span lies inside its region, which the arena keeps as long as spans are out; the system gave zeros, and every bit pattern is a
        // number, so that all of it is initialised; nobody else has this span
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The numbers, to be written.
    pub(super) fn numbers_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the span is borrowed exclusively
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Real> Drop for Span<T> {
    fn drop(&mut self) {
        let mut state = self.arena.lock();
        state.live -= self.len;
        state.regions[self.region].give_back(self.offset, self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Stream;

    #[test]
    fn spans_never_overlap_and_join_when_all_are_back() {
        let arena = Arena::<f32>::new();
        let mut stream = Stream::new(1, "test", "arena");
        let mut held: Vec<(f32, Span<f32>)> = Vec::new();
        for round in 0..4000 {
            if held.is_empty() || stream.below(100) < 55 {
                let mut span = arena.take(stream.below(3000) as usize);
                span.numbers_mut().fill(round as f32);
                assert!(span.start.as_ptr().addr().is_multiple_of(ALIGN));
                held.push((round as f32, span));
            } else {
                let (mark, span) = held.swap_remove(stream.below(held.len() as u64) as usize);
                assert!(span.numbers().iter().all(|&v| v == mark), "somebody else wrote into the span");
            }
        }
        drop(held);
        let State { regions, live, .. } = &*arena.lock();
        assert_eq!((regions.len(), *live), (1, 0));
        assert_eq!(regions[0].free, BTreeMap::from([(0, regions[0].len)]));
    }

    #[test]
    fn a_request_above_a_region_gets_a_region_of_its_own() {
        let arena = Arena::<f64>::new();
        let small = arena.take(10);
        let large = arena.take(REGION / 8 + 100);
        assert_eq!((small.region, large.region, large.len), (0, 1, REGION / 8 + 104));
        assert_eq!(arena.peak(), 16 + REGION / 8 + 104);
    }
}
