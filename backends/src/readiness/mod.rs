//! Every readiness backend: [`Readiness<S>`] implements the trait once, a [`Selector`] per kernel does the rest.
//!
//! Sends are attempted on the spot, so nothing is ever in flight here. A stream is registered once for reading, and
//! once more when it first runs full; where the kernel reports edges, that is all. (Registering both at first would
//! report every new stream as writable, and every Unix socket again whenever its peer reads.)
//!
//! No unsafe code but the signature of [`Backend::send`].

#[cfg(epoll)]
pub mod epoll;
#[cfg(kqueue)]
pub mod kqueue;
#[cfg(libkqueue)]
mod libkqueue;
pub mod poll;
#[cfg(feature = "select")]
pub mod select;
pub mod selector;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::errno::Errno;

use crate::api::{Backend, Events, Interest, MAX_SLICES, Profile, Sent, Token, Wait, What};
use crate::attempt;
use crate::table::Table;
use crate::wake::{Alarm, Doorbell, FdDoorbell, Waker};
use selector::{Change, Selector, Trigger, Wanted};

/// A backend over a readiness kernel.
#[derive(Debug)]
pub struct Readiness<S> {
    selector: S,
    files: Table<File>,
    alarm: Alarm<Box<dyn Doorbell>>,
}

/// What is registered for a token.
#[derive(Debug, Clone, Copy)]
struct File {
    /// Of a process: its id.
    fd: RawFd,
    role: Role,
    /// What the kernel is asked for now. Without edges, what was reported of a stream is missing until rearmed, and
    /// nothing is left of a [`Role::Once`] that was reported.
    armed: Interest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Watch,
    /// A watch of which the kernel forgets by itself what it has reported.
    Once,
    Stream,
    Process,
}

/// The token of the doorbell.
const ALARM: Token = Token::from_bits(u64::MAX);

impl<S: Selector> Readiness<S> {
    /// Opens the selector and registers the doorbell.
    ///
    /// # Errors
    /// The kernel's: out of fds or memory, or no such interface.
    pub fn open() -> io::Result<Self> {
        let mut selector = S::open()?;
        let doorbell = match selector.doorbell(ALARM)? {
            Some(own) => own,
            None => {
                let fd = FdDoorbell::new()?;
                let stream = wanted::<S>(Role::Stream, Interest::READ);
                selector.set(fd.as_fd().as_raw_fd(), ALARM, stream, Change::Add)?;
                Box::new(fd)
            }
        };
        Ok(Self { selector, files: Table::new(), alarm: Alarm::of(doorbell) })
    }

    fn register(&mut self, token: Token, file: File) -> io::Result<()> {
        let change = match self.files.remove(token) {
            Some(old) if old.fd == file.fd => Change::Modify,
            Some(old) => {
                self.selector.remove(old.fd, token);
                Change::Add
            }
            // Asleep since the last time, most likely.
            None if file.role == Role::Once => Change::Modify,
            None => Change::Add,
        };
        if let Err(error) = self.selector.set(file.fd, token, wanted::<S>(file.role, file.armed), change) {
            self.selector.remove(file.fd, token);
            return Err(error);
        }
        self.files.insert(token, file);
        Ok(())
    }

    /// Level-only kernels: what was reported of streams sleeps until it is rearmed.
    #[cold]
    fn disarm_reported(&mut self, reported: &[crate::api::Event]) -> io::Result<()> {
        for event in reported {
            let What::Ready(ready) = event.what else { continue };
            let Some(file) = self.files.get_mut(event.token).filter(|file| file.role == Role::Stream) else {
                continue;
            };
            file.armed = file.armed & !ready;
            let file = *file;
            self.selector.set(file.fd, event.token, wanted::<S>(file.role, file.armed), Change::Rearm)?;
        }
        Ok(())
    }
}

fn wanted<S: Selector>(role: Role, interest: Interest) -> Wanted {
    let trigger = if S::EDGES && role == Role::Stream { Trigger::Edge } else { Trigger::Level };
    Wanted { interest, trigger, once: role == Role::Once }
}

impl<S: Selector> Backend for Readiness<S> {
    fn profile(&self) -> Profile {
        Profile { name: S::NAME, model: "readiness", features: self.selector.features() }
    }

    fn watch(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let interest = interest & Interest::BOTH;
        if interest.is_empty() {
            self.forget(token);
            return Ok(());
        }
        self.register(token, File { fd, role: Role::Watch, armed: interest })
    }

    fn watch_once(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let interest = interest & Interest::BOTH;
        if !S::ONCE || interest.is_empty() {
            return self.watch(fd, token, interest);
        }
        self.register(token, File { fd, role: Role::Once, armed: interest })
    }

    fn attach(&mut self, fd: RawFd, token: Token) -> io::Result<()> {
        attempt::adopt(fd)?;
        self.register(token, File { fd, role: Role::Stream, armed: Interest::READ })
    }

    #[inline]
    fn rearm(&mut self, token: Token, interest: Interest) -> io::Result<()> {
        let Some(file) = self.files.get_mut(token).filter(|file| file.role == Role::Stream) else {
            return Ok(());
        };
        if file.armed.contains(interest) {
            return Ok(());
        }
        file.armed = file.armed | (interest & Interest::BOTH);
        let file = *file;
        self.selector.set(file.fd, token, wanted::<S>(file.role, file.armed), Change::Rearm)
    }

    #[inline]
    unsafe fn send(&mut self, token: Token, bufs: &[IoSlice<'_>]) -> io::Result<Sent> {
        debug_assert!((1..=MAX_SLICES).contains(&bufs.len()), "1 to {MAX_SLICES} slices");
        let Some(file) = self.files.get(token) else {
            return Err(Errno::EBADF.into());
        };
        match attempt::send(file.fd, bufs) {
            Ok(sent) => Ok(Sent::Done(sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Blocked),
            Err(error) => Err(error),
        }
    }

    fn cancel(&mut self, _token: Token) {
        // Nothing is ever in flight.
    }

    fn watch_exit(&mut self, pid: i32, token: Token) -> io::Result<()> {
        self.forget(token);
        self.selector.watch_exit(pid, token)?;
        self.files.insert(token, File { fd: pid, role: Role::Process, armed: Interest::READ });
        Ok(())
    }

    fn forget(&mut self, token: Token) {
        match self.files.remove(token) {
            Some(process) if process.role == Role::Process => self.selector.forget_exit(process.fd, token),
            // The kernel has forgotten it by itself.
            Some(file) if file.role == Role::Once && file.armed.is_empty() => {}
            Some(file) => self.selector.remove(file.fd, token),
            None => {}
        }
    }

    fn poll(&mut self, wait: Wait, out: &mut Events) -> io::Result<()> {
        let before = out.as_slice().len();
        let limit = out.room();
        debug_assert!(limit > 0, "nothing can be reported");
        let Self { selector, files, alarm } = self;
        let mut rung = false;
        let result = selector.wait(alarm.fall_asleep(wait), limit, |token, ready| {
            if token == ALARM {
                rung = true;
            } else if let Some(file) = files.get_mut(token) {
                // Unknown tokens come from fds that were closed without `forget` while a duplicate lives on.
                if file.role == Role::Once {
                    file.armed = Interest::NONE;
                }
                out.push(token, What::Ready(ready));
            }
        });
        let called = alarm.awake();
        if (called || rung) && (FdDoorbell::MUST_EMPTY || !S::EDGES) {
            alarm.empty();
        }
        result?;
        if !S::EDGES {
            self.disarm_reported(&out.as_slice()[before..])?;
        }
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.alarm.waker()
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn quiesce(&mut self, _out: &mut Events) -> io::Result<()> {
        Ok(())
    }
}
