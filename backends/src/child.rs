//! How a process learns that a child of its own has ended, without a signal handler: a file that turns readable.
//!
//! Linux has such files (pidfds, since 5.3). Elsewhere, and where a sandbox refuses them, [`Child::open`] is
//! `Unsupported` or the kernel's error, and the caller has to find another way: a thread that waits.

use std::io;
use std::os::fd::RawFd;
#[cfg(pidfd)]
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A child of this process, whether it still runs or waits to be reaped.
#[derive(Debug)]
pub struct Child {
    #[cfg(pidfd)]
    file: OwnedFd,
    #[cfg(not(pidfd))]
    never: std::convert::Infallible,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

#[cfg(pidfd)]
impl Child {
    /// Finds a child that has not been reaped.
    ///
    /// # Errors
    /// The kernel's: `ENOSYS`, `EPERM` where a sandbox forbids it, `EMFILE`, `ESRCH` if nobody has that number.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: two numbers, no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this fd, closed on exec, and nobody else knows it.
        Ok(Self { file: unsafe { OwnedFd::from_raw_fd(fd as RawFd) } })
    }

    /// The file that turns readable when the child has ended. It belongs to this object.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Reaps the child if it has ended. The number may have been given to another process since: this asks for the
    /// child itself.
    ///
    /// # Errors
    /// `ECHILD` if somebody else has reaped it.
    pub fn reap(&self) -> io::Result<Option<Exit>> {
        // SAFETY: all zero is a valid value, which stays if the child still runs.
        let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let fd = self.file.as_raw_fd() as libc::id_t;
        // SAFETY: the kernel writes the structure that it is given.
        let answer = unsafe { libc::waitid(libc::P_PIDFD, fd, &raw mut found, libc::WEXITED | libc::WNOHANG) };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: waitid fills in these two fields, or leaves them zero.
        let (pid, status) = unsafe { (found.si_pid(), found.si_status()) };
        Ok(match found.si_code {
            _ if pid == 0 => None,
            libc::CLD_EXITED => Some(Exit::Status(status)),
            _ => Some(Exit::Signal(status)),
        })
    }
}

#[cfg(not(pidfd))]
impl Child {
    /// Always `Unsupported` here.
    pub fn open(_pid: i32) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Nobody has one here.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        match self.never {}
    }

    /// Nobody has one here.
    pub fn reap(&self) -> io::Result<Option<Exit>> {
        match self.never {}
    }
}

#[cfg(all(test, pidfd))]
mod tests {
    use super::*;
    use crate::fork::CHILDREN;
    use std::process::Command;

    fn run(script: &str) -> Child {
        let _alone = CHILDREN.write();
        // Reaped below, by way of its pidfd.
        #[allow(clippy::zombie_processes)]
        let child = Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        Child::open(child.id() as i32).unwrap()
    }

    fn wait(child: &Child) -> io::Result<Exit> {
        let mut poll = libc::pollfd { fd: child.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, which the kernel reads and writes.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1);
        child.reap().map(|exit| exit.expect("its file is readable"))
    }

    #[test]
    fn an_exit_is_told_once_with_its_cause() {
        for (script, exit) in [
            ("exit 0", Exit::Status(0)),
            ("exit 255", Exit::Status(255)),
            ("kill -TERM $$", Exit::Signal(libc::SIGTERM)),
            // A real-time signal.
            ("kill -40 $$", Exit::Signal(40)),
        ] {
            let child = run(script);
            assert_eq!(wait(&child).unwrap(), exit, "{script}");
            assert_eq!(child.reap().unwrap_err().raw_os_error(), Some(libc::ECHILD));
        }
    }

    #[test]
    fn a_child_that_runs_has_not_ended() {
        let sleeper = run("sleep 60");
        assert_eq!(sleeper.reap().unwrap(), None);
        // SAFETY: a number and a signal.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, sleeper.fd(), libc::SIGKILL, 0, 0) };
        assert_eq!(wait(&sleeper).unwrap(), Exit::Signal(libc::SIGKILL));
    }

    #[test]
    fn nobody_is_an_error() {
        assert_eq!(Child::open(i32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
