//! What a readiness kernel has to offer: five small functions. [`Readiness`](super::Readiness) makes a
//! [`Backend`](crate::Backend) of them.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollTimeout;

use crate::api::{Interest, Token, Wait};
use crate::wake::Doorbell;

/// A kernel interface that tells which fds are ready.
pub trait Selector: Sized {
    /// The name that users select the backend by.
    const NAME: &'static str;

    /// Whether [`Trigger::Edge`] can be honoured: a direction that is registered reports whenever it turns ready, and
    /// at once if it is ready when [`set`](Selector::set) is called. If not, streams are registered level-triggered,
    /// and the directions that were reported are taken out of their interest until they are rearmed.
    const EDGES: bool;

    /// Whether [`Wanted::once`] is honoured: what has reported sleeps until it is set again, and need not be removed.
    const ONCE: bool = false;

    /// Opens the kernel's object, closed on exec.
    ///
    /// # Errors
    /// The kernel's.
    fn open() -> io::Result<Self>;

    /// What is used of this kernel, for people.
    fn features(&self) -> Vec<&'static str>;

    /// Registers an fd, or changes what is registered for it. One that the kernel has lost or reused in the meantime
    /// (closed behind our back) is registered anew.
    ///
    /// # Errors
    /// The kernel's (`EPERM`, `EBADF`, `ENOMEM`, `ENOSPC`).
    fn set(&mut self, fd: RawFd, token: Token, wanted: Wanted, change: Change) -> io::Result<()>;

    /// Takes the registration back. An fd that is closed or unknown is no error.
    fn remove(&mut self, fd: RawFd, token: Token);

    /// Reports once, as readable, when a child process has ended.
    ///
    /// # Errors
    /// `ENOSYS` if the kernel does not tell; `ESRCH` if the process is gone.
    fn watch_exit(&mut self, pid: i32, token: Token) -> io::Result<()> {
        let _ = (pid, token);
        Err(Errno::ENOSYS.into())
    }

    /// Takes that back. A process that is gone is no error.
    fn forget_exit(&mut self, pid: i32, token: Token) {
        let _ = (pid, token);
    }

    /// The kernel's own way to end a wait, which is then reported as `token`, once for any number of rings; `None`
    /// for a kernel that has none, and then an fd is registered for it.
    ///
    /// # Errors
    /// The kernel's.
    fn doorbell(&mut self, token: Token) -> io::Result<Option<Box<dyn Doorbell>>> {
        let _ = token;
        Ok(None)
    }

    /// Waits, and calls `found` for at most `limit` tokens that are ready. Those that did not fit come first next
    /// time. A timeout or a signal is no error and finds nothing.
    ///
    /// # Errors
    /// Only what makes the selector unusable.
    fn wait(&mut self, wait: Wait, limit: usize, found: impl FnMut(Token, Interest)) -> io::Result<()>;
}

/// What a registration reports, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The directions; none for a stream that sleeps on a kernel without edges.
    pub interest: Interest,
    /// When they are reported.
    pub trigger: Trigger,
    /// Only the first report is wanted.
    pub once: bool,
}

/// Why a registration is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Add,
    /// Its owner wants something else.
    Modify,
    /// A stream was found full, or, without edges, has been reported or found empty.
    Rearm,
}

/// When a registration reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// At every wait while the condition holds.
    Level,
    /// When the condition comes true, once.
    Edge,
}

/// For kernels that count milliseconds: rounded up, since a wait must not end early (C9). The longest is 24 days.
#[must_use]
pub fn whole_milliseconds(time: Duration) -> PollTimeout {
    let rounded = time.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128);
    PollTimeout::try_from(rounded as i32).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_rounded_up_to_what_can_be_counted() {
        let rounded = |nanos| i32::from(whole_milliseconds(Duration::from_nanos(nanos)));
        assert_eq!(rounded(0), 0);
        assert_eq!(rounded(1), 1);
        assert_eq!(rounded(1_000_000), 1);
        assert_eq!(rounded(1_000_001), 2);
        assert_eq!(i32::from(whole_milliseconds(Duration::MAX)), i32::MAX);
    }
}
