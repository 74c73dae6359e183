//! How often a busy loop looks at the kernel.
//!
//! A poll costs a system call. While callbacks keep each other ready, the loop polls once per slice instead of once per
//! turn, so that a chain of callbacks pays almost nothing for it and a quiet socket is never starved.
#![forbid(unsafe_code)]

/// The longest time, in seconds, that ready callbacks may keep the loop from polling. Callbacks themselves are not
/// interrupted, so a slice ends with the first turn that ends after this.
const LONGEST: f64 = 25e-6;
/// Turns of a slice, so that even a stopped clock ends it.
const MOST_TURNS: u32 = 256;
/// Turns between two looks at the exact clock.
const TURNS_PER_LOOK: u32 = 8;

/// The running slice of one loop.
#[derive(Debug, Default)]
pub struct Slice {
    began: f64,
    /// The coarse clock at that moment.
    tick: u64,
    turns: u32,
    ended: bool,
}

/// The clocks that slices are measured with.
pub trait Clocks {
    /// Seconds. Reading it costs as much as running a small callback, so it is read once in a few turns.
    fn exact(&self) -> f64;
    /// A number that changes every few milliseconds and is nearly free to read: whatever took long is noticed at once.
    fn coarse(&self) -> u64;
}

impl Slice {
    /// Whether the next turn should poll although callbacks are ready.
    pub fn is_over(&mut self, clocks: &impl Clocks) -> bool {
        self.turns += 1;
        if self.turns == 1 && !self.ended {
            // What the poll itself brought does not count: a slice is for what that made ready.
            (self.began, self.tick) = (clocks.exact(), clocks.coarse());
            return false;
        }
        self.ended
            || self.turns >= MOST_TURNS
            || clocks.coarse() != self.tick
            || (self.turns.is_multiple_of(TURNS_PER_LOOK) && clocks.exact() - self.began >= LONGEST)
    }

    /// The loop has polled.
    pub fn restart(&mut self) {
        *self = Self::default();
    }

    /// Has the next turn poll. Level-triggered watches that are ready want to be asked every turn.
    pub fn end(&mut self) {
        self.ended = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Clocks for (f64, u64) {
        fn exact(&self) -> f64 {
            self.0
        }
        fn coarse(&self) -> u64 {
            self.1
        }
    }

    fn begun() -> Slice {
        let mut slice = Slice::default();
        assert!(!slice.is_over(&(2.0, 7)));
        slice
    }

    #[test]
    fn a_slice_ends_by_turns_even_if_the_clocks_stand_still() {
        let mut slice = begun();
        assert_eq!((2..).find(|_| slice.is_over(&(2.0, 7))), Some(MOST_TURNS));
    }

    #[test]
    fn a_slice_ends_by_time() {
        let mut slice = begun();
        assert_eq!((2..).find(|_| slice.is_over(&(2.0 + 30e-6, 7))), Some(TURNS_PER_LOOK));
    }

    #[test]
    fn one_long_callback_ends_the_slice_at_once() {
        assert!(begun().is_over(&(2.1, 8)));
    }

    #[test]
    fn a_slice_can_be_ended() {
        let mut slice = begun();
        slice.end();
        assert!(slice.is_over(&(2.0, 7)));
        slice.restart();
        assert!(!slice.is_over(&(2.0, 7)));
    }
}
