//! How long the loop holds back what callbacks write.
//!
//! As a rule until the callback returns. In a turn of many callbacks it waits for some of the others: sends that follow
//! each other closely find a peer on the same machine awake, with a callback in between each has to wake it; and copies of
//! large data, which push the interpreter out of the processor's cache, do so once for all of them.
#![forbid(unsafe_code)]

use super::slice::Clocks;

/// A turn of so many callbacks is a crowd.
const CROWD: usize = 16;

/// In a crowd so many transports are written to before their data leaves.
const GROUP: usize = 32;

/// What would leave at once waits, too, unless a transport has more of it or it is such an answer as below.
const LARGE: usize = 256 * 1024;

/// Of such data no more waits in all: what is held must not grow without bounds.
const ROOM: usize = 4 * 1024 * 1024;

/// A larger answer of a protocol to what it gets waits for nobody: it is in the processor's cache now, and with so little in
/// between the peer is awake. (Measured: 10 KiB cost 3 % more when they waited.)
const ANSWER: usize = 4 * 1024;

/// What one turn holds back.
#[derive(Debug, Default)]
pub struct Hold {
    /// So many transports may wait for the others, less one.
    most: usize,
    /// So many large bytes more may; none but in a crowd.
    room: usize,
    /// The running callback has been given data.
    answers: bool,
    /// What it wrote waits for nobody.
    alone: bool,
    /// The coarse clock when the first of them could begin to.
    tick: u64,
}

impl Hold {
    /// A turn of so many callbacks begins.
    #[inline]
    pub fn begin(callbacks: usize, clocks: &impl Clocks) -> Self {
        if callbacks < CROWD {
            Self { most: 1, ..Self::default() }
        } else {
            Self { most: GROUP, room: ROOM, tick: clocks.coarse(), ..Self::default() }
        }
    }

    /// The turn's next callback begins, one that gets data and `answers` or any other.
    #[inline]
    pub fn next(&mut self, answers: bool) {
        (self.answers, self.alone) = (answers, false);
    }

    /// It has written so many bytes to a transport, the first ones that wait there.
    #[inline]
    pub fn wrote(&mut self, bytes: usize) {
        self.alone |= self.answers && bytes > ANSWER;
    }

    /// Whether so many bytes, which would leave at once, wait for others, too.
    pub fn takes(&mut self, bytes: usize) -> bool {
        let takes = self.room > 0 && bytes <= LARGE && !self.answers;
        if takes {
            self.room = self.room.saturating_sub(bytes);
        }
        takes
    }

    /// Whether the data of so many transports leaves now that a callback has returned. One that took long keeps none of it
    /// waiting.
    #[inline]
    pub fn is_over(&self, transports: usize, clocks: &impl Clocks) -> bool {
        let over = transports >= self.most || self.alone || self.room == 0;
        transports > 0 && (over || clocks.coarse() != self.tick)
    }

    /// All of it has left.
    #[inline]
    pub fn restart(&mut self, clocks: &impl Clocks) {
        if self.most > 1 {
            (self.room, self.tick) = (ROOM, clocks.coarse());
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
        let mut hold = Hold::begin(CROWD - 1, &Tick(7));
        assert!(!hold.takes(1));
        assert!(hold.is_over(1, &Tick(7)));
        assert!(!hold.is_over(0, &Tick(8)), "there is nothing to send");
    }

    #[test]
    fn a_crowd_is_sent_by_the_group() {
        let hold = Hold::begin(CROWD, &Tick(7));
        assert_eq!((0..).find(|count| hold.is_over(*count, &Tick(7))), Some(GROUP));
    }

    #[test]
    fn large_writes_end_the_group_when_there_is_no_room() {
        let mut hold = Hold::begin(CROWD, &Tick(7));
        assert!(!hold.takes(LARGE + 1) && !hold.is_over(1, &Tick(7)), "too large for any group");
        for _ in 1..ROOM / LARGE {
            assert!(hold.takes(LARGE) && !hold.is_over(1, &Tick(7)));
        }
        assert!(hold.takes(LARGE - 1) && !hold.is_over(1, &Tick(7)), "there is room for one byte");
        assert!(hold.takes(LARGE) && hold.is_over(2, &Tick(7)), "the last one may be more than there is room for");
        assert!(!hold.takes(1));
        hold.restart(&Tick(7));
        assert!(hold.takes(1) && !hold.is_over(1, &Tick(7)));
    }

    #[test]
    fn large_answers_wait_for_nobody() {
        let mut hold = Hold::begin(CROWD, &Tick(7));
        hold.next(true);
        hold.wrote(ANSWER);
        assert!(!hold.takes(1) && !hold.is_over(1, &Tick(7)));
        hold.wrote(ANSWER + 1);
        assert!(hold.is_over(1, &Tick(7)) && !hold.is_over(0, &Tick(7)));
        hold.next(false);
        hold.wrote(ANSWER + 1);
        assert!(hold.takes(1) && !hold.is_over(1, &Tick(7)), "it is no answer");
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
