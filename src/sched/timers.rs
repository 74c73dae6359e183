//! Timers: a heap ordered by deadline, then by the order in which they were made.
//!
//! Cancelling is cheap: the owner marks its item and calls [`Timers::note_cancelled`]; the entry stays until it comes to
//! the top or until cancelled entries are the majority, when [`Timers::compact`] drops them all at once.
//!
//! Timers that are made in the order of their deadlines lie in a queue instead of the heap. Of the others, those that come
//! due one by one are popped; when many are due together, sorting them costs a fraction of popping them.
#![forbid(unsafe_code)]

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

/// Fewer entries than this are not worth compacting (asyncio's number).
const COMPACT_FROM: usize = 100;
/// Due timers are sorted once one in so many of all timers has been popped.
const POPPED_SHARE: usize = 16;

/// The order of timers: the deadline, as a number that sorts as the float does, and when the timer was made.
type Key = (u64, u64);

#[derive(Debug)]
struct Entry<T> {
    key: Key,
    item: T,
}

/// The timers of one loop.
#[derive(Debug)]
pub struct Timers<T> {
    /// Timers that were made in the order of their deadlines: those of one delay are, and need no heap.
    queue: VecDeque<Entry<T>>,
    /// The others.
    heap: BinaryHeap<Reverse<Entry<T>>>,
    made: u64,
    cancelled: usize,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), heap: BinaryHeap::new(), made: 0, cancelled: 0 }
    }
}

impl<T> Timers<T> {
    /// Adds a timer for `when`, in seconds of the loop's clock.
    #[inline]
    pub fn push(&mut self, when: f64, item: T) {
        self.made += 1;
        let entry = Entry { key: (sortable(when), self.made), item };
        if self.queue.back().is_none_or(|last| last.key < entry.key) {
            self.queue.push_back(entry);
        } else {
            self.heap.push(Reverse(entry));
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        self.head().map(|entry| float(entry.key.0))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.heap.is_empty()
    }

    /// How many there are, cancelled ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len() + self.heap.len()
    }

    /// Takes all timers whose deadline is before `limit`, the earliest first.
    pub fn take_before(&mut self, limit: f64, mut take: impl FnMut(T)) {
        let mut popped = 0;
        while self.next().is_some_and(|when| when < limit) {
            if !self.queue_is_first() {
                if popped * POPPED_SHARE > self.heap.len() {
                    return self.sort_before(limit, take);
                }
                popped += 1;
            }
            self.pop().into_iter().for_each(&mut take);
        }
    }

    /// The same by sorting them, whose cost grows with the number of all timers.
    fn sort_before(&mut self, limit: f64, mut take: impl FnMut(T)) {
        let is_due = |entry: &Entry<T>| float(entry.key.0) < limit;
        let mut entries = std::mem::take(&mut self.heap).into_vec();
        let mut due: Vec<_> = entries.extract_if(.., |entry| is_due(&entry.0)).map(|entry| entry.0).collect();
        self.heap = BinaryHeap::from(entries);
        let in_order = self.queue.iter().take_while(|entry| is_due(entry)).count();
        due.extend(self.queue.drain(..in_order));
        due.sort_unstable_by_key(|entry| entry.key);
        due.into_iter().for_each(|entry| take(entry.item));
    }

    /// Takes the earliest timer if `gone` says that it was cancelled.
    pub fn pop_head_if(&mut self, gone: impl FnOnce(&T) -> bool) -> Option<T> {
        if !gone(&self.head()?.item) {
            return None;
        }
        self.cancelled = self.cancelled.saturating_sub(1);
        self.pop()
    }

    /// The earliest timer.
    #[inline]
    fn head(&self) -> Option<&Entry<T>> {
        if self.queue_is_first() { self.queue.front() } else { self.heap.peek().map(|entry| &entry.0) }
    }

    #[inline]
    fn pop(&mut self) -> Option<T> {
        let entry = if self.queue_is_first() { self.queue.pop_front() } else { self.heap.pop().map(|entry| entry.0) };
        entry.map(|entry| entry.item)
    }

    #[inline]
    fn queue_is_first(&self) -> bool {
        match (self.queue.front(), self.heap.peek()) {
            (Some(first), Some(top)) => first.key < top.0.key,
            (first, _) => first.is_some(),
        }
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
        if self.len() <= COMPACT_FROM || self.cancelled * 2 <= self.len() {
            return Vec::new();
        }
        self.cancelled = 0;
        let mut queue = Vec::from(std::mem::take(&mut self.queue));
        let mut taken: Vec<_> = queue.extract_if(.., |entry| gone(&entry.item)).map(|entry| entry.item).collect();
        self.queue = VecDeque::from(queue);
        let mut heap = std::mem::take(&mut self.heap).into_vec();
        taken.extend(heap.extract_if(.., |entry| gone(&entry.0.item)).map(|entry| entry.0.item));
        self.heap = BinaryHeap::from(heap);
        taken
    }

    /// All items, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.queue.iter().chain(self.heap.iter().map(|entry| &entry.0)).map(|entry| &entry.item)
    }

    /// Takes all items, in no order.
    pub fn take_all(&mut self) -> impl Iterator<Item = T> {
        self.cancelled = 0;
        let heap = std::mem::take(&mut self.heap).into_vec().into_iter().map(|entry| entry.0);
        std::mem::take(&mut self.queue).into_iter().chain(heap).map(|entry| entry.item)
    }
}

/// The number whose order among unsigned numbers is that of `f64::total_cmp` among floats. What is no number comes last,
/// whatever its sign: in front it would never be due, and hold up all others.
#[inline]
fn sortable(value: f64) -> u64 {
    let bits = value.to_bits();
    match bits >> 63 {
        0 => bits | 1 << 63,
        _ if value.is_nan() => sortable(f64::NAN),
        _ => !bits,
    }
}

/// What [`sortable`] made the number from.
#[inline]
fn float(number: u64) -> f64 {
    f64::from_bits(if number >> 63 == 1 { number & !(1 << 63) } else { !number })
}

impl<T> Ord for Entry<T> {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

impl<T> PartialOrd for Entry<T> {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<T> Eq for Entry<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `take_before` gives, in its order.
    fn taken<T>(timers: &mut Timers<T>, limit: f64) -> Vec<T> {
        let mut taken = Vec::new();
        timers.take_before(limit, |item| taken.push(item));
        taken
    }

    #[test]
    fn equal_deadlines_keep_the_order_in_which_they_were_made() {
        for count in [3, 50, 5000] {
            let mut timers = Timers::default();
            (0..count).for_each(|n| timers.push(1.0, n));
            assert_eq!(taken(&mut timers, 2.0), (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn few_due_of_many_and_many_due_come_in_order() {
        for due in [1, 10, 100, 999] {
            let mut timers = Timers::default();
            (0..1000).for_each(|n| timers.push(f64::from(n * 617 % 1000), n * 617 % 1000));
            assert_eq!(taken(&mut timers, f64::from(due)), (0..due).collect::<Vec<_>>());
            assert_eq!(timers.len(), 1000 - due as usize);
            assert_eq!(taken(&mut timers, 1e9), (due..1000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn numbers_sort_as_the_floats_they_stand_for() {
        let floats =
            [f64::NEG_INFINITY, -1e300, -1.0, -0.0, 0.0, f64::MIN_POSITIVE, 1.0, 1e300, f64::INFINITY, f64::NAN];
        for pair in floats.windows(2) {
            assert!(sortable(pair[0]) < sortable(pair[1]), "{pair:?}");
        }
        for value in floats {
            assert_eq!(float(sortable(value)).to_bits(), value.to_bits());
        }
        for nan in [f64::NAN, -f64::NAN, f64::from_bits(!0), f64::from_bits(!0 >> 1)] {
            assert!(sortable(nan) > sortable(f64::INFINITY) && float(sortable(nan)).is_nan());
        }
    }

    #[test]
    fn queue_and_heap_are_one_order() {
        for share in [1, 2, 7, 100] {
            let mut timers = Timers::default();
            // Every few timers one is earlier than what came before it, and lands in the heap.
            let when = |n: i32| if n % share == 0 { f64::from(n) - 50.5 } else { f64::from(n) };
            (0..1000).for_each(|n| timers.push(when(n), n));
            let mut expected: Vec<_> = (0..1000).collect();
            expected.sort_by(|a, b| when(*a).total_cmp(&when(*b)));
            assert_eq!(timers.iter().count(), 1000);
            let mut found = taken(&mut timers, 3.0);
            found.extend(taken(&mut timers, 500.0));
            found.extend(taken(&mut timers, 1e9));
            assert_eq!(found, expected);
            assert!(timers.is_empty());
        }
    }

    #[test]
    fn a_deadline_at_the_limit_is_not_due() {
        let mut timers = Timers::default();
        timers.push(1.0, ());
        assert!(taken(&mut timers, 1.0).is_empty());
        assert_eq!(taken(&mut timers, 1.1), [()]);
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
        assert_eq!(taken(&mut timers, 1e9), (0..200).step_by(2).collect::<Vec<_>>());
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
