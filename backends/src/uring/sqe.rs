//! Requests, and whom their completions are for.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use io_uring::{opcode, squeue, types::Fd};

use crate::api::Interest;
use crate::fd;

/// What a completion is about. The 64 bits that the kernel carries: the kind in 2, the serial number in 30, the slot
/// in 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// The poll of a file: its slot, and the serial number under which it was armed.
    Poll(u32, Serial),
    /// A send, by its place.
    Send(u32),
    /// The poll of the doorbell.
    Alarm,
    /// Nobody waits for this.
    Nobody,
}

/// Tells one arming of a poll from the next; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Serial(u32);

impl Serial {
    /// Not armed.
    pub(super) const NONE: Self = Self(0);

    const LAST: u32 = (1 << 30) - 1;

    /// The one after this. They repeat after a billion, by which time nobody remembers.
    pub(super) fn next(self) -> Self {
        Self((self.0 % Self::LAST) + 1)
    }

    /// Whether it was given out later, by less than half a round.
    pub(super) fn is_after(self, other: Self) -> bool {
        (1..=Self::LAST / 2).contains(&((self.0 + Self::LAST - other.0) % Self::LAST))
    }
}

impl Tag {
    pub(super) fn to_bits(self) -> u64 {
        match self {
            Self::Poll(slot, serial) => (1 << 62) | (u64::from(serial.0) << 32) | u64::from(slot),
            Self::Send(place) => (2 << 62) | u64::from(place),
            Self::Alarm => 3 << 62,
            Self::Nobody => 0,
        }
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        match bits >> 62 {
            1 => Self::Poll(bits as u32, Serial(((bits >> 32) & ((1 << 30) - 1)) as u32)),
            2 => Self::Send(bits as u32),
            3 => Self::Alarm,
            _ => Self::Nobody,
        }
    }
}

/// A request that points to nothing, so that nobody has to keep anything alive for it.
pub(super) struct Plain(pub(super) squeue::Entry);

/// Reports whenever a direction turns ready, and at first if it is, until it is removed. The kernel adds hang-ups, errors
/// and the end of what the peer sends.
pub(super) fn poll_edges(fd: RawFd, interest: Interest, tag: Tag) -> Plain {
    Plain(opcode::PollAdd::new(Fd(fd), flags(interest)).multi(true).build().user_data(tag.to_bits()))
}

/// Reports once; at once if the condition holds. Armed again for each wait, that is level-triggered. The kernel adds
/// hang-ups, errors and the end of what the peer sends.
pub(super) fn poll_once(fd: RawFd, interest: Interest, tag: Tag) -> Plain {
    Plain(opcode::PollAdd::new(Fd(fd), flags(interest)).build().user_data(tag.to_bits()))
}

fn flags(interest: Interest) -> u32 {
    let mut flags = 0;
    if interest.contains(Interest::READ) {
        flags |= libc::POLLIN | libc::POLLRDHUP;
    }
    if interest.contains(Interest::WRITE) {
        flags |= libc::POLLOUT;
    }
    flags as u32
}

/// What of it is ready at this moment.
pub(super) fn ready_now(fd: RawFd, interest: Interest) -> Interest {
    ready(i32::from(fd::look(fd, flags(interest) as libc::c_short)))
}

/// Reports every ring of the doorbell, which is never read.
pub(super) fn poll_alarm(fd: RawFd) -> Plain {
    Plain(opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).multi(true).build().user_data(Tag::Alarm.to_bits()))
}

/// Ends the poll with this tag, whose completion is `-ECANCELED` then. A request to remove a poll would not do: the
/// kernel refuses it while the poll has something to report, and lets the poll live on.
pub(super) fn cancel_poll(tag: Tag) -> Plain {
    Plain(silent(opcode::AsyncCancel::new(tag.to_bits()).build(), Tag::Nobody))
}

/// Never waits for room (`DONTWAIT`): the request is over when the call that hands it over returns, so nothing of a send
/// is left in the kernel between two polls. And less than all of it is a failure (`WAITALL`), whose completion says how
/// much left; success has none.
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

pub(super) fn send(fd: RawFd, bytes: &[libc::iovec; 1], tag: Tag) -> squeue::Entry {
    let [bytes] = bytes;
    let request = opcode::Send::new(Fd(fd), bytes.iov_base.cast_const().cast(), bytes.iov_len as u32);
    silent(request.flags(SEND_FLAGS).build(), tag)
}

pub(super) fn send_message(fd: RawFd, header: &libc::msghdr, tag: Tag) -> squeue::Entry {
    silent(opcode::SendMsg::new(Fd(fd), header).flags(SEND_FLAGS as u32).build(), tag)
}

/// A request that completes only if it fails.
fn silent(request: squeue::Entry, tag: Tag) -> squeue::Entry {
    request.flags(squeue::Flags::SKIP_SUCCESS).user_data(tag.to_bits())
}

/// As `selectors` of Python maps them: a dead fd is ready in both directions.
#[inline]
pub(super) fn ready(flags: i32) -> Interest {
    let flags = flags as libc::c_short;
    let mut ready = Interest::NONE;
    if flags & libc::POLLIN != 0 {
        ready = ready | Interest::READ;
    }
    if flags & libc::POLLOUT != 0 {
        ready = ready | Interest::WRITE;
    }
    if flags & libc::POLLRDHUP != 0 {
        ready = ready | Interest::READ | Interest::CLOSED;
    }
    if flags & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
        ready = ready | Interest::BOTH | Interest::CLOSED;
    }
    ready
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_survive_the_kernel() {
        let mut serial = Serial::NONE;
        for slot in [0, 1, u32::MAX] {
            serial = serial.next();
            for tag in [Tag::Poll(slot, serial), Tag::Send(slot), Tag::Alarm, Tag::Nobody] {
                assert_eq!(Tag::from_bits(tag.to_bits()), tag);
            }
        }
    }

    #[test]
    fn serial_numbers_start_over_and_leave_zero_out() {
        let last = Serial(Serial::LAST);
        assert_eq!(last.next(), Serial(1));
        assert_eq!(Tag::from_bits(Tag::Poll(7, last).to_bits()), Tag::Poll(7, last));
        assert_ne!(Serial::NONE.next(), Serial::NONE);
        for first in [Serial::NONE, Serial(7), last] {
            let second = first.next();
            assert!(second.is_after(first) && second.next().is_after(first));
            assert!(!first.is_after(first) && !first.is_after(second));
        }
    }
}
