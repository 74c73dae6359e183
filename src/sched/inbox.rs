//! Callbacks from other threads: the only structure of a loop that several threads share.
#![forbid(unsafe_code)]

#[cfg(all(test, loom))]
use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};
use std::sync::PoisonError;
#[cfg(not(all(test, loom)))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

/// A queue that any thread pushes to and the loop's thread empties; each thread's items keep their order.
///
/// A mutex around a vector is enough: it is held for a push or a swap, never while anything else runs, and the loop
/// looks at one flag, not at the lock, in a turn without visitors.
#[derive(Debug)]
pub struct Inbox<T> {
    items: Mutex<Vec<T>>,
    /// Whether `items` may be non-empty. Set inside the lock, read without it.
    filled: AtomicBool,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { items: Mutex::new(Vec::new()), filled: AtomicBool::new(false) }
    }
}

impl<T> Inbox<T> {
    /// Adds an item and says how many wait now. The caller wakes the loop afterwards.
    pub fn push(&self, item: T) -> usize {
        let mut items = self.lock();
        items.push(item);
        self.filled.store(true, Ordering::Release);
        items.len()
    }

    /// Whether an item may be waiting.
    #[must_use]
    pub fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Swaps all waiting items, oldest first, into the empty vector `into`, whose memory is used for the next ones.
    pub fn swap(&self, into: &mut Vec<T>) {
        debug_assert!(into.is_empty());
        let mut items = self.lock();
        self.filled.store(false, Ordering::Release);
        std::mem::swap(&mut *items, into);
    }

    /// Looks at all waiting items unless a thread is pushing right now. For garbage collectors, which must not wait.
    pub fn try_for_each(&self, mut visit: impl FnMut(&T)) {
        if let Ok(items) = self.items.try_lock() {
            items.iter().for_each(&mut visit);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        // Nothing panics while it is held, and a vector is sound even if something did.
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every order in which the threads can take turns, and every value that their orderings let them see: `make loom`.
#[cfg(all(test, loom))]
mod models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    #[test]
    fn what_was_pushed_before_a_look_is_found() {
        loom::model(|| {
            let inbox = Arc::new(Inbox::default());
            let called = Arc::new(AtomicBool::new(false));
            let pusher = {
                let (inbox, called) = (Arc::clone(&inbox), Arc::clone(&called));
                thread::spawn(move || {
                    inbox.push(1);
                    inbox.push(2);
                    // The waker's part.
                    called.store(true, Ordering::Release);
                })
            };
            let mut seen = Vec::new();
            let mut look = || {
                let mut batch = Vec::new();
                if inbox.is_filled() {
                    inbox.swap(&mut batch);
                }
                seen.extend(batch);
            };
            look();
            if called.load(Ordering::Acquire) {
                look();
                assert_eq!(seen, [1, 2], "the loop was called, looked, and found less than was there");
                return pusher.join().expect("it does not panic");
            }
            pusher.join().expect("it does not panic");
            look();
            assert_eq!(seen, [1, 2]);
        });
    }

    #[test]
    fn two_threads_lose_nothing_and_keep_their_order() {
        loom::model(|| {
            let inbox = Arc::new(Inbox::default());
            let pushers = [10, 20].map(|first| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || (first..first + 2).for_each(|item| _ = inbox.push(item)))
            });
            let mut seen = Vec::new();
            inbox.swap(&mut seen);
            pushers.into_iter().for_each(|pusher| pusher.join().expect("it does not panic"));
            let mut rest = Vec::new();
            if inbox.is_filled() {
                inbox.swap(&mut rest);
            }
            seen.extend(rest);
            for first in [10, 20] {
                let own: Vec<_> = seen.iter().copied().filter(|item| (first..first + 2).contains(item)).collect();
                assert_eq!(own, [first, first + 1]);
            }
            assert_eq!(seen.len(), 4);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Barrier;

    use zloop_backends::{Backend, Events, Wait};

    use super::*;

    /// The inbox with a real loop's sleep: a lost wake-up is a test that never ends, a lost item one that counts short.
    #[test]
    #[cfg_attr(miri, ignore = "miri has no kernel to sleep in")]
    fn eight_threads_wake_a_sleeping_loop_and_lose_nothing() {
        const THREADS: usize = 8;
        const ITEMS: u32 = 20_000;
        let mut backend = zloop_backends::open_auto().expect("some backend opens everywhere");
        backend.bind().expect("it was just opened");
        let inbox = Inbox::default();
        let start = Barrier::new(THREADS + 1);
        let mut seen = [0; THREADS];
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (inbox, start, waker) = (&inbox, &start, backend.waker());
                scope.spawn(move || {
                    start.wait();
                    for number in 0..ITEMS {
                        inbox.push((thread, number));
                        waker.wake();
                    }
                });
            }
            start.wait();
            let (mut events, mut batch) = (Events::with_limit(16), Vec::new());
            while seen.iter().any(|count| *count < ITEMS) {
                backend.poll(Wait::Forever, &mut events).expect("nothing is registered that could fail");
                events.drain().for_each(drop);
                if inbox.is_filled() {
                    inbox.swap(&mut batch);
                }
                for (thread, number) in batch.drain(..) {
                    assert_eq!(number, seen[thread], "thread {thread} was overtaken by itself");
                    seen[thread] += 1;
                }
            }
        });
        assert!(!inbox.is_filled());
    }

    /// Wakers outlive what they wake, as when a loop is closed while threads still call it.
    #[test]
    #[cfg_attr(miri, ignore = "miri has no kernel to sleep in")]
    fn a_backend_is_closed_while_others_wake_it() {
        for _ in 0..50 {
            let backend = zloop_backends::open_auto().expect("some backend opens everywhere");
            let start = Barrier::new(5);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    let (start, waker) = (&start, backend.waker());
                    scope.spawn(move || {
                        start.wait();
                        (0..200).for_each(|_| waker.wake());
                    });
                }
                start.wait();
                drop(backend);
            });
        }
    }

    #[test]
    fn many_threads_lose_nothing_and_keep_their_order() {
        const THREADS: u32 = 8;
        const ITEMS: u32 = if cfg!(miri) { 20 } else { 10_000 };
        let inbox = Inbox::default();
        let mut seen = vec![Vec::new(); THREADS as usize];
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let inbox = &inbox;
                scope.spawn(move || (0..ITEMS).for_each(|n| _ = inbox.push((thread, n))));
            }
            let mut batch = Vec::new();
            while seen.iter().map(Vec::len).sum::<usize>() < (THREADS * ITEMS) as usize {
                if !inbox.is_filled() {
                    std::thread::yield_now();
                    continue;
                }
                inbox.swap(&mut batch);
                batch.drain(..).for_each(|(thread, n): (u32, u32)| seen[thread as usize].push(n));
            }
        });
        for items in seen {
            assert_eq!(items, (0..ITEMS).collect::<Vec<_>>());
        }
        assert!(!inbox.is_filled());
    }
}
