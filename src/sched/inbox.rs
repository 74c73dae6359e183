//! Callbacks from other threads: the only structure of a loop that several threads share.
#![forbid(unsafe_code)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

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

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        // Nothing panics while it is held, and a vector is sound even if something did.
        self.items.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
