//! The bytes of a stream that have not left yet, as the buffers in which they came.

use std::collections::VecDeque;
use std::io::IoSlice;

/// A queue of buffers with an offset into the first: what a partial send leaves is never moved.
#[derive(Debug)]
pub struct WriteQueue<B> {
    buffers: VecDeque<B>,
    /// How much of the first buffer has left.
    sent: usize,
    /// Unsent bytes in all buffers.
    len: usize,
}

impl<B> Default for WriteQueue<B> {
    fn default() -> Self {
        Self { buffers: VecDeque::new(), sent: 0, len: 0 }
    }
}

/// So many bytes of one transport are not held back for the end of the callback.
pub const AT_ONCE_FROM: usize = 64 * 1024;

impl<B: AsRef<[u8]>> WriteQueue<B> {
    /// Whether so much waits that it is sent at once, and not when the callback returns. Above the high mark it is, so
    /// that protocols are paused by what the kernel does not take only.
    #[must_use]
    pub fn is_large(&self, high_mark: usize) -> bool {
        self.len > AT_ONCE_FROM.min(high_mark)
    }

    /// Adds a buffer, which must not be empty.
    pub fn push(&mut self, buffer: B) {
        let len = buffer.as_ref().len();
        debug_assert!(len > 0, "an empty buffer would never be seen to leave");
        self.len += len;
        self.buffers.push_back(buffer);
    }

    /// Unsent bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether all bytes have left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// In how many buffers the unsent bytes are.
    #[must_use]
    pub fn buffers(&self) -> usize {
        self.buffers.len()
    }

    /// Fills `slices` with the head of the queue and says how many it filled.
    pub fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.sent;
        let mut filled = 0;
        for (slice, buffer) in slices.iter_mut().zip(&self.buffers) {
            *slice = IoSlice::new(&buffer.as_ref()[skip..]);
            skip = 0;
            filled += 1;
        }
        filled
    }

    /// The first buffer, and how much of it has left.
    #[must_use]
    pub fn head(&self) -> Option<(&B, usize)> {
        self.buffers.front().map(|buffer| (buffer, self.sent))
    }

    /// The first `limit` unsent bytes, or all if there are fewer, in the pieces in which they are.
    pub fn pieces(&self, limit: usize) -> impl Iterator<Item = &[u8]> {
        let (mut skip, mut left) = (self.sent, limit);
        self.buffers.iter().map_while(move |buffer| {
            let rest = &buffer.as_ref()[std::mem::take(&mut skip)..];
            let piece = &rest[..rest.len().min(left)];
            left -= piece.len();
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// How many bytes are in the buffers before the first one of at least `large` bytes, and whether there is such a one.
    #[must_use]
    pub fn small_head(&self, large: usize) -> (usize, bool) {
        let (mut skip, mut length) = (self.sent, 0);
        for buffer in &self.buffers {
            let rest = buffer.as_ref().len() - skip;
            if rest >= large {
                return (length, true);
            }
            length += rest;
            skip = 0;
        }
        (length, false)
    }

    /// `count` bytes have left; `gone` gets each buffer that is done with.
    pub fn advance(&mut self, count: usize, mut gone: impl FnMut(B)) {
        assert!(count <= self.len, "more left than there was");
        self.len -= count;
        self.sent += count;
        while let Some(head) = self.buffers.front().map(|head| head.as_ref().len()).filter(|head| *head <= self.sent) {
            self.sent -= head;
            self.buffers.pop_front().into_iter().for_each(&mut gone);
        }
    }

    /// Gives up all unsent bytes.
    #[must_use]
    pub fn take_all(&mut self) -> VecDeque<B> {
        self.sent = 0;
        self.len = 0;
        std::mem::take(&mut self.buffers)
    }

    /// The buffers, for garbage collectors.
    pub fn iter(&self) -> impl Iterator<Item = &B> {
        self.buffers.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(parts: &[&'static str]) -> WriteQueue<&'static [u8]> {
        let mut queue = WriteQueue::default();
        parts.iter().for_each(|part| queue.push(part.as_bytes()));
        queue
    }

    fn gathered(queue: &WriteQueue<&'static [u8]>, room: usize) -> Vec<u8> {
        let mut slices = vec![IoSlice::new(&[]); room];
        let filled = queue.gather(&mut slices);
        slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn every_split_of_the_bytes_leaves_the_rest_in_order() {
        let whole = b"onetwothree";
        for first in 0..=whole.len() {
            for second in 0..=whole.len() - first {
                let mut queue = queue(&["one", "two", "three"]);
                queue.advance(first, drop);
                queue.advance(second, drop);
                assert_eq!(gathered(&queue, 8), whole[first + second..]);
                assert_eq!(queue.len(), whole.len() - first - second);
            }
        }
    }

    #[test]
    fn buffers_are_released_as_soon_as_they_have_left() {
        let mut queue = queue(&["one", "two", "three"]);
        let mut gone = Vec::new();
        queue.advance(7, |buffer| gone.push(buffer));
        assert_eq!(gone, [b"one", b"two"]);
        assert_eq!(gathered(&queue, 1), b"hree");
        assert_eq!(queue.take_all().len(), 1);
        assert!(queue.is_empty());
    }

    #[test]
    fn pieces_of_the_head_are_as_long_as_asked_for() {
        let mut queue = queue(&["one", "two", "three"]);
        queue.advance(1, drop);
        for limit in 0..=12 {
            let copy: Vec<u8> = queue.pieces(limit).flatten().copied().collect();
            assert_eq!(copy, b"netwothree"[..limit.min(10)]);
        }
        assert_eq!(queue.head(), Some((&"one".as_bytes(), 1)));
    }

    #[test]
    fn small_buffers_are_counted_up_to_the_first_large_one() {
        let mut queue = queue(&["one", "two", "three", "four"]);
        assert_eq!(queue.small_head(5), (6, true));
        queue.advance(1, drop);
        assert_eq!(queue.small_head(3), (2, true));
        assert_eq!(queue.small_head(2), (0, true));
        assert_eq!(queue.small_head(6), (14, false));
    }

    #[test]
    fn gathering_stops_at_the_room_given() {
        assert_eq!(gathered(&queue(&["a", "b", "c"]), 2), b"ab");
    }
}
