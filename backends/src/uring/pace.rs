//! When sends are worth keeping together.
//!
//! A send as a request costs more than the system call. What it saves is waking the peer: sends that follow each other
//! closely find it awake, sends with a long callback in between find it asleep each time. So a turn of many callbacks
//! is always gathered, and one of few only if callbacks are long, which is measured in a turn now and then.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// From so many on, sends are kept together however short their callbacks are.
const MANY: usize = 16;

/// Callbacks that take longer for each send are long: a peer on the same machine is through with a small message by
/// then and asleep. (Measured: an echo takes 1.2 µs, one on streams 1.3 to 2.1, an HTTP response 3.4.)
const LONG: Duration = Duration::from_micros(2);

/// Every so many turns, one is measured. Odd, as programs on tasks receive in one turn and send in the next.
const TURNS_PER_LOOK: u32 = 127;

/// What one loop's turns were like of late.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Turns to go until one is measured.
    turns: u32,
    /// When the turn began that is being measured.
    began: Option<Instant>,
    long: bool,
}

impl Pace {
    /// A turn begins, of about so many sends: whether to keep them together.
    #[inline]
    pub(super) fn begin(&mut self, sends: usize) -> bool {
        self.began = None;
        if !(2..MANY).contains(&sends) {
            return sends >= MANY;
        }
        if self.turns > 0 {
            self.turns -= 1;
            return self.long;
        }
        // Kept together, so that what is measured is the callbacks without their sends.
        self.turns = TURNS_PER_LOOK - 1;
        self.began = Some(Instant::now());
        true
    }

    /// The turn is over and has brought so many sends.
    #[inline]
    pub(super) fn end(&mut self, sends: usize) {
        if let Some(began) = self.began.take() {
            self.learn(began.elapsed(), sends);
        }
    }

    fn learn(&mut self, time: Duration, sends: usize) {
        if sends > 0 {
            self.long = time > LONG * sends as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the next turns of that size are gathered.
    fn gathered(pace: &mut Pace, sends: usize) -> usize {
        (0..10 * TURNS_PER_LOOK).filter(|_| pace.begin(sends)).count()
    }

    #[test]
    fn many_sends_are_gathered_and_a_lone_one_never_is() {
        for long in [false, true] {
            let mut pace = Pace { long, ..Pace::default() };
            assert_eq!(gathered(&mut pace, MANY), 10 * TURNS_PER_LOOK as usize);
            assert_eq!(gathered(&mut pace, 1), 0);
        }
    }

    #[test]
    fn few_are_gathered_after_long_callbacks_and_else_now_and_then() {
        let mut pace = Pace::default();
        pace.learn(LONG * 5, 4);
        assert_eq!(gathered(&mut pace, 4), 10 * TURNS_PER_LOOK as usize);
        pace.learn(LONG * 3, 4);
        assert_eq!(gathered(&mut pace, 4), 10, "the turns that are measured");
    }

    #[test]
    fn the_turns_that_are_measured_are_measured_to_their_end() {
        let mut pace = Pace::default();
        assert!(pace.begin(4));
        std::thread::sleep(LONG * 5);
        pace.end(4);
        assert!(pace.begin(4) && pace.long, "a long turn was taken for a short one");
        pace.end(4);
        assert!(pace.long, "a turn was measured that should not be");
    }

    #[test]
    fn a_turn_without_sends_says_nothing() {
        let mut pace = Pace::default();
        assert!(pace.begin(4));
        pace.end(0);
        assert!(!pace.begin(4));
    }
}
