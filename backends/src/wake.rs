//! How any thread ends a wait.
//!
//! A flag of three states makes a wake-up of a loop that is not waiting free of system calls, and lets any number of
//! wake-ups ring once. The loop's thread alone moves it to `ASLEEP`; whoever finds it there rings the doorbell.

#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
#[cfg(not(all(test, loom)))]
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicU8, Ordering};

use crate::api::Wait;

/// The loop runs, and nobody has called.
const AWAKE: u8 = 0;
/// The loop waits, or is about to.
const ASLEEP: u8 = 1;
/// Somebody has called since the last wait ended.
const CALLED: u8 = 2;

/// Ends the current [`poll`](crate::Backend::poll), or the next one if none is going on (C8).
///
/// A `poll` takes all calls made before it ends; so whoever hands over work with a wake-up looks for that work *after*
/// each `poll`.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Bell<dyn Doorbell>>);

impl Waker {
    /// Ends the wait. Costs a system call only if the loop really sleeps and nobody else has called it.
    pub fn wake(&self) {
        if self.0.state.swap(CALLED, Ordering::AcqRel) == ASLEEP {
            self.0.doorbell.ring();
        }
    }
}

/// What ends a sleep in the kernel.
pub trait Doorbell: Debug + Send + Sync {
    /// Ends the wait that is going on, or the next one. Any thread may call it.
    fn ring(&self);

    /// Makes it silent again, where it does not fall silent by itself.
    fn empty(&self) {}
}

impl Doorbell for Box<dyn Doorbell> {
    fn ring(&self) {
        (**self).ring();
    }

    fn empty(&self) {
        (**self).empty();
    }
}

/// The loop's side of its wakers.
#[derive(Debug)]
pub(crate) struct Alarm<D = FdDoorbell>(Arc<Bell<D>>);

#[derive(Debug)]
struct Bell<D: ?Sized> {
    state: AtomicU8,
    doorbell: D,
}

impl Alarm {
    /// An alarm with an fd, which the backend waits for.
    #[allow(dead_code, reason = "not every platform has a backend that makes its own")]
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self::of(FdDoorbell::new()?))
    }
}

impl<D: Doorbell + 'static> Alarm<D> {
    pub(crate) fn of(doorbell: D) -> Self {
        Self(Arc::new(Bell { state: AtomicU8::new(AWAKE), doorbell }))
    }

    pub(crate) fn waker(&self) -> Waker {
        let bell: Arc<Bell<D>> = Arc::clone(&self.0);
        Waker(bell)
    }

    /// Says that a wait is about to begin, and how long it may be: not at all if somebody has called already.
    #[inline]
    pub(crate) fn fall_asleep(&self, wait: Wait) -> Wait {
        if wait == Wait::Now {
            return wait;
        }
        match self.0.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => wait,
            Err(_) => Wait::Now,
        }
    }

    /// Says that the wait is over, and takes the calls made so far: true if there were any.
    #[inline]
    pub(crate) fn awake(&self) -> bool {
        // Nobody but this thread leaves AWAKE for ASLEEP, so most polls of a busy loop need only this look.
        self.0.state.load(Ordering::Relaxed) != AWAKE && self.0.state.swap(AWAKE, Ordering::AcqRel) == CALLED
    }

    /// Makes the doorbell silent again.
    pub(crate) fn empty(&self) {
        self.0.doorbell.empty();
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.doorbell.as_fd()
    }
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

#[cfg(epoll)]
mod doorbell {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd};

    use nix::sys::eventfd::{EfdFlags, EventFd};

    use super::Doorbell;

    /// An eventfd.
    #[derive(Debug)]
    pub(crate) struct FdDoorbell(EventFd);

    impl FdDoorbell {
        /// Whether it keeps reporting (or cannot report again) until it has been emptied, even to edge-triggered
        /// selectors. An eventfd reports an edge for each call and in practice never fills up.
        pub(crate) const MUST_EMPTY: bool = false;

        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
        }
    }

    impl Doorbell for FdDoorbell {
        fn ring(&self) {
            // The only possible failure is a counter at its maximum, and then the fd is readable already.
            let _ = self.0.write(1);
        }

        fn empty(&self) {
            // EAGAIN: somebody has been called and heard without ringing.
            let _ = self.0.read();
        }
    }

    impl AsFd for FdDoorbell {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(not(epoll))]
mod doorbell {
    use std::io::{self, PipeReader, PipeWriter, Read, Write};
    use std::os::fd::{AsFd, BorrowedFd};

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::Doorbell;

    /// A pipe.
    #[derive(Debug)]
    pub(crate) struct FdDoorbell {
        reader: PipeReader,
        writer: PipeWriter,
    }

    impl FdDoorbell {
        /// Whether it keeps reporting (or cannot report again) until it has been emptied.
        pub(crate) const MUST_EMPTY: bool = true;

        pub(crate) fn new() -> io::Result<Self> {
            let (reader, writer) = io::pipe()?;
            fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            Ok(Self { reader, writer })
        }
    }

    impl Doorbell for FdDoorbell {
        fn ring(&self) {
            // EAGAIN: the pipe is full, so the fd is readable already.
            let _ = (&self.writer).write(&[0]);
        }

        fn empty(&self) {
            let mut bytes = [0; 64];
            while (&self.reader).read(&mut bytes).is_ok_and(|n| n == bytes.len()) {}
        }
    }

    impl AsFd for FdDoorbell {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.reader.as_fd()
        }
    }
}

pub(crate) use doorbell::FdDoorbell;

/// Every order in which the threads can take turns, and every value that their orderings let them see: `make loom`.
#[cfg(all(test, loom))]
mod models {
    use loom::sync::{Condvar, Mutex};
    use loom::thread;

    use super::*;

    /// A kernel that sleeps until somebody rings. A ring while nobody sleeps ends the next sleep.
    #[derive(Debug, Default)]
    struct Bedroom(Mutex<bool>, Condvar);

    /// What the loop and its doorbell share.
    #[derive(Debug, Clone)]
    struct Shared(Arc<Bedroom>);

    impl Doorbell for Shared {
        fn ring(&self) {
            *self.0.0.lock().expect("nothing panics in there") = true;
            self.0.1.notify_one();
        }
    }

    impl Shared {
        fn sleep(&self) {
            let mut rung = self.0.0.lock().expect("nothing panics in there");
            while !*rung {
                rung = self.0.1.wait(rung).expect("nothing panics in there");
            }
            *rung = false;
        }
    }

    /// Hands over work from threads that wake a loop, which sleeps until it has all of it: a wake-up that got lost, or that
    /// came before the work that it announced, leaves the loop asleep for ever, and loom calls that a deadlock.
    fn nobody_sleeps_through(threads: usize) {
        loom::model(move || {
            let bedroom = Shared(Arc::default());
            let alarm = Alarm::of(bedroom.clone());
            // Without an ordering of its own: only the wake-up makes it visible.
            let work: Vec<_> = (0..threads).map(|_| Arc::new(loom::sync::atomic::AtomicBool::new(false))).collect();
            let wakers: Vec<_> = work
                .iter()
                .map(|work| {
                    let (work, waker) = (Arc::clone(work), alarm.waker());
                    thread::spawn(move || {
                        work.store(true, Ordering::Relaxed);
                        waker.wake();
                    })
                })
                .collect();
            while !work.iter().all(|work| work.load(Ordering::Relaxed)) {
                if alarm.fall_asleep(Wait::Forever) == Wait::Forever {
                    bedroom.sleep();
                }
                alarm.awake();
            }
            wakers.into_iter().for_each(|waker| waker.join().expect("it does not panic"));
        });
    }

    #[test]
    fn a_loop_never_sleeps_through_a_call() {
        nobody_sleeps_through(1);
    }

    #[test]
    fn a_loop_never_sleeps_through_one_of_two_calls() {
        nobody_sleeps_through(2);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn rung(alarm: &Alarm) -> bool {
        poll(&mut [PollFd::new(alarm.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_running_loop_is_called_without_the_doorbell() {
        let alarm = Alarm::new().unwrap();
        alarm.waker().wake();
        assert!(!rung(&alarm));
        assert_eq!(alarm.fall_asleep(Wait::Forever), Wait::Now);
        assert!(alarm.awake());
        assert_eq!(alarm.fall_asleep(Wait::Forever), Wait::Forever);
    }

    #[test]
    fn a_sleeping_loop_is_rung_once() {
        let alarm = Alarm::new().unwrap();
        let waker = alarm.waker();
        alarm.fall_asleep(Wait::Forever);
        for _ in 0..100_000 {
            waker.wake();
        }
        assert!(rung(&alarm));
        assert!(alarm.awake());
        assert!(!alarm.awake());
        alarm.empty();
        assert!(!rung(&alarm));
    }
}
