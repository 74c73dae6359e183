//! poll(2): any Unix, the fallback of last resort.
//!
//! Everything is kept here and handed to the kernel with every wait, so its price grows with the number of fds. It
//! knows no edges. Directly on the system call, because libraries that hide the kernel's interface would choose
//! epoll or kqueue again, where these exist.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::selector::{Change, Selector, Wanted, whole_milliseconds};
use crate::api::{Interest, Token, Wait};
use crate::fd;

/// The selector on poll(2).
#[derive(Debug, Default)]
pub struct Poll {
    fds: Vec<PollFd<'static>>,
    /// The token of each fd, at the same index.
    tokens: Vec<Token>,
    places: HashMap<Token, usize>,
    /// Where the next look begins: at what did not fit.
    first: usize,
}

impl Selector for Poll {
    const NAME: &'static str = "poll";
    const EDGES: bool = false;

    fn open() -> io::Result<Self> {
        Ok(Self::default())
    }

    fn features(&self) -> Vec<&'static str> {
        vec!["whole milliseconds"]
    }

    fn set(&mut self, fd: RawFd, token: Token, wanted: Wanted, change: Change) -> io::Result<()> {
        if wanted.interest.is_empty() {
            // The kernel reports hang-ups whether asked for or not; so what sleeps must not be in the list.
            self.remove(fd, token);
            return Ok(());
        }
        let fd = if change == Change::Rearm { fd::borrow(fd)? } else { fd::waitable(fd)? };
        let entry = PollFd::new(fd, flags(wanted.interest));
        match self.places.get(&token) {
            Some(place) => self.fds[*place] = entry,
            None => {
                self.places.insert(token, self.fds.len());
                self.fds.push(entry);
                self.tokens.push(token);
            }
        }
        Ok(())
    }

    fn remove(&mut self, _fd: RawFd, token: Token) {
        let Some(place) = self.places.remove(&token) else { return };
        self.fds.swap_remove(place);
        self.tokens.swap_remove(place);
        if let Some(moved) = self.tokens.get(place) {
            self.places.insert(*moved, place);
        }
    }

    fn wait(&mut self, wait: Wait, limit: usize, mut found: impl FnMut(Token, Interest)) -> io::Result<()> {
        let timeout = match wait {
            Wait::Now => PollTimeout::ZERO,
            Wait::For(time) => whole_milliseconds(time),
            Wait::Forever => PollTimeout::NONE,
        };
        let count = match poll(&mut self.fds, timeout) {
            Ok(count) => count as usize,
            // EAGAIN: the kernel is short of memory for a moment.
            Err(Errno::EINTR | Errno::EAGAIN) => 0,
            Err(error) => return Err(error.into()),
        };
        let first = std::mem::take(&mut self.first).min(self.fds.len());
        let places = (first..self.fds.len()).chain(0..first);
        let ready = places.filter(|place| self.fds[*place].any() == Some(true)).take(count);
        for (index, place) in ready.enumerate() {
            if index == limit {
                self.first = place;
                break;
            }
            found(self.tokens[place], reported(self.fds[place].revents().unwrap_or(PollFlags::POLLERR)));
        }
        Ok(())
    }
}

fn flags(interest: Interest) -> PollFlags {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::POLLIN, interest.contains(Interest::READ));
    flags.set(PollFlags::POLLOUT, interest.contains(Interest::WRITE));
    flags
}

/// As `selectors` of Python maps them: a dead fd is ready in both directions.
fn reported(flags: PollFlags) -> Interest {
    let mut ready = Interest::NONE;
    if flags.contains(PollFlags::POLLIN) {
        ready = ready | Interest::READ;
    }
    if flags.contains(PollFlags::POLLOUT) {
        ready = ready | Interest::WRITE;
    }
    if flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
        ready = ready | Interest::BOTH | Interest::CLOSED;
    }
    ready
}
