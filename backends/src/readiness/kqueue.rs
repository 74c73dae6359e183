//! kqueue (macOS, the BSDs).
//!
//! Each direction is a filter of its own, and a report of both is two. What streams ask for leaves with the next wait,
//! in the same call. A queue does not exist in a forked child, where its number may be somebody else's.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use libc::timespec;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
#[cfg(not(libkqueue))]
use nix::sys::event as kernel;

#[cfg(libkqueue)]
use super::libkqueue as kernel;
use super::selector::{Change, Selector, Trigger, Wanted};
use crate::api::{Interest, Token, Wait};
use crate::fd;
use crate::fork::Origin;
#[cfg(kqueue_user)]
use crate::wake::Doorbell;
use kernel::{EvFlags, EventFilter, FilterFlag, KEvent};

/// How many reports one wait can bring.
const BATCH: usize = 256;

/// The longest wait that every one of these kernels accepts, in seconds: some refuse more as invalid.
const SECONDS_MAX: u64 = 24 * 60 * 60;

const AT_ONCE: timespec = timespec { tv_sec: 0, tv_nsec: 0 };

const ADD_EDGE: EvFlags = EvFlags::EV_ADD.union(EvFlags::EV_CLEAR);

const DIRECTIONS: [(EventFilter, Interest); 2] =
    [(EventFilter::EVFILT_READ, Interest::READ), (EventFilter::EVFILT_WRITE, Interest::WRITE)];

/// The selector on kqueue.
#[derive(Debug)]
pub struct Kqueue {
    queue: Arc<Queue>,
    /// Registrations of streams, which leave with the next wait.
    changes: Vec<KEvent>,
    /// Streams that the kernel would not register, to be reported: who uses the fd learns why.
    refused: Vec<Token>,
    reports: Vec<KEvent>,
}

impl Selector for Kqueue {
    const NAME: &'static str = "kqueue";
    const EDGES: bool = true;

    fn open() -> io::Result<Self> {
        let reports = vec![blank(); BATCH];
        Ok(Self { queue: Arc::new(Queue::new()?), changes: Vec::new(), refused: Vec::new(), reports })
    }

    fn features(&self) -> Vec<&'static str> {
        let library = cfg!(libkqueue).then_some("libkqueue");
        let wakes = if cfg!(kqueue_user) { "EVFILT_USER" } else { "wakes by a pipe" };
        library.into_iter().chain(["changes ride with the wait", wakes, "NOTE_EXIT"]).collect()
    }

    fn set(&mut self, fd: RawFd, token: Token, wanted: Wanted, change: Change) -> io::Result<()> {
        let asked = DIRECTIONS.into_iter().filter(|(_, direction)| wanted.interest.contains(*direction));
        match (wanted.trigger, change) {
            (Trigger::Edge, Change::Add) => {
                self.changes.extend(asked.map(|(filter, _)| event(fd, filter, ADD_EDGE, token)));
            }
            (Trigger::Edge, Change::Rearm) => {
                // It reads since it was added, and edges need no second request.
                self.changes.push(event(fd, EventFilter::EVFILT_WRITE, ADD_EDGE, token));
            }
            // The errors of a watch are its caller's business, so it does not wait. What is registered is taken out
            // first: no kernel makes an edge a level, and the number may be another file's by now.
            (trigger, change) => {
                let fd = fd::waitable(fd).map(|_| fd)?;
                let add = if trigger == Trigger::Edge { ADD_EDGE } else { EvFlags::EV_ADD };
                if change != Change::Add {
                    self.remove(fd, token);
                }
                let changes: Vec<_> = asked.map(|(filter, _)| event(fd, filter, add, token)).collect();
                self.queue.apply(&changes)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, fd: RawFd, token: Token) {
        self.changes.retain(|change| token_of(change) != token);
        self.refused.retain(|refused| *refused != token);
        let delete = DIRECTIONS.map(|(filter, _)| event(fd, filter, EvFlags::EV_DELETE, token));
        // What is closed or was never added is gone already.
        let _ = self.queue.apply(&delete);
    }

    fn watch_exit(&mut self, pid: i32, token: Token) -> io::Result<()> {
        Ok(self.queue.apply(&[exit(pid, EvFlags::EV_ADD | EvFlags::EV_ONESHOT, token)])?)
    }

    fn forget_exit(&mut self, pid: i32, token: Token) {
        // What has been reported is gone already.
        let _ = self.queue.apply(&[exit(pid, EvFlags::EV_DELETE, token)]);
    }

    #[cfg(kqueue_user)]
    fn doorbell(&mut self, token: Token) -> io::Result<Option<Box<dyn Doorbell>>> {
        self.queue.apply(&[event(0, EventFilter::EVFILT_USER, ADD_EDGE, token)])?;
        Ok(Some(Box::new(UserEvent { queue: Arc::clone(&self.queue), token })))
    }

    fn wait(&mut self, wait: Wait, limit: usize, mut found: impl FnMut(Token, Interest)) -> io::Result<()> {
        let limit = limit.min(BATCH);
        if self.changes.len() > limit {
            self.hand_over()?;
        }
        if !self.refused.is_empty() {
            let fitting = self.refused.len().min(limit);
            self.refused.drain(..fitting).for_each(|token| found(token, dead()));
            return Ok(());
        }
        let deadline = match wait {
            Wait::Now => Some(AT_ONCE),
            Wait::For(time) => {
                Some(timespec { tv_sec: time.as_secs().min(SECONDS_MAX) as _, tv_nsec: time.subsec_nanos().into() })
            }
            Wait::Forever => None,
        };
        let answer = self.queue.exchange(&self.changes, &mut self.reports[..limit], deadline);
        // Even a call that a signal ends has taken the changes.
        self.changes.clear();
        let count = match answer {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for report in &self.reports[..count] {
            found(token_of(report), ready(report));
        }
        Ok(())
    }
}

impl Kqueue {
    /// Hands the changes over by themselves: more than a wait has room for, should all of them fail.
    #[cold]
    fn hand_over(&mut self) -> nix::Result<()> {
        for changes in self.changes.chunks(BATCH) {
            let refused = self.queue.failures(changes, &mut self.reports)?;
            self.refused.extend(refused.map(|(token, _)| token));
        }
        self.changes.clear();
        Ok(())
    }
}

/// The kernel's object. Whoever can ring the doorbell keeps it open.
#[derive(Debug)]
struct Queue {
    /// There until it is dropped.
    kernel: Option<kernel::Kqueue>,
    /// Where it was made; a forked child does not have it.
    origin: Origin,
}

impl Queue {
    fn new() -> nix::Result<Self> {
        let kernel = kernel::Kqueue::new()?;
        fcntl(&kernel, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        Ok(Self { kernel: Some(kernel), origin: Origin::here() })
    }

    fn exchange(&self, changes: &[KEvent], reports: &mut [KEvent], time: Option<timespec>) -> nix::Result<usize> {
        self.kernel.as_ref().ok_or(Errno::EBADF)?.kevent(changes, reports, time)
    }

    fn is_inherited(&self) -> bool {
        self.origin.is_inherited()
    }

    /// Makes a few changes now. All are tried; the first that fails is the error.
    fn apply(&self, changes: &[KEvent]) -> nix::Result<()> {
        if self.is_inherited() {
            return Err(Errno::EBADF);
        }
        let mut reports = [blank(); DIRECTIONS.len()];
        let first = self.failures(changes, &mut reports)?.next();
        first.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Makes changes now, and tells which of them failed. There must be room for a report of each.
    fn failures<'r>(
        &self,
        changes: &[KEvent],
        reports: &'r mut [KEvent],
    ) -> nix::Result<impl Iterator<Item = (Token, Errno)> + use<'r>> {
        // With receipts it brings what became of each change, and nothing else.
        let changes: Vec<_> = changes.iter().map(with_receipt).collect::<Result<_, _>>()?;
        let count = self.exchange(&changes, &mut reports[..changes.len()], Some(AT_ONCE))?;
        let failed = reports[..count].iter().filter(|report| report.data() != 0);
        Ok(failed.map(|report| (token_of(report), Errno::from_raw(report.data() as i32))))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.is_inherited() {
            // The number is nobody's here, or somebody else's.
            std::mem::forget(self.kernel.take());
        }
    }
}

/// A wake-up without an fd.
#[cfg(kqueue_user)]
#[derive(Debug)]
struct UserEvent {
    queue: Arc<Queue>,
    token: Token,
}

#[cfg(kqueue_user)]
impl Doorbell for UserEvent {
    fn ring(&self) {
        if !self.queue.is_inherited() {
            let (filter, trigger) = (EventFilter::EVFILT_USER, FilterFlag::NOTE_TRIGGER);
            let ring = KEvent::new(0, filter, EvFlags::empty(), trigger, 0, self.token.to_bits() as isize);
            // The event is there as long as the queue is, so this cannot fail.
            let _ = self.queue.exchange(&[ring], &mut [], Some(AT_ONCE));
        }
    }
}

fn event(fd: RawFd, filter: EventFilter, flags: EvFlags, token: Token) -> KEvent {
    KEvent::new(fd as usize, filter, flags, FilterFlag::empty(), 0, token.to_bits() as isize)
}

fn exit(pid: i32, flags: EvFlags, token: Token) -> KEvent {
    KEvent::new(pid as usize, EventFilter::EVFILT_PROC, flags, FilterFlag::NOTE_EXIT, 0, token.to_bits() as isize)
}

fn blank() -> KEvent {
    event(0, EventFilter::EVFILT_READ, EvFlags::empty(), Token::from_bits(0))
}

fn with_receipt(change: &KEvent) -> nix::Result<KEvent> {
    let flags = change.flags() | EvFlags::EV_RECEIPT;
    Ok(KEvent::new(change.ident(), change.filter()?, flags, change.fflags(), change.data(), change.udata()))
}

fn token_of(event: &KEvent) -> Token {
    Token::from_bits(event.udata() as u64)
}

/// What is reported of a stream that failed, or that the kernel would not register.
fn dead() -> Interest {
    Interest::BOTH | Interest::CLOSED
}

/// What a report says. The end of the stream is the reader's news: a writer is told it of itself, too, after its own
/// `shutdown`. With an error the stream is dead in both directions, whichever was asked for.
fn ready(report: &KEvent) -> Interest {
    if report.flags().contains(EvFlags::EV_ERROR) {
        return dead();
    }
    match report.filter() {
        Ok(EventFilter::EVFILT_WRITE) => Interest::WRITE,
        // A process that has ended says that it is at its end, too.
        Ok(EventFilter::EVFILT_PROC) => Interest::READ,
        _ if report.flags().contains(EvFlags::EV_EOF) && !report.fflags().is_empty() => dead(),
        _ if report.flags().contains(EvFlags::EV_EOF) => Interest::READ | Interest::CLOSED,
        _ => Interest::READ,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    const EDGE: Wanted = Wanted { interest: Interest::READ, trigger: Trigger::Edge, once: false };

    /// Polls until so many tokens were reported as dead, a few at a time.
    fn refused(kqueue: &mut Kqueue, count: u32, limit: usize) -> BTreeSet<u32> {
        let mut slots = BTreeSet::new();
        while slots.len() < count as usize {
            let mut reports = 0;
            let each = |token: Token, ready: Interest| {
                assert_eq!(ready, dead());
                reports += 1;
                slots.insert(token.slot());
            };
            kqueue.wait(Wait::Now, limit, each).unwrap();
            assert!((1..=limit).contains(&reports), "{reports} reports where {limit} fit");
        }
        slots
    }

    #[test]
    fn streams_that_cannot_be_registered_are_reported_dead() {
        let mut kqueue = Kqueue::open().unwrap();
        // Few go with the wait; more than fit go before it, and what became of them is told bit by bit.
        for (count, limit) in [(3, 8), (300, 7)] {
            for slot in 0..count {
                kqueue.set(1_000_000 + slot as RawFd, Token::new(slot, 0), EDGE, Change::Add).unwrap();
            }
            assert_eq!(refused(&mut kqueue, count, limit), (0..count).collect());
        }
        kqueue.wait(Wait::For(Duration::from_millis(1)), 8, |token, _| panic!("{token:?} was reported twice")).unwrap();
    }

    #[test]
    fn what_was_forgotten_is_not_reported_dead() {
        let mut kqueue = Kqueue::open().unwrap();
        for slot in 0..3 {
            kqueue.set(1_000_000, Token::new(slot, 0), EDGE, Change::Add).unwrap();
        }
        assert_eq!(refused(&mut kqueue, 1, 1).len(), 1);
        for slot in 0..3 {
            kqueue.remove(1_000_000, Token::new(slot, 0));
        }
        kqueue.wait(Wait::Now, 8, |token, _| panic!("{token:?} is not there any more")).unwrap();
    }

    #[test]
    fn the_longest_wait_is_accepted() {
        let mut kqueue = Kqueue::open().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(writer);
        kqueue.set(reader.as_raw_fd(), Token::new(0, 0), EDGE, Change::Add).unwrap();
        let mut reports = Vec::new();
        kqueue.wait(Wait::For(Duration::MAX), 1, |_, ready| reports.push(ready)).unwrap();
        assert_eq!(reports, [Interest::READ | Interest::CLOSED]);
    }
}
