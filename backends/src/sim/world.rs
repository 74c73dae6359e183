//! The world around a [`Sim`](super::Sim): stream sockets in memory, a clock that moves only when somebody waits, and
//! an agenda of what will happen when.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::errno::Errno;

use crate::api::{Interest, Token};
use crate::slots::Slots;
use crate::wake::Waker;

/// How many bytes a socket holds for its reader.
pub const CAPACITY: usize = 64 * 1024;

/// A handle on the world; clones are the same world.
#[derive(Clone, Debug, Default)]
pub struct World(Arc<Mutex<State>>);

/// Something that happens at a point in time.
#[derive(Clone, Debug)]
pub enum Deed {
    /// These bytes are written to an fd.
    Write(RawFd, Vec<u8>),
    /// At most so many bytes are read from an fd and thrown away.
    Read(RawFd, usize),
    /// An fd is closed.
    Close(RawFd),
    /// Somebody calls the loop.
    Wake(Waker),
    /// A signal arrives.
    Signal,
}

impl World {
    /// The time since the world began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.state().now
    }

    /// Two connected, non-blocking stream sockets. Numbers are given away as Unix does it: the lowest free one.
    #[must_use]
    pub fn pair(&self) -> (RawFd, RawFd) {
        let mut state = self.state();
        let one = state.files.insert(File::default());
        let two = state.files.insert(File { other: Some(one), ..File::default() });
        if let Some(file) = state.files.get_mut(one) {
            file.other = Some(two);
        }
        (state.number(one), state.number(two))
    }

    /// Writes what fits.
    ///
    /// # Errors
    /// `EAGAIN`, `EPIPE`, `ECONNRESET`, `EBADF`.
    pub fn write(&self, fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        let file = state.open_file(fd)?;
        state.send(file, bytes)
    }

    /// Reads at most `most` bytes; none is the end of the stream.
    ///
    /// # Errors
    /// `EAGAIN`, `ECONNRESET`, `EBADF`.
    pub fn read(&self, fd: RawFd, most: usize) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let file = state.open_file(fd)?;
        let file = state.files.get_mut(file).ok_or(Errno::EBADF)?;
        if file.reset {
            return Err(Errno::ECONNRESET.into());
        }
        if file.inbox.is_empty() && !file.ended {
            return Err(Errno::EAGAIN.into());
        }
        let count = most.min(file.inbox.len());
        Ok(file.inbox.drain(..count).collect())
    }

    /// Sends the end of the stream.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn shutdown_write(&self, fd: RawFd) -> io::Result<()> {
        let mut state = self.state();
        let file = state.open_file(fd)?;
        state.shut(file);
        Ok(())
    }

    /// Closes an fd. The other side reads the end of the stream, or a reset if something was left unread here.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close(&self, fd: RawFd) -> io::Result<()> {
        let mut state = self.state();
        let token = state.open_file(fd)?;
        state.fds[fd as usize] = None;
        state.shut(token);
        let file = state.files.remove(token).ok_or(Errno::EBADF)?;
        if let Some(other) = file.other.and_then(|other| state.files.get_mut(other)) {
            other.other = None;
            other.reset = !file.inbox.is_empty();
        }
        Ok(())
    }

    /// Whether the number names an open file.
    #[must_use]
    pub fn is_open(&self, fd: RawFd) -> bool {
        self.state().open_file(fd).is_ok()
    }

    /// Puts something on the agenda.
    pub fn later(&self, after: Duration, deed: Deed) {
        let mut state = self.state();
        let when = state.now + after;
        let place = state.agenda.partition_point(|(due, _)| *due <= when);
        state.agenda.insert(place, (when, deed));
    }

    /// The file behind an fd.
    pub(super) fn file(&self, fd: RawFd) -> io::Result<Token> {
        self.state().open_file(fd)
    }

    /// Sends on a file that may have no fd any more.
    pub(super) fn send(&self, file: Token, bytes: &[u8]) -> io::Result<usize> {
        self.state().send(file, bytes)
    }

    /// What an epoll would say of a file; nothing once it is closed.
    pub(super) fn ready(&self, file: Token) -> Interest {
        self.state().ready(file)
    }

    /// Moves the clock to the next item of the agenda, no further than `limit`, and does it. Without an item it moves
    /// to `limit`, if there is one. Returns what was done.
    pub(super) fn advance(&self, limit: Option<Duration>) -> Advance {
        let mut state = self.state();
        match state.agenda.front() {
            Some((when, _)) if limit.is_none_or(|limit| *when <= limit) => {}
            _ => {
                let Some(limit) = limit else { return Advance::Stuck };
                state.now = limit.max(state.now);
                return Advance::Elapsed;
            }
        }
        let Some((when, deed)) = state.agenda.pop_front() else { return Advance::Stuck };
        state.now = when.max(state.now);
        drop(state);
        self.perform(deed)
    }

    /// Whether something on the agenda is due now.
    pub(super) fn is_due(&self) -> bool {
        let state = self.state();
        state.agenda.front().is_some_and(|(when, _)| *when <= state.now)
    }

    /// What cannot be done (the fd is closed by now) is not.
    fn perform(&self, deed: Deed) -> Advance {
        match deed {
            Deed::Write(fd, bytes) => drop(self.write(fd, &bytes)),
            Deed::Read(fd, most) => drop(self.read(fd, most)),
            Deed::Close(fd) => drop(self.close(fd)),
            Deed::Wake(waker) => waker.wake(),
            Deed::Signal => return Advance::Signalled,
        }
        Advance::Happened
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What became of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advance {
    /// The limit was reached and nothing happened.
    Elapsed,
    /// Something happened.
    Happened,
    /// A signal arrived.
    Signalled,
    /// Nothing will ever happen.
    Stuck,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    files: Slots<File>,
    fds: Vec<Option<Token>>,
    /// By time; what was added first comes first.
    agenda: VecDeque<(Duration, Deed)>,
}

/// One end of a stream.
#[derive(Debug, Default)]
struct File {
    /// `None` once it is closed.
    other: Option<Token>,
    inbox: VecDeque<u8>,
    /// The other side sends no more.
    ended: bool,
    /// This side sends no more.
    shut: bool,
    /// The other side was closed with data unread.
    reset: bool,
}

impl State {
    fn number(&mut self, file: Token) -> RawFd {
        let lowest = self.fds.iter().position(Option::is_none).unwrap_or_else(|| {
            self.fds.push(None);
            self.fds.len() - 1
        });
        self.fds[lowest] = Some(file);
        lowest as RawFd
    }

    fn open_file(&self, fd: RawFd) -> io::Result<Token> {
        let slot = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        Ok(self.fds.get(slot).copied().flatten().ok_or(Errno::EBADF)?)
    }

    fn send(&mut self, file: Token, bytes: &[u8]) -> io::Result<usize> {
        let file = self.files.get(file).ok_or(Errno::EBADF)?;
        if file.reset {
            return Err(Errno::ECONNRESET.into());
        }
        let Some(other) = file.other.filter(|_| !file.shut).and_then(|other| self.files.get_mut(other)) else {
            return Err(Errno::EPIPE.into());
        };
        let count = bytes.len().min(CAPACITY - other.inbox.len());
        if count == 0 && !bytes.is_empty() {
            return Err(Errno::EAGAIN.into());
        }
        other.inbox.extend(&bytes[..count]);
        Ok(count)
    }

    fn shut(&mut self, file: Token) {
        let Some(file) = self.files.get_mut(file) else { return };
        file.shut = true;
        if let Some(other) = file.other.and_then(|other| self.files.get_mut(other)) {
            other.ended = true;
        }
    }

    fn ready(&self, file: Token) -> Interest {
        let Some(file) = self.files.get(file) else { return Interest::NONE };
        let Some(other) = file.other.and_then(|other| self.files.get(other)) else {
            return Interest::BOTH | Interest::CLOSED;
        };
        let mut ready = Interest::NONE;
        if !file.inbox.is_empty() {
            ready = ready | Interest::READ;
        }
        if file.ended {
            ready = ready | Interest::READ | Interest::CLOSED;
        }
        if other.inbox.len() < CAPACITY {
            ready = ready | Interest::WRITE;
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_and_numbers_are_reused() {
        let world = World::default();
        let (one, two) = world.pair();
        assert_eq!((one, two), (0, 1));
        assert_eq!(world.write(one, b"hello").unwrap(), 5);
        assert_eq!(world.read(two, 4).unwrap(), b"hell");
        assert_eq!(world.read(one, 4).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        world.close(one).unwrap();
        assert_eq!(world.read(two, 9).unwrap(), b"o");
        assert_eq!(world.read(two, 9).unwrap(), b"");
        assert_eq!(world.pair().0, 0);
        assert_eq!(world.write(two, b"x").unwrap_err().raw_os_error(), Some(libc::EPIPE));
    }

    #[test]
    fn unread_bytes_turn_a_close_into_a_reset() {
        let world = World::default();
        let (one, two) = world.pair();
        world.write(one, b"unread").unwrap();
        world.close(two).unwrap();
        assert_eq!(world.read(one, 1).unwrap_err().raw_os_error(), Some(libc::ECONNRESET));
    }

    #[test]
    fn the_agenda_is_kept_in_order() {
        let world = World::default();
        let (one, two) = world.pair();
        world.later(Duration::from_secs(2), Deed::Write(one, b"b".to_vec()));
        world.later(Duration::from_secs(1), Deed::Write(one, b"a".to_vec()));
        assert_eq!(world.advance(Some(Duration::from_millis(500))), Advance::Elapsed);
        assert_eq!(world.now(), Duration::from_millis(500));
        assert_eq!(world.advance(None), Advance::Happened);
        assert_eq!(world.now(), Duration::from_secs(1));
        assert_eq!(world.advance(None), Advance::Happened);
        assert_eq!(world.read(two, 9).unwrap(), b"ab");
        assert_eq!(world.advance(None), Advance::Stuck);
    }
}
