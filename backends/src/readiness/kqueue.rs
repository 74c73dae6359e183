//! kqueue (macOS, the BSDs).
//!
//! Each direction is a filter of its own, and a report of both is two. A queue does not exist in a forked child, so
//! the child must not close its number.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::process;

use nix::errno::Errno;
use nix::libc::{time_t, timespec};
use nix::sys::event::{EvFlags, EventFilter, FilterFlag, KEvent, Kqueue as Kernel};

use super::selector::{Change, Selector, Trigger, Wanted};
use crate::api::{Interest, Token, Wait};
use crate::fd;

/// How many reports one wait can bring.
const BATCH: usize = 256;

/// The longest wait that every one of these kernels accepts, in seconds: some refuse more as invalid.
const SECONDS_MAX: u64 = 24 * 60 * 60;

/// The selector on kqueue.
#[derive(Debug)]
pub struct Kqueue {
    kernel: Option<Kernel>,
    /// Registrations of streams, which leave with the next wait.
    changes: Vec<KEvent>,
    reports: Vec<KEvent>,
    process: u32,
}

impl Selector for Kqueue {
    const NAME: &'static str = "kqueue";
    const EDGES: bool = true;

    fn open() -> io::Result<Self> {
        let blank = event(0, EventFilter::EVFILT_READ, EvFlags::empty(), Token::from_bits(0));
        Ok(Self {
            kernel: Some(Kernel::new()?),
            changes: Vec::new(),
            reports: vec![blank; BATCH],
            process: process::id(),
        })
    }

    fn features(&self) -> Vec<&'static str> {
        vec!["changes with the wait"]
    }

    fn set(&mut self, fd: RawFd, token: Token, wanted: Wanted, change: Change) -> io::Result<()> {
        let fd = if change == Change::Rearm { fd::borrow(fd)? } else { fd::waitable(fd)? }.as_raw_fd();
        let add = match wanted.trigger {
            Trigger::Edge => EvFlags::EV_ADD | EvFlags::EV_CLEAR,
            Trigger::Level => EvFlags::EV_ADD,
        };
        let directions = [(EventFilter::EVFILT_READ, Interest::READ), (EventFilter::EVFILT_WRITE, Interest::WRITE)];
        if wanted.trigger == Trigger::Edge {
            let asked = directions.iter().filter(|(_, direction)| wanted.interest.contains(*direction));
            self.changes.extend(asked.map(|(filter, _)| event(fd, *filter, add, token)));
            return Ok(());
        }
        // A watch's errors are its caller's business, so it does not wait.
        for (filter, direction) in directions {
            if wanted.interest.contains(direction) {
                self.apply(event(fd, filter, add, token))?;
            } else if change == Change::Modify {
                ignore_absent(self.apply(event(fd, filter, EvFlags::EV_DELETE, token)))?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, fd: RawFd, token: Token) {
        self.changes.retain(|change| change.udata() != token.to_bits() as isize);
        for filter in [EventFilter::EVFILT_READ, EventFilter::EVFILT_WRITE] {
            // What is closed or was never added is gone already.
            let _ = self.apply(event(fd, filter, EvFlags::EV_DELETE, token));
        }
    }

    fn wait(&mut self, wait: Wait, limit: usize, mut found: impl FnMut(Token, Interest)) -> io::Result<()> {
        let deadline = match wait {
            Wait::Now => Some(timespec { tv_sec: 0, tv_nsec: 0 }),
            Wait::For(time) => Some(timespec {
                tv_sec: time.as_secs().min(SECONDS_MAX) as time_t,
                tv_nsec: time.subsec_nanos().into(),
            }),
            Wait::Forever => None,
        };
        let Some(kernel) = &self.kernel else { return Err(Errno::EBADF.into()) };
        let reports = &mut self.reports[..limit.min(BATCH)];
        let answer = kernel.kevent(&self.changes, reports, deadline);
        // Even a call that a signal ends has taken the changes.
        self.changes.clear();
        let count = match answer {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for report in &reports[..count] {
            found(Token::from_bits(report.udata() as u64), ready(report));
        }
        Ok(())
    }
}

impl Kqueue {
    /// Hands over one change now.
    fn apply(&self, change: KEvent) -> nix::Result<()> {
        let kernel = self.kernel.as_ref().ok_or(Errno::EBADF)?;
        let at_once = timespec { tv_sec: 0, tv_nsec: 0 };
        match kernel.kevent(&[change], &mut [], Some(at_once)) {
            // The change has been taken.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Kqueue {
    fn drop(&mut self) {
        if self.process != process::id() {
            // A forked child: the queue is not there, and its number may be somebody else's.
            std::mem::forget(self.kernel.take());
        }
    }
}

fn event(fd: RawFd, filter: EventFilter, flags: EvFlags, token: Token) -> KEvent {
    KEvent::new(fd as usize, filter, flags, FilterFlag::empty(), 0, token.to_bits() as isize)
}

fn ignore_absent(answer: nix::Result<()>) -> nix::Result<()> {
    match answer {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// As `selectors` of Python maps them. A change that failed is reported in both directions; who uses the fd learns why.
fn ready(report: &KEvent) -> Interest {
    if report.flags().contains(EvFlags::EV_ERROR) {
        return Interest::BOTH | Interest::CLOSED;
    }
    let direction = match report.filter() {
        Ok(EventFilter::EVFILT_WRITE) => Interest::WRITE,
        _ => Interest::READ,
    };
    if report.flags().contains(EvFlags::EV_EOF) { direction | Interest::CLOSED } else { direction }
}
