//! epoll (Linux).
//!
//! The order of closing matters: an epoll registration belongs to the open file, not to the fd, so it outlives a
//! `close` while a duplicate (a forked child's, say) is open, and can then no longer be removed. Hence `forget` before
//! `close`, and a look at the token's generation on every report.
//!
//! A forked child shares the instance with its parent and is told apart, so that it takes nothing out when it lets go of
//! what it inherited.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll as Kernel, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::selector::{Change, Selector, Trigger, Wanted, whole_milliseconds};
use crate::api::{Interest, Token, Wait};
use crate::fd;
use crate::fork::Origin;

/// How many reports one wait can bring.
const BATCH: usize = 256;

/// Whether this kernel turned out to lack `epoll_pwait2` (Linux 5.11), or a filter to forbid it.
static ONLY_MILLISECONDS: AtomicBool = AtomicBool::new(false);

/// The selector on epoll.
#[derive(Debug)]
pub struct Epoll {
    kernel: Kernel,
    origin: Origin,
    reports: Box<[EpollEvent; BATCH]>,
}

impl Selector for Epoll {
    const NAME: &'static str = "epoll";
    const EDGES: bool = true;
    const ONCE: bool = true;

    fn open() -> io::Result<Self> {
        let kernel = Kernel::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut epoll = Self { kernel, origin: Origin::here(), reports: Box::new([EpollEvent::empty(); BATCH]) };
        // Learns whether fine waits are possible. If a signal comes first, the next wait learns it.
        match epoll.wait_for(Duration::from_nanos(1), 1) {
            Ok(_) | Err(Errno::EINTR) => Ok(epoll),
            Err(error) => Err(error.into()),
        }
    }

    fn features(&self) -> Vec<&'static str> {
        if ONLY_MILLISECONDS.load(Ordering::Relaxed) { vec!["epoll_wait"] } else { vec!["epoll_pwait2"] }
    }

    fn set(&mut self, fd: RawFd, token: Token, wanted: Wanted, change: Change) -> io::Result<()> {
        let fd = fd::borrow(fd)?;
        let mut event = EpollEvent::new(flags(wanted), token.to_bits());
        let answer = match change {
            Change::Add => self.kernel.add(fd, event),
            Change::Modify | Change::Rearm => self.kernel.modify(fd, &mut event),
        };
        Ok(match answer {
            Err(Errno::ENOENT) => self.kernel.add(fd, event),
            Err(Errno::EEXIST) => self.kernel.modify(fd, &mut event),
            other => other,
        }?)
    }

    fn remove(&mut self, fd: RawFd, _token: Token) {
        if self.origin.is_inherited() {
            return;
        }
        if let Ok(fd) = fd::borrow(fd) {
            // EBADF and ENOENT: closed already, and the kernel has removed it.
            let _ = self.kernel.delete(fd);
        }
    }

    #[inline]
    fn wait(&mut self, wait: Wait, limit: usize, mut found: impl FnMut(Token, Interest)) -> io::Result<()> {
        let limit = limit.min(BATCH);
        let answer = match wait {
            Wait::Now => self.kernel.wait(&mut self.reports[..limit], EpollTimeout::ZERO),
            Wait::Forever => self.kernel.wait(&mut self.reports[..limit], EpollTimeout::NONE),
            Wait::For(time) => self.wait_for(time, limit),
        };
        let count = match answer {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for report in &self.reports[..count] {
            found(Token::from_bits(report.data()), ready(report.events()));
        }
        Ok(())
    }
}

impl Epoll {
    fn wait_for(&mut self, time: Duration, limit: usize) -> nix::Result<usize> {
        if ONLY_MILLISECONDS.load(Ordering::Relaxed) {
            return self.kernel.wait(&mut self.reports[..limit], whole_milliseconds(time));
        }
        match self.wait_fine(time, limit) {
            // EPERM: sandboxes that know only older calls answer so.
            Err(Errno::ENOSYS | Errno::EPERM) => {
                ONLY_MILLISECONDS.store(true, Ordering::Relaxed);
                self.kernel.wait(&mut self.reports[..limit], whole_milliseconds(time))
            }
            other => other,
        }
    }

    /// `epoll_pwait2`, by number: the C library has it only since glibc 2.35.
    fn wait_fine(&mut self, time: Duration, limit: usize) -> nix::Result<usize> {
        let deadline =
            libc::timespec { tv_sec: time.as_secs().min(i32::MAX as u64) as _, tv_nsec: time.subsec_nanos() as _ };
        let reports = &mut self.reports[..limit];
        // SAFETY: `EpollEvent` has the layout of `epoll_event`, and the kernel writes at most `limit` of them; the
        // time is read only; no signal mask is given.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.kernel.0.as_raw_fd(),
                reports.as_mut_ptr(),
                reports.len() as libc::c_int,
                &raw const deadline,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        Errno::result(answer).map(|count| count as usize)
    }
}

fn flags(wanted: Wanted) -> EpollFlags {
    let mut flags = EpollFlags::empty();
    flags.set(EpollFlags::EPOLLIN, wanted.interest.contains(Interest::READ));
    flags.set(EpollFlags::EPOLLOUT, wanted.interest.contains(Interest::WRITE));
    flags.set(EpollFlags::EPOLLONESHOT, wanted.once);
    if wanted.trigger == Trigger::Edge {
        // Not for watches: one that only writes would be told of the peer's half-close for ever.
        flags |= EpollFlags::EPOLLET | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLPRI;
    }
    flags
}

/// As `selectors` of Python maps them: a dead fd is ready in both directions.
#[inline]
fn ready(flags: EpollFlags) -> Interest {
    let mut ready = Interest::NONE;
    if flags.contains(EpollFlags::EPOLLIN) {
        ready = ready | Interest::READ;
    }
    if flags.contains(EpollFlags::EPOLLOUT) {
        ready = ready | Interest::WRITE;
    }
    if flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLPRI) {
        ready = ready | Interest::READ | Interest::CLOSED;
    }
    if flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
        ready = ready | Interest::BOTH | Interest::CLOSED;
    }
    ready
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_is_accepted() {
        let mut epoll = Epoll::open().unwrap();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(writer);
        epoll.kernel.add(&reader, event).unwrap();
        let mut reports = 0;
        epoll.wait(Wait::For(Duration::MAX), 1, |_, _| reports += 1).unwrap();
        assert_eq!(reports, 1);
    }
}
