//! Sends on their way.
//!
//! A send is queued until the next poll, then handed over with the others, and over as soon as the kernel has looked
//! at it. If all of it left, the kernel says nothing, which is the cheapest answer; otherwise a completion says how
//! much did. What is left then waits here, not in the kernel, until the stream's poll says that there is room. So the
//! kernel holds no memory of the caller's between two polls, a cancel takes effect at once, and a closed socket is
//! really closed.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use io_uring::squeue;

use super::sqe::{self, Tag};
use crate::api::Token;
use crate::attempt;

/// One send.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) token: Token,
    pub(super) stage: Stage,
    pub(super) cancelled: bool,
    fd: RawFd,
    slices: Slices,
    sent: usize,
    left: usize,
}

// SAFETY: the pointers name memory that the caller of `Backend::send` keeps valid, in whatever thread, or, in a list's
// header, the list's own.
unsafe impl Send for Flight {}

/// Where a send is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits for the next poll.
    Queued,
    /// The kernel has it or will take it; its completion has not been seen.
    Submitted,
    /// The stream was full; it waits for room.
    Blocked,
}

impl Flight {
    pub(super) fn new(token: Token, fd: RawFd, bufs: &[IoSlice<'_>]) -> Self {
        let left = bufs.iter().map(|buf| buf.len()).sum();
        Self { token, stage: Stage::Queued, cancelled: false, fd, slices: Slices::new(bufs), sent: 0, left }
    }

    /// The request for what is left.
    pub(super) fn request(&mut self, tag: Tag) -> squeue::Entry {
        self.stage = Stage::Submitted;
        match &mut self.slices {
            Slices::One(only) => sqe::send(self.fd, only, tag),
            Slices::Several(list) => sqe::send_message(self.fd, list.describe(), tag),
        }
    }

    /// The kernel has taken it and said nothing: all of it left. The result.
    pub(super) fn complete(&self) -> i32 {
        (self.sent + self.left) as i32
    }

    /// Tries what is left at once; the result if the send is over.
    pub(super) fn resume(&mut self) -> Option<i32> {
        let rest = self.slices.rest();
        // SAFETY: `iovec` has the layout of `IoSlice`, and the caller of `Backend::send` keeps the bytes valid.
        let rest = unsafe { std::slice::from_raw_parts(rest.as_ptr().cast::<IoSlice<'_>>(), rest.len()) };
        match attempt::send(self.fd, rest) {
            Ok(sent) => self.advance(sent as i32),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.advance(-libc::EAGAIN),
            Err(error) => self.advance(-error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    /// Counts what a request or an attempt has done; the result if the send is over.
    pub(super) fn advance(&mut self, result: i32) -> Option<i32> {
        self.stage = Stage::Blocked;
        match result {
            0.. => self.skip(result as usize),
            // A send that a signal interrupts has sent nothing; there may be room, and its poll would not say so again.
            _ if result == -libc::EINTR => return self.resume(),
            _ if result == -libc::EAGAIN => {}
            _ if self.sent > 0 => return Some(self.sent as i32),
            // Only of the peer that went while this waited to be handed over. Sent at once, it would have left, and the
            // stream would have ended with its own error (`ECONNRESET`).
            _ if result == -libc::EPIPE => return Some(self.own_error().unwrap_or(result)),
            _ => return Some(result),
        }
        let over = self.left == 0 || self.cancelled;
        over.then(|| self.result_now())
    }

    fn own_error(&self) -> Option<i32> {
        attempt::take_error(self.fd)?.raw_os_error().map(|errno| -errno)
    }

    /// The result if it ended now.
    pub(super) fn result_now(&self) -> i32 {
        if self.sent > 0 || self.left == 0 { self.sent as i32 } else { -libc::ECANCELED }
    }

    fn skip(&mut self, mut count: usize) {
        self.sent += count;
        self.left -= count;
        if let Slices::Several(list) = &mut self.slices {
            count -= list.skip_whole(count);
        }
        if let Some(slice) = self.slices.rest_mut().first_mut() {
            // Wrapping: the pointer stays inside its slice.
            slice.iov_base = slice.iov_base.wrapping_byte_add(count);
            slice.iov_len -= count;
        }
    }
}

/// What is to be sent; nearly always one slice, which needs no allocation.
#[derive(Debug)]
enum Slices {
    One([libc::iovec; 1]),
    Several(Box<List>),
}

/// Several slices, at a fixed address together with the header that names them.
#[derive(Debug)]
struct List {
    slices: Vec<libc::iovec>,
    /// The first that is not through.
    first: usize,
    header: libc::msghdr,
}

impl Slices {
    fn new(bufs: &[IoSlice<'_>]) -> Self {
        let part = |buf: &IoSlice<'_>| libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
        match bufs {
            [only] => Self::One([part(only)]),
            _ => {
                // SAFETY: all zero is a valid message: no name, no slices, no control data.
                let header = unsafe { MaybeUninit::zeroed().assume_init() };
                Self::Several(Box::new(List { slices: bufs.iter().map(part).collect(), first: 0, header }))
            }
        }
    }

    fn rest(&self) -> &[libc::iovec] {
        match self {
            Self::One(only) => only,
            Self::Several(list) => &list.slices[list.first..],
        }
    }

    fn rest_mut(&mut self) -> &mut [libc::iovec] {
        match self {
            Self::One(only) => only,
            Self::Several(list) => &mut list.slices[list.first..],
        }
    }
}

impl List {
    /// The header, which names what is left. The kernel copies it when it takes the request.
    fn describe(&mut self) -> &libc::msghdr {
        let rest = &mut self.slices[self.first..];
        self.header.msg_iov = rest.as_mut_ptr();
        self.header.msg_iovlen = rest.len() as _;
        &self.header
    }

    /// Goes past the slices that lie within the next `count` bytes; how many bytes those are.
    fn skip_whole(&mut self, count: usize) -> usize {
        let mut skipped = 0;
        while let Some(slice) = self.slices.get(self.first).filter(|slice| slice.iov_len <= count - skipped) {
            skipped += slice.iov_len;
            self.first += 1;
        }
        skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(bufs: &[&'static [u8]]) -> Flight {
        let slices: Vec<_> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
        Flight::new(Token::new(0, 0), -1, &slices)
    }

    fn rest(flight: &Flight) -> Vec<u8> {
        let slices = flight.slices.rest().iter();
        // SAFETY: the slices are parts of literals.
        slices
            .flat_map(|s| unsafe { std::slice::from_raw_parts(s.iov_base.cast::<u8>(), s.iov_len) })
            .copied()
            .collect()
    }

    #[test]
    fn what_left_is_skipped_byte_by_byte() {
        for first in 0..=9 {
            let mut flight = flight(&[b"abc", b"", b"def", b"ghi"]);
            assert_eq!(flight.advance(first), (first == 9).then_some(9));
            assert_eq!(rest(&flight), b"abcdefghi"[first as usize..]);
            if first < 9 {
                assert_eq!(flight.advance(-libc::EAGAIN), None);
                assert_eq!(flight.advance(9 - first), Some(9));
            }
        }
    }

    #[test]
    fn an_error_or_a_cancel_tells_what_had_left() {
        let mut broken = flight(&[b"abc"]);
        assert_eq!(broken.advance(-libc::EPIPE), Some(-libc::EPIPE));
        let mut late = flight(&[b"abc"]);
        assert_eq!(late.advance(1), None);
        assert_eq!(late.advance(-libc::EPIPE), Some(1));
        let mut cancelled = flight(&[b"abc"]);
        cancelled.cancelled = true;
        assert_eq!(cancelled.advance(-libc::EAGAIN), Some(-libc::ECANCELED));
    }
}
