//! What a loop owns: its queues, its backend and everything registered with it.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};
use zloop_backends::{AnyBackend, Backend, Event, Interest, Slots, Token, What};

use super::handle::{self, Fresh, HandleTypes};
use crate::io::{ReadSize, WriteQueue};
use crate::sched::{Hold, Scheduler, Slice};

/// A callback in the ready queue or among the timers.
///
/// The wide tag makes the compiler move items word by word. With a tag of one byte it copies the seven bytes after it
/// piece by piece, which stalls the load that follows.
#[repr(u64)]
pub enum Item {
    /// A handle, ours or asyncio's.
    Handle(Py<PyAny>),
    /// A stream transport turned ready, or an fd for which a future waits, or a handle that was cancelled.
    Ready(Token, Interest),
    /// A stream transport that was ready wants to be looked at again.
    Again(Token),
    /// A send that was in flight has ended: bytes or a negative errno.
    Sent(Token, i32),
}

impl From<Py<PyAny>> for Item {
    fn from(handle: Py<PyAny>) -> Self {
        Self::Handle(handle)
    }
}

/// What a token stands for.
pub enum Source {
    /// An fd under `add_reader`, `add_writer` or one of the `sock_*` methods.
    Watch(Watch),
    /// A stream transport, kept alive by this.
    Stream(Py<PyAny>),
    /// A stream transport that lives as long as somebody refers to it.
    Idle(Py<PyWeakrefReference>),
    /// The handle that runs when a child process has ended.
    Exit(Py<PyAny>),
    /// The bytes of a transport that is gone while the kernel still sends them.
    Draining(WriteQueue<PyBackedBytes>),
}

impl Source {
    /// The stream transport, if it is one that was not collected.
    pub fn transport<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        match self {
            Self::Stream(transport) => Some(transport.bind(py).clone()),
            Self::Idle(reference) => reference.bind(py).upgrade(),
            Self::Watch(_) | Self::Exit(_) | Self::Draining(_) => None,
        }
    }
}

/// Who hears that a watched fd is ready.
pub enum Waiter {
    /// A handle, which runs each time.
    Handle(Py<PyAny>),
    /// That of a transport of ours, which does not mind if a busy loop asks the kernel later.
    Transport(Py<PyAny>),
    /// A future of `sock_recv` and its like, which is done the first time.
    Future(Py<PyAny>),
}

impl Waiter {
    pub fn object(&self) -> &Py<PyAny> {
        let (Self::Handle(object) | Self::Transport(object) | Self::Future(object)) = self;
        object
    }
}

/// Those who wait for one watched fd.
pub struct Watch {
    pub fd: RawFd,
    /// What the caller named the fd by: once closed, a socket is only known by its identity.
    pub file: Option<Py<PyAny>>,
    pub reader: Option<Waiter>,
    pub writer: Option<Waiter>,
}

impl Watch {
    /// What the backend should report.
    pub fn interest(&self) -> Interest {
        let read = if self.reader.is_some() { Interest::READ } else { Interest::NONE };
        let write = if self.writer.is_some() { Interest::WRITE } else { Interest::NONE };
        read | write
    }

    /// Whether all who wait want one report.
    pub fn is_for_futures(&self) -> bool {
        [&self.reader, &self.writer].into_iter().flatten().all(|waiter| matches!(waiter, Waiter::Future(_)))
    }

    /// The place for who waits in one direction.
    pub fn side(&mut self, direction: Interest) -> &mut Option<Waiter> {
        if direction == Interest::READ { &mut self.reader } else { &mut self.writer }
    }
}

/// Hashes an fd. The kernel hands them out, the lowest first, so nobody can choose them to collide.
#[derive(Default)]
pub struct SpreadFd(u64);

impl Hasher for SpreadFd {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_i32(i32::from(*byte)));
    }

    #[inline]
    fn write_i32(&mut self, fd: i32) {
        // The table looks at the high bits and at the low ones; an odd factor near 2^64 divided by the golden ratio
        // spreads small numbers over both.
        self.0 = (self.0 ^ u64::from(fd.cast_unsigned())).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Has the C library recycle large blocks.
///
/// glibc maps blocks above a threshold from the kernel and unmaps them when they are freed; the first one that is freed
/// raises the threshold above its size. Messages are shrunk before they are freed, so they never raise it, and each large
/// read would pay for fresh pages (measured: five times the CPU time at 100 KiB). The block is never touched.
pub fn recycle_large_blocks() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(4 << 20)));
}

/// Everything of a loop that only its own thread should touch.
#[derive(Default)]
pub struct State {
    pub sched: Scheduler<Item, Py<PyAny>>,
    pub fresh: Fresh,
    pub slice: Slice,
    pub hold: Hold,
    /// Absent while a thread waits in it, and after the loop was closed.
    pub backend: Option<Box<AnyBackend>>,
    /// Somebody has ended the wait that is going on.
    pub called: bool,
    pub sources: Slots<Source>,
    /// Who owns an fd: its watch or its stream transport.
    pub fds: HashMap<RawFd, Token, BuildHasherDefault<SpreadFd>>,
    /// Transports and TLS protocols that the last callbacks have written to, and that may not have sent it. Each is on it once,
    /// as its own `dirty` says, until the callback returns, even if somebody has had it send before.
    pub dirty: VecDeque<Py<PyAny>>,
    /// Stream transports to look at again in the next turn: behind what is ready by then, where a wait would report them.
    pub again: Vec<Token>,
    /// Where small messages are read; made when the first one comes.
    scratch: Vec<u8>,
    /// Watches that other threads have cleared while the backend was away, which goes on watching them until it is told.
    pub untold: Vec<(RawFd, Token)>,
    /// There have been transports that asyncio's own table knows.
    pub has_datagrams: bool,
    /// There have been TLS sessions that the transports below them do not lead to.
    pub has_stray_tls: bool,
    /// How much the last `sock_recv` brought.
    pub sock_read: ReadSize,
    pub task_factory: Option<Py<PyAny>>,
}

/// The backend is away: another thread waits in it, for which asyncio has these words in debug mode, or the loop is closed,
/// which whoever asks for the backend finds out by `check_open`.
#[derive(Debug)]
pub struct Elsewhere;

impl Elsewhere {
    /// Whether this is the error.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

impl std::error::Error for Elsewhere {}

impl std::fmt::Display for Elsewhere {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Non-thread-safe operation invoked on an event loop other than the current one")
    }
}

impl State {
    /// The backend, unless another thread waits in it or the loop is closed.
    pub fn backend(&mut self) -> io::Result<&mut AnyBackend> {
        self.backend.as_deref_mut().ok_or_else(|| io::Error::other(Elsewhere))
    }

    /// Whether a change must end a wait that is going on: true for the first one alone.
    #[inline]
    pub fn must_be_woken(&mut self) -> bool {
        self.backend.is_none() && !std::mem::replace(&mut self.called, true)
    }

    /// Empties all queues; the caller drops what was in them where that is safe.
    #[must_use]
    pub fn take_queued(&mut self) -> Vec<Item> {
        self.fresh = Fresh::default();
        self.again.clear();
        self.sched.take_all()
    }

    /// The buffer that all small reads of the loop share.
    pub fn scratch(&mut self) -> &mut Vec<u8> {
        self.scratch.reserve_exact(ReadSize::LARGEST);
        &mut self.scratch
    }

    /// The same buffer, for a while in which the state is not held.
    pub fn take_scratch(&mut self) -> Vec<u8> {
        std::mem::take(self.scratch())
    }

    /// The inverse of `take_scratch`.
    pub fn put_scratch(&mut self, scratch: Vec<u8>) {
        self.scratch = scratch;
    }

    /// Queues what a wait has reported, in the order in which it came.
    pub fn dispatch(&mut self, py: Python<'_>, types: &HandleTypes, event: Event) {
        let token = event.token;
        match (self.sources.get_mut(token), event.what) {
            (Some(Source::Stream(_) | Source::Idle(_)), What::Ready(interest)) => {
                self.sched.push(Item::Ready(token, interest));
            }
            (Some(Source::Stream(_) | Source::Idle(_)), What::Sent(result)) => {
                self.sched.push(Item::Sent(token, result));
            }
            (Some(Source::Watch(watch)), What::Ready(interest)) => {
                let ready = [(Interest::READ, &watch.reader), (Interest::WRITE, &watch.writer)];
                for (direction, waiter) in ready.into_iter().filter(|(direction, _)| interest.contains(*direction)) {
                    match waiter {
                        Some(Waiter::Handle(handle)) => {
                            self.slice.end();
                            // Cancelled by hand, it is still to be taken out.
                            let over = handle::is_cancelled(types, handle);
                            let item =
                                if over { Item::Ready(token, direction) } else { Item::Handle(handle.clone_ref(py)) };
                            self.sched.push(item);
                        }
                        Some(Waiter::Transport(handle)) => self.sched.push(Item::Handle(handle.clone_ref(py))),
                        Some(Waiter::Future(_)) => self.sched.push(Item::Ready(token, direction)),
                        None => {}
                    }
                }
            }
            (Some(Source::Exit(_)), What::Ready(_)) => {
                if let (Some(Source::Exit(handle)), Ok(backend)) = (self.sources.remove(token), self.backend()) {
                    backend.forget(token);
                    self.sched.push(Item::Handle(handle));
                }
            }
            (Some(Source::Draining(_)), What::Sent(_)) => self.drained(token),
            // A watch sends nothing, a draining stream listens no more, and a stale token is nobody's.
            _ => {}
        }
    }

    /// Whether the next wait reports this as well, if it still holds.
    pub fn is_reported_again(&self, event: &Event) -> bool {
        matches!(self.sources.get(event.token), Some(Source::Watch(watch)) if !watch.is_for_futures())
    }

    /// The kernel is done with what a stream left behind. It is plain `bytes`: dropping them runs no code.
    pub fn drained(&mut self, token: Token) {
        if matches!(self.sources.get(token), Some(Source::Draining(_))) {
            drop(self.sources.remove(token));
        }
    }

    /// All objects in here, for the garbage collector.
    pub fn each_object(&self, mut visit: impl FnMut(&Py<PyAny>)) {
        for item in self.sched.ready() {
            if let Item::Handle(handle) = item {
                super::handle::visit(handle, &mut visit);
            }
        }
        self.sched.timers.iter().for_each(|handle| super::handle::visit(handle, &mut visit));
        for (_, source) in self.sources.iter() {
            match source {
                Source::Watch(watch) => {
                    let waiters = [&watch.reader, &watch.writer].into_iter().flatten().map(Waiter::object);
                    watch.file.iter().chain(waiters).for_each(&mut visit);
                }
                Source::Stream(object) | Source::Exit(object) => visit(object),
                Source::Idle(_) | Source::Draining(_) => {}
            }
        }
        self.dirty.iter().chain(&self.task_factory).for_each(visit);
    }
}
