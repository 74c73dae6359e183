//! When things run: the ready queue, the timers and the inbox of other threads, with no Python and no kernel in them.
//!
//! One turn of the loop has asyncio's order: wait for I/O, queue what it made ready, queue the timers that are due, then
//! run as many callbacks as were queued at that moment. What those callbacks schedule belongs to the next turn.
#![forbid(unsafe_code)]

mod clock;
mod hold;
mod inbox;
mod slice;
mod timers;

use std::collections::VecDeque;
use std::time::Duration;

use zloop_backends::Wait;

pub use clock::{System, monotonic};
pub use hold::Hold;
pub use inbox::Inbox;
pub use slice::{Clocks, Slice};
pub use timers::Timers;

/// The longest single wait, in seconds, as in asyncio: guards against overflow in the kernel's time types.
const LONGEST_WAIT: f64 = 24.0 * 3600.0;

/// The queues of one loop. `T` is something that is ready, `W` a callback that waits for its time and is one then.
#[derive(Debug)]
pub struct Scheduler<T, W = T> {
    ready: VecDeque<T>,
    /// Callbacks that wait for their time.
    pub timers: Timers<W>,
}

impl<T, W> Default for Scheduler<T, W> {
    fn default() -> Self {
        Self { ready: VecDeque::new(), timers: Timers::default() }
    }
}

impl<W, T: From<W>> Scheduler<T, W> {
    /// Queues a callback behind all others.
    pub fn push(&mut self, item: T) {
        self.ready.push_back(item);
    }

    /// Takes the oldest ready callback.
    pub fn pop(&mut self) -> Option<T> {
        self.ready.pop_front()
    }

    /// Puts a callback back that was taken, and has not run, before all others.
    pub fn put_back(&mut self, item: T) {
        self.ready.push_front(item);
    }

    /// How many callbacks are ready: at the start of a turn, the size of its batch.
    #[must_use]
    pub fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// What is ready, for garbage collectors.
    pub fn ready(&self) -> impl Iterator<Item = &T> {
        self.ready.iter()
    }

    /// Moves the timers that are due at `now` (seconds) behind the ready callbacks, earliest first. A timer is due a
    /// clock tick early, as in asyncio: what the wait rounded up is never waited for twice. That is the next float at
    /// least: a tick of the clock is too small to make a difference once it has run for some months.
    /// `each` sees every one of them.
    pub fn queue_due(&mut self, now: f64, tick: f64, mut each: impl FnMut(&W)) {
        let ready = &mut self.ready;
        self.timers.take_before((now + tick).max(now.next_up()), |timer| {
            each(&timer);
            ready.push_back(timer.into());
        });
    }

    /// How long the loop may wait when `now` is the time in seconds. Cancelled timers should have been
    /// [dropped](Timers::pop_head_if) before, or they wake the loop for nothing.
    #[must_use]
    pub fn wait(&self, now: impl FnOnce() -> f64, stopping: bool) -> Wait {
        if stopping || !self.ready.is_empty() {
            return Wait::Now;
        }
        let Some(when) = self.timers.next() else {
            return Wait::Forever;
        };
        let seconds = (when - now()).min(LONGEST_WAIT);
        // Also catches NaN: such a timer is never due, and must not make the loop spin.
        if seconds.is_nan() {
            Wait::For(Duration::from_secs_f64(LONGEST_WAIT))
        } else if seconds <= 0.0 {
            Wait::Now
        } else {
            Wait::For(Duration::from_secs_f64(seconds))
        }
    }

    /// Empties all queues; the caller drops what was in them where that is safe.
    #[must_use]
    pub fn take_all(&mut self) -> Vec<T> {
        let mut all: Vec<T> = self.ready.drain(..).collect();
        all.extend(self.timers.take_all().map(T::from));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_timers_follow_what_is_ready_and_keep_their_order() {
        let mut sched: Scheduler<&str> = Scheduler::default();
        sched.push("ready");
        sched.timers.push(2.0, "second");
        sched.timers.push(1.0, "first");
        sched.timers.push(2.0, "third");
        sched.timers.push(3.0, "later");
        sched.queue_due(2.0, 1e-9, |_| {});
        let ran: Vec<_> = std::iter::from_fn(|| sched.pop()).collect();
        assert_eq!(ran, ["ready", "first", "second", "third"]);
    }

    #[test]
    fn a_timer_is_due_at_its_time_however_long_the_clock_has_run() {
        let mut sched: Scheduler<()> = Scheduler::default();
        sched.timers.push(1e8, ());
        sched.queue_due(1e8, 1e-9, |()| {});
        assert_eq!(sched.ready_len(), 1);
    }

    #[test]
    fn the_wait_is_the_time_to_the_next_timer() {
        let mut sched: Scheduler<()> = Scheduler::default();
        assert_eq!(sched.wait(|| 0.0, false), Wait::Forever);
        assert_eq!(sched.wait(|| 0.0, true), Wait::Now);
        sched.timers.push(1.5, ());
        assert_eq!(sched.wait(|| 1.0, false), Wait::For(Duration::from_millis(500)));
        assert_eq!(sched.wait(|| 2.0, false), Wait::Now);
    }

    #[test]
    fn odd_deadlines_neither_trap_nor_spin() {
        let day = Duration::from_secs(24 * 3600);
        for when in [f64::INFINITY, 1e300, f64::NAN] {
            let mut sched: Scheduler<()> = Scheduler::default();
            sched.timers.push(when, ());
            assert_eq!(sched.wait(|| 1.0, false), Wait::For(day), "{when}");
            sched.queue_due(1.0, 1e-9, |_| {});
            assert_eq!(sched.ready_len(), 0, "{when}");
        }
        let mut sched: Scheduler<()> = Scheduler::default();
        sched.timers.push(f64::NEG_INFINITY, ());
        assert_eq!(sched.wait(|| 1.0, false), Wait::Now);
    }
}
