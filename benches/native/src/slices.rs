//! The window of an open loop in slices. What disturbs the machine for a moment is charged to some of them, not to all: the
//! better ones tell what the server does, the whole window tells what a user of this machine had.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::measure::LATENCY_NS_MAX;

/// The length of a slice: 500 requests at 10,000 per second, of which the p99 leaves five out.
const SLICE: Duration = Duration::from_millis(50);

/// Notes the p99 latency of each slice.
pub struct Slices {
    /// When the present one ends.
    until: Instant,
    latencies: Histogram<u64>,
    p99_ns: Vec<u64>,
}

impl Slices {
    /// The first slice begins now.
    pub fn start(now: Instant) -> Self {
        // Two digits: it is emptied for each slice, while requests wait.
        let latencies = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 2).expect("these bounds are valid constants");
        Self { until: now + SLICE, latencies, p99_ns: Vec::new() }
    }

    /// The first slice begins only now.
    pub fn restart(&mut self, now: Instant) {
        self.until = now + SLICE;
    }

    /// Counts one reply.
    pub fn record(&mut self, nanoseconds: u64) {
        self.latencies.saturating_record(nanoseconds);
    }

    /// Ends the present slice if it is over. One without replies says nothing; they come in a later one, and were slow.
    pub fn turn(&mut self, now: Instant) {
        if now < self.until {
            return;
        }
        while self.until <= now {
            self.until += SLICE;
        }
        if !self.latencies.is_empty() {
            self.p99_ns.push(self.latencies.value_at_quantile(0.99));
            self.latencies.reset();
        }
    }

    /// The p99, in nanoseconds, that a quarter of the slices kept below; `None` if none has ended.
    pub fn quiet_p99_ns(&self) -> Option<u64> {
        let mut sorted = self.p99_ns.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 4).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn microseconds(slices: &Slices) -> Option<u64> {
        slices.quiet_p99_ns().map(|nanoseconds| (nanoseconds as f64 / 1e3).round() as u64)
    }

    #[test]
    fn a_disturbed_slice_spoils_no_other() {
        let start = Instant::now();
        let mut slices = Slices::start(start);
        for (number, latency_ns) in [900_000, 20_000, 40_000, 30_000, 800_000].into_iter().enumerate() {
            (0..500).for_each(|_| slices.record(latency_ns));
            slices.turn(start + SLICE * (number as u32 + 1) - Duration::from_nanos(1));
            slices.turn(start + SLICE * (number as u32 + 1));
        }
        assert_eq!(slices.p99_ns.len(), 5);
        assert_eq!(microseconds(&slices), Some(30), "the second best of five");
    }

    #[test]
    fn one_of_a_hundred_may_be_slow() {
        let start = Instant::now();
        let mut slices = Slices::start(start);
        (0..495).for_each(|_| slices.record(10_000));
        (0..5).for_each(|_| slices.record(700_000));
        slices.turn(start + SLICE);
        assert_eq!(microseconds(&slices), Some(10));
        (0..494).for_each(|_| slices.record(5_000));
        (0..6).for_each(|_| slices.record(700_000));
        slices.turn(start + SLICE * 2);
        assert_eq!(slices.p99_ns.len(), 2);
        assert!(slices.p99_ns[1] > 690_000, "{:?}", slices.p99_ns);
    }

    #[test]
    fn a_stall_leaves_no_empty_slices() {
        let start = Instant::now();
        let mut slices = Slices::start(start);
        assert_eq!(microseconds(&slices), None);
        slices.turn(start + SLICE * 3);
        assert_eq!(microseconds(&slices), None);
        slices.record(2_000_000_000);
        slices.turn(start + SLICE * 4);
        assert!(slices.quiet_p99_ns() >= Some(990_000_000), "{:?}", slices.p99_ns);
        assert_eq!(slices.p99_ns.len(), 1);
    }
}
