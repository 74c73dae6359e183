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

/// The running slice of one loop.
#[derive(Debug, Default)]
pub struct Slice {
    began: f64,
    turns: u32,
    ended: bool,
}

impl Slice {
    /// Whether the turn that begins at `now` (seconds) should poll although callbacks are ready.
    pub fn is_over(&mut self, now: f64) -> bool {
        self.turns += 1;
        self.ended || self.turns >= MOST_TURNS || now - self.began >= LONGEST
    }

    /// The loop has polled at `now`.
    pub fn restart(&mut self, now: f64) {
        *self = Self { began: now, turns: 0, ended: false };
    }

    /// Has the next turn poll. Level-triggered watches that are ready want to be asked every turn.
    pub fn end(&mut self) {
        self.ended = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_ends_by_time_or_by_turns() {
        let mut slice = Slice::default();
        slice.restart(1.0);
        assert!(!slice.is_over(1.0));
        assert!(slice.is_over(1.0 + 30e-6));
        slice.restart(2.0);
        assert_eq!((1..).find(|_| slice.is_over(2.0)), Some(MOST_TURNS));
        slice.restart(3.0);
        slice.end();
        assert!(slice.is_over(3.0));
    }
}
