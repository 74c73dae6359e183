//! select(2): the example of `ZLOOP_BACKENDS.md`, made by its six steps and by nothing else.
//!
//! Only with the cargo feature `select`, so it is in no wheel: poll(2) does the same on every Unix, without a limit on
//! the number of an fd. It knows no edges, forgets what it was asked as soon as it has answered, and fails as a whole
//! if one fd is closed.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound::{Excluded, Unbounded};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::select::{FD_SETSIZE, FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};

use super::selector::{Change, Selector, Wanted};
use crate::api::{Interest, Token, Wait};
use crate::fd;

/// The longest wait that every kernel accepts.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The selector on select(2).
#[derive(Debug, Default)]
pub struct Select {
    files: BTreeMap<RawFd, (Token, Interest)>,
    /// The last one that was reported when not all did fit: the next look begins behind it.
    last: Option<RawFd>,
}

impl Selector for Select {
    const NAME: &'static str = "select";
    const EDGES: bool = false;

    fn open() -> io::Result<Self> {
        Ok(Self::default())
    }

    fn features(&self) -> Vec<&'static str> {
        vec!["microseconds"]
    }

    fn set(&mut self, fd: RawFd, token: Token, wanted: Wanted, _change: Change) -> io::Result<()> {
        let number = fd::waitable(fd)?.as_raw_fd();
        if number as usize >= FD_SETSIZE {
            return Err(Errno::ENOSPC.into());
        }
        self.files.insert(number, (token, wanted.interest));
        Ok(())
    }

    fn remove(&mut self, fd: RawFd, token: Token) {
        // The number may be somebody else's by now.
        if self.files.get(&fd).is_some_and(|(holder, _)| *holder == token) {
            self.files.remove(&fd);
        }
    }

    fn wait(&mut self, wait: Wait, limit: usize, mut found: impl FnMut(Token, Interest)) -> io::Result<()> {
        let reports = match self.select(wait) {
            Ok(reports) => reports,
            Err(Errno::EINTR) => Vec::new(),
            Err(Errno::EBADF) => self.lose_the_closed(),
            Err(error) => return Err(error.into()),
        };
        self.last = (reports.len() > limit).then(|| reports[limit - 1].0);
        for (_, token, ready) in reports.into_iter().take(limit) {
            found(token, ready);
        }
        Ok(())
    }
}

impl Select {
    /// Who is ready, beginning behind the last one that was reported.
    fn select(&self, wait: Wait) -> nix::Result<Vec<(RawFd, Token, Interest)>> {
        let asked = |number: &RawFd, direction| self.files[number].1.contains(direction).then_some(*number);
        let reading = self.files.keys().filter_map(|number| asked(number, Interest::READ));
        let writing = self.files.keys().filter_map(|number| asked(number, Interest::WRITE));
        let (readable, mut writable) = ready(reading, writing, wait)?;
        // The dead are ready in both directions, but this kernel tells only what it is asked. So what is readable is
        // looked at for writing, too; that others turn out to have room does no harm.
        writable.extend(ready([], readable.iter().copied(), Wait::Now)?.1);

        let split = self.last.map_or(Unbounded, Excluded);
        let behind = self.files.range((split, Unbounded));
        let before = self.last.map(|last| self.files.range(..=last)).into_iter().flatten();
        let reports = behind.chain(before).map(|(number, (token, _))| {
            let read = if readable.contains(number) { Interest::READ } else { Interest::NONE };
            let write = if writable.contains(number) { Interest::WRITE } else { Interest::NONE };
            (*number, *token, read | write)
        });
        Ok(reports.filter(|(_, _, ready)| !ready.is_empty()).collect())
    }

    /// Who was closed without being removed. They must go, or nobody else would ever be reported again.
    fn lose_the_closed(&mut self) -> Vec<(RawFd, Token, Interest)> {
        let mut lost = Vec::new();
        self.files.retain(|number, (token, _)| {
            let open = fd::waitable(*number).is_ok();
            if !open {
                lost.push((*number, *token, Interest::BOTH | Interest::CLOSED));
            }
            open
        });
        lost
    }
}

/// The system call: which of these can be read from, and which written to.
fn ready(
    reading: impl IntoIterator<Item = RawFd>,
    writing: impl IntoIterator<Item = RawFd>,
    wait: Wait,
) -> nix::Result<(BTreeSet<RawFd>, BTreeSet<RawFd>)> {
    let set = |numbers: &mut dyn Iterator<Item = RawFd>| {
        numbers.filter_map(|number| fd::borrow(number).ok()).fold(FdSet::new(), |mut set, fd| {
            set.insert(fd);
            set
        })
    };
    let mut readable = set(&mut reading.into_iter());
    let mut writable = set(&mut writing.into_iter());
    select(None, &mut readable, &mut writable, None, timeout(wait).as_mut())?;
    let numbers = |set: &FdSet<'_>| set.fds(None).map(|fd| fd.as_raw_fd()).collect();
    Ok((numbers(&readable), numbers(&writable)))
}

/// In microseconds, rounded up, since a wait must not end early (C9).
fn timeout(wait: Wait) -> Option<TimeVal> {
    let wait = match wait {
        Wait::Now => Duration::ZERO,
        Wait::For(time) => time.min(WAIT_MAX),
        Wait::Forever => return None,
    };
    Some(TimeVal::microseconds(wait.as_nanos().div_ceil(1000) as i64))
}
