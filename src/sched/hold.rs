//! How long the loop holds back what callbacks write.
//!
//! As a rule until the callback returns. In a turn of many callbacks it waits for some of the others: sends that follow
//! each other closely find a peer on the same machine awake, with a callback in between each has to wake it.
#![forbid(unsafe_code)]

use super::slice::Clocks;

/// A turn of so many callbacks is a crowd, and so many transports are written to before their data leaves.
const CROWD: usize = 16;

/// What one turn holds back.
#[derive(Debug)]
pub struct Hold {
    /// So many transports may wait for the others, less one.
    most: usize,
    /// The coarse clock when the first of them could begin to.
    tick: u64,
}

impl Hold {
    /// A turn of so many callbacks begins.
    #[inline]
    pub fn begin(callbacks: usize, clocks: &impl Clocks) -> Self {
        if callbacks < CROWD { Self { most: 1, tick: 0 } } else { Self { most: CROWD, tick: clocks.coarse() } }
    }

    /// Whether the data of so many transports leaves now. A callback that took long keeps none of it waiting.
    #[inline]
    pub fn is_over(&self, transports: usize, clocks: &impl Clocks) -> bool {
        transports >= self.most || (transports > 0 && clocks.coarse() != self.tick)
    }

    /// All of it has left.
    #[inline]
    pub fn restart(&mut self, clocks: &impl Clocks) {
        if self.most > 1 {
            self.tick = clocks.coarse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tick(u64);

    impl Clocks for Tick {
        fn exact(&self) -> f64 {
            unreachable!("too dear to be read for each callback")
        }
        fn coarse(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn few_callbacks_wait_for_nobody() {
        let hold = Hold::begin(CROWD - 1, &Tick(7));
        assert!(hold.is_over(1, &Tick(7)));
        assert!(!hold.is_over(0, &Tick(8)), "there is nothing to send");
    }

    #[test]
    fn a_crowd_is_sent_by_the_group() {
        let hold = Hold::begin(CROWD, &Tick(7));
        assert_eq!((0..).find(|count| hold.is_over(*count, &Tick(7))), Some(CROWD));
    }

    #[test]
    fn one_long_callback_ends_it_once() {
        let mut hold = Hold::begin(CROWD, &Tick(7));
        assert!(hold.is_over(1, &Tick(8)));
        assert!(!hold.is_over(0, &Tick(8)), "there is nothing to send");
        hold.restart(&Tick(8));
        assert!(!hold.is_over(1, &Tick(8)));
    }
}
