//! Timers: a heap ordered by deadline, then by the order in which they were made.
//!
//! Cancelling is cheap: the owner marks its item and calls [`Timers::note_cancelled`]; the entry stays until it comes to
//! the top or until cancelled entries are the majority, when [`Timers::compact`] drops them all at once.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Fewer entries than this are not worth compacting (asyncio's number).
const COMPACT_FROM: usize = 100;

#[derive(Debug)]
struct Entry<T> {
    when: f64,
    made: u64,
    item: T,
}

/// The timers of one loop.
#[derive(Debug)]
pub struct Timers<T> {
    heap: BinaryHeap<Entry<T>>,
    made: u64,
    cancelled: usize,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), made: 0, cancelled: 0 }
    }
}

impl<T> Timers<T> {
    /// Adds a timer for `when`, in seconds of the loop's clock.
    pub fn push(&mut self, when: f64, item: T) {
        self.made += 1;
        self.heap.push(Entry { when, made: self.made, item });
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        self.heap.peek().map(|entry| entry.when)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// How many there are, cancelled ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Takes the earliest timer if its deadline is before `limit`.
    pub fn pop_before(&mut self, limit: f64) -> Option<T> {
        if self.heap.peek()?.when < limit { self.heap.pop().map(|entry| entry.item) } else { None }
    }

    /// Takes the earliest timer if `gone` says that it was cancelled.
    pub fn pop_head_if(&mut self, gone: impl FnOnce(&T) -> bool) -> Option<T> {
        if !gone(&self.heap.peek()?.item) {
            return None;
        }
        self.cancelled = self.cancelled.saturating_sub(1);
        self.heap.pop().map(|entry| entry.item)
    }

    /// One of the timers in here was cancelled by its owner.
    pub fn note_cancelled(&mut self) {
        self.cancelled += 1;
    }

    /// Whether any cancelled timer may be in here.
    #[must_use]
    pub fn has_cancelled(&self) -> bool {
        self.cancelled > 0
    }

    /// Takes out all cancelled timers if they are the majority, or nothing.
    #[must_use]
    pub fn compact(&mut self, gone: impl Fn(&T) -> bool) -> Vec<T> {
        if self.heap.len() <= COMPACT_FROM || self.cancelled * 2 <= self.heap.len() {
            return Vec::new();
        }
        self.cancelled = 0;
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.heap).into_vec().into_iter().partition(|entry| gone(&entry.item));
        self.heap = BinaryHeap::from(kept);
        gone.into_iter().map(|entry| entry.item).collect()
    }

    /// All items, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.heap.iter().map(|entry| &entry.item)
    }

    /// Takes all items, in no order.
    pub fn take_all(&mut self) -> impl Iterator<Item = T> {
        self.cancelled = 0;
        std::mem::take(&mut self.heap).into_vec().into_iter().map(|entry| entry.item)
    }
}

impl<T> Ord for Entry<T> {
    /// The standard heap pops its greatest entry, so the earliest one must be the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.when.total_cmp(&self.when).then(other.made.cmp(&self.made))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Entry<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_deadlines_keep_the_order_in_which_they_were_made() {
        let mut timers = Timers::default();
        for n in 0..50 {
            timers.push(1.0, n);
        }
        let order: Vec<_> = std::iter::from_fn(|| timers.pop_before(2.0)).collect();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_deadline_at_the_limit_is_not_due() {
        let mut timers = Timers::default();
        timers.push(1.0, ());
        assert_eq!(timers.pop_before(1.0), None);
        assert_eq!(timers.pop_before(1.1), Some(()));
    }

    #[test]
    fn compaction_waits_for_a_majority_of_cancelled_timers() {
        let mut timers = Timers::default();
        for n in 0..200 {
            timers.push(f64::from(n), n);
        }
        let odd = |n: &i32| n % 2 == 1;
        (0..100).for_each(|_| timers.note_cancelled());
        assert!(timers.compact(odd).is_empty(), "exactly half is no majority");
        timers.note_cancelled();
        assert_eq!(timers.compact(odd).len(), 100);
        assert!(!timers.has_cancelled());
        let left: Vec<_> = std::iter::from_fn(|| timers.pop_before(1e9)).collect();
        assert_eq!(left, (0..200).step_by(2).collect::<Vec<_>>());
    }

    #[test]
    fn a_cancelled_head_is_dropped_and_a_live_one_is_not() {
        let mut timers = Timers::default();
        timers.push(1.0, "cancelled");
        timers.push(2.0, "live");
        timers.note_cancelled();
        let gone = |name: &&str| *name == "cancelled";
        assert_eq!(timers.pop_head_if(gone), Some("cancelled"));
        assert_eq!(timers.pop_head_if(gone), None);
        assert_eq!(timers.next(), Some(2.0));
    }
}
