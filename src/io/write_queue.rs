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
const AT_ONCE_FROM: usize = 64 * 1024;

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

    /// Appends the head of the queue to `out`, up to its capacity.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        let mut skip = self.sent;
        for buffer in &self.buffers {
            let bytes = &buffer.as_ref()[skip..];
            let room = out.capacity() - out.len();
            out.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if out.len() == out.capacity() {
                return;
            }
            skip = 0;
        }
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
    fn a_copy_of_the_head_is_as_long_as_its_room() {
        let mut queue = queue(&["one", "two", "three"]);
        queue.advance(1, drop);
        for room in 1..=10 {
            let mut copy = Vec::with_capacity(room);
            queue.copy_to(&mut copy);
            assert_eq!(copy, b"netwothree"[..copy.len()]);
            assert!(copy.len() >= room.min(10), "{copy:?}");
        }
        assert_eq!(queue.head(), Some((&"one".as_bytes(), 1)));
    }

    #[test]
    fn gathering_stops_at_the_room_given() {
        assert_eq!(gathered(&queue(&["a", "b", "c"]), 2), b"ab");
    }
}
