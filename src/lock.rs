//! A lock for a few instructions, among threads that hardly ever meet.
#![forbid(unsafe_code)]

#[cfg(all(test, loom))]
use loom::{
    hint,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};
#[cfg(not(all(test, loom)))]
use std::{
    hint,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// So often a waiting thread looks before it lets another run on its core.
const LOOKS: u32 = 100;

/// The lock. It guards nothing by itself: who has a [`Held`] may touch what it stands for.
///
/// A message takes some twenty of them, so what counts is what one costs that nobody else wants: a single atomic exchange.
/// A mutex needs a second one to learn whether somebody sleeps; here nobody does, and letting go is a plain store. Who
/// waits keeps its core busy, so whoever holds it must never wait for anything itself.
#[derive(Debug, Default)]
pub struct Lock(AtomicBool);

/// Proof that the lock is held; dropping it lets go.
#[derive(Debug)]
#[must_use = "dropping it lets go of the lock"]
pub struct Held<'a>(&'a Lock);

impl Lock {
    /// Takes the lock, after whoever has it.
    #[inline]
    pub fn acquire(&self) -> Held<'_> {
        loop {
            if let Some(held) = self.try_acquire() {
                return held;
            }
            self.wait();
        }
    }

    /// Takes the lock unless somebody has it.
    #[inline]
    pub fn try_acquire(&self) -> Option<Held<'_>> {
        // Only who got the lock may make a `Held`, since dropping one lets go of it.
        if self.0.swap(true, Ordering::Acquire) { None } else { Some(Held(self)) }
    }

    #[cold]
    fn wait(&self) {
        for _ in 0..LOOKS {
            if !self.0.load(Ordering::Relaxed) {
                return;
            }
            hint::spin_loop();
        }
        thread::yield_now();
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// Every order in which the threads can take turns, and every value that their orderings let them see: `make loom`.
#[cfg(all(test, loom))]
mod models {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU32;

    use super::*;

    /// What it guards here is a count kept in two steps, with the weakest ordering there is. Nobody waits for it: a wait
    /// is a number of further attempts without an end, which loom cannot try out.
    #[test]
    fn one_thread_at_a_time_holds_it_and_sees_what_the_last_one_did() {
        loom::model(|| {
            let shared = Arc::new((Lock::default(), AtomicU32::new(0)));
            let others: Vec<_> = (0..2)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || attempt(&shared) + attempt(&shared))
                })
                .collect();
            let done = attempt(&shared) + others.into_iter().map(|other| other.join().unwrap()).sum::<u32>();
            assert_eq!(shared.1.load(Ordering::Relaxed), done);
        });
    }

    /// Counts up if it gets the lock, and says how often it did.
    fn attempt((lock, count): &(Lock, AtomicU32)) -> u32 {
        let Some(_held) = lock.try_acquire() else { return 0 };
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        1
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn who_does_not_get_it_does_not_let_go_of_it() {
        let lock = Lock::default();
        let held = lock.try_acquire();
        assert!(held.is_some());
        assert!(lock.try_acquire().is_none());
        assert!(lock.try_acquire().is_none());
        drop(held);
        assert!(lock.try_acquire().is_some());
    }

    #[test]
    fn one_of_four_threads_at_a_time_holds_it() {
        const TIMES: u32 = if cfg!(miri) { 50 } else { 20_000 };
        let (lock, inside, total) = (Lock::default(), AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..TIMES {
                        let _held = lock.acquire();
                        assert_eq!(inside.swap(1, Ordering::Relaxed), 0, "two threads held it");
                        total.store(total.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                        inside.store(0, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * TIMES);
    }
}
