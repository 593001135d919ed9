//! Keeping a pool's threads awake while one parallel operation follows another.
//!
//! A thread that finds no work falls asleep, and the system takes longer to wake it than a small operation takes: of a token's hundreds of small products,
//! many would run on one thread. Here the other threads look for work, one piece after another, until the whole is done.
//!
//! A thread keeps watch only if it began before the work did. Were it asked later, it might begin while it waits for a part of that work, which could then
//! never end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, Yield};

/// How long the work waits for the other threads to wake up.
const PATIENCE: Duration = Duration::from_micros(200);
/// Looks in vain before the processor is offered to others.
const LOOKS: usize = 200;
/// Set in `Watch::arrived` once the work has begun.
const BEGUN: usize = 1 << (usize::BITS - 1);

#[derive(Default)]
struct Watch {
    /// Threads that keep watch, and [`BEGUN`].
    arrived: AtomicUsize,
    done: AtomicBool,
}

impl Watch {
    /// Looks for work until it is done; nothing where it has begun already.
    fn keep(&self) {
        let arrive = |arrived: usize| (arrived & BEGUN == 0).then_some(arrived + 1);
        if self.arrived.fetch_update(Ordering::AcqRel, Ordering::Acquire, arrive).is_err() {
            return;
        }
        let mut looks = 0;
        while !self.done.load(Ordering::Acquire) {
            match rayon::yield_now() {
                Some(Yield::Executed) => looks = 0,
                _ if looks < LOOKS => {
                    looks += 1;
                    std::hint::spin_loop();
                }
                _ => std::thread::yield_now(),
            }
        }
    }
}

/// Ends a watch, also where the work panics.
struct End(Arc<Watch>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
    }
}

/// Runs `work` on a thread of the pool, while the others stay awake.
pub(super) fn run<R: Send>(threads: &ThreadPool, work: impl FnOnce() -> R + Send) -> R {
    threads.install(|| {
        let others = threads.current_num_threads() - 1;
        if others == 0 {
            return work();
        }
        let watch = Arc::new(Watch::default());
        let end = End(Arc::clone(&watch));
        threads.spawn_broadcast({
            let watch = Arc::clone(&watch);
            // this thread comes to its share when the work has begun
            move |_| watch.keep()
        });
        let asked = Instant::now();
        while watch.arrived.load(Ordering::Acquire) < others && asked.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        watch.arrived.fetch_or(BEGUN, Ordering::AcqRel);
        let result = work();
        drop(end);
        result
    })
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rayon::prelude::*;

    use super::*;

    fn pool(threads: usize) -> ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// Many small operations, one inside the other.
    fn sum(of: usize) -> usize {
        (0..of).map(|i| (0..of).into_par_iter().with_max_len(1).map(|j| i * j).sum::<usize>()).sum()
    }

    #[test]
    fn work_is_done_on_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let pool = pool(threads);
            for _ in 0..20 {
                assert_eq!(run(&pool, || sum(30)), (29 * 30 / 2usize).pow(2));
            }
        }
    }

    #[test]
    fn works_at_the_same_time_and_inside_one_another_end() {
        let pool = pool(2);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20).for_each(|_| assert_eq!(run(&pool, || sum(20)), (19 * 20 / 2usize).pow(2))));
            }
        });
        let inside = |i: usize| run(&pool, || sum(10)) + i;
        assert_eq!(run(&pool, || (0..8).into_par_iter().map(inside).sum::<usize>()), 8 * 45 * 45 + 28);
    }

    #[test]
    fn only_what_has_not_begun_is_watched() {
        // done already, so that whoever keeps watch stops
        let watch = |arrived| Watch { arrived: AtomicUsize::new(arrived), done: AtomicBool::new(true) };
        for (before, after) in [(0, 1), (2, 3), (BEGUN, BEGUN), (BEGUN | 2, BEGUN | 2)] {
            let watch = watch(before);
            watch.keep();
            assert_eq!(watch.arrived.into_inner(), after);
        }
        // not done: it would never return
        Watch { arrived: AtomicUsize::new(BEGUN), done: AtomicBool::new(false) }.keep();
    }

    #[test]
    fn a_panic_ends_the_watch() {
        let pool = pool(3);
        let work = || run(&pool, || assert_eq!(sum(3), 0));
        assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
        assert_eq!(run(&pool, || sum(3)), 9);
    }
}
