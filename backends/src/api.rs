//! What a backend is: the vocabulary ([`Token`], [`Interest`], [`Event`], [`Wait`]) and the trait [`Backend`].
//!
//! The scheduler owns clocks, timers, ready queues and callbacks; transports own buffers, flow control and what they
//! remember of readiness. A backend does only what needs the kernel. Five calls carry the data path:
//!
//! | call | meaning |
//! |---|---|
//! | [`attach`](Backend::attach), [`rearm`](Backend::rearm) | a stream: "tell me when it turns readable, or writable" |
//! | [`send`](Backend::send), [`gather`](Backend::gather) | "take this: done now, blocked, or a completion later" |
//! | [`watch`](Backend::watch), [`watch_once`](Backend::watch_once) | an fd of the user's (`add_reader`): level-triggered |
//! | [`cancel`](Backend::cancel), [`forget`](Backend::forget) | take it back |
//! | [`poll`](Backend::poll) | hand over all that is queued and wait, once per turn |
//!
//! # Contract
//!
//! Every backend keeps these clauses; the conformance suite has at least one case for each.
//!
//! * **C1** A `send` that answers [`Sent::Pending`] is followed by exactly one [`What::Sent`] event, or by one `finish`
//!   that answers with its result.
//! * **C2** A `send` that answers `Done`, `Blocked` or `Err` is followed by none. `EAGAIN` and `EINTR` are never
//!   reported as results: the first is `Blocked` or waited out, the second is retried.
//! * **C3** `cancel` is a request. The terminal event still comes, with `-ECANCELED` or with the bytes that left before.
//!   Unknown and stale tokens are ignored by every call that takes one.
//! * **C4** Memory given to `send` is never touched after its terminal event, nor after `Done`, `Blocked` or `Err`.
//! * **C5** No fd leaks and none is closed twice: a backend closes only fds that it opened itself.
//! * **C6** `watch` is level-triggered: while the condition holds, every `poll` reports it, each direction once; what was
//!   over before a `poll`, that reports no more, for the callback may block. An attached stream is
//!   reported as readable at least once after `attach`, and in each direction after each `rearm`, if the condition
//!   holds now or later; one that is dead, in both directions whatever it was rearmed for. `watch_once` is reported at
//!   least once if the condition holds now or later. Of these two, spurious reports are allowed. A file that is closed
//!   without `forget` keeps nobody else from being reported.
//! * **C7** After `forget` nothing arrives for that token, even if the fd's number is reused at once.
//! * **C8** `wake` from any thread, before or during a `poll`, ends that `poll`; any number of wakes make one return;
//!   none is lost.
//! * **C9** `Wait::For` never ends early without a reason; `Wait::Forever` ends only by an event, a wake or a signal,
//!   or because something inside the backend moved on (a send found room, what woke a watch is over). A timeout is `Ok`
//!   with no events.
//! * **C10** A signal ends `poll` promptly with `Ok`, so that the interpreter's handlers can run.
//! * **C11** At most `out.room()` events per call; what did not fit comes first next time.
//! * **C12** At most one `send` per token is in flight; the caller serialises, backends debug-assert.
//! * **C13** After `fork` the child may only `forget` and drop the backend, and the parent is undisturbed by that.
//! * **C14** `quiesce` ends with `in_flight() == 0`, given room for the terminal events; after it and `Drop` no fd and
//!   no memory is left behind.
//! * **C15** A backend goes with the thread that binds it: after `bind` in another thread all registrations, reports
//!   and sends in flight go on.
//! * **C16** A child process that `watch_exit` has taken is reported as readable once, when it has ended and waits for
//!   being reaped, which the backend does not do. One that had ended before is reported as well, or refused with
//!   `ESRCH`. A backend may refuse all with `ENOSYS`.

use std::io::{self, IoSlice};
use std::ops::{BitAnd, BitOr, Not};
use std::os::fd::RawFd;
use std::time::Duration;

use enum_dispatch::enum_dispatch;

use crate::wake::Waker;

/// One of the kernel interfaces behind the event loop.
///
/// The numbered clauses (C1 to C16) are in the [module documentation](self).
#[enum_dispatch]
pub trait Backend {
    /// Facts for humans: logs, the doctor, benchmarks. Never branch on it.
    fn profile(&self) -> Profile;

    /// Makes the calling thread the one that polls (C15). The scheduler calls it whenever a run starts; it is cheap
    /// when the thread is the same as before.
    ///
    /// # Errors
    /// The kernel's, when a per-thread resource (a ring) cannot be made for this thread.
    fn bind(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Watches an fd, level-triggered (C6). A second call for the same token replaces the interest;
    /// [`Interest::NONE`] removes the watch.
    ///
    /// # Errors
    /// The kernel's: `EPERM` for files that cannot be waited for (as epoll answers), `EBADF`, `ENOMEM`, `ENOSPC`.
    fn watch(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()>;

    /// [`watch`](Backend::watch) for callers who want one report and then [`forget`](Backend::forget) the watch, or
    /// call this again: what comes after the first report is undefined, and a backend may save system calls by that.
    ///
    /// # Errors
    /// As for [`watch`](Backend::watch).
    fn watch_once(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.watch(fd, token, interest)
    }

    /// Adopts a stream in non-blocking mode. It is reported when it becomes readable; reports may be edges, so the
    /// caller remembers them, and calls [`rearm`](Backend::rearm) when it found the fd drained. Nearly always there is
    /// room to write, so that is reported only after a `rearm` for it, which follows a send that was blocked.
    ///
    /// # Errors
    /// As for [`watch`](Backend::watch).
    fn attach(&mut self, fd: RawFd, token: Token) -> io::Result<()>;

    /// The caller has seen the direction of an attached stream run dry (`EAGAIN`, or a read that did not fill its
    /// buffer): the next time it is ready must be reported (C6). For reading it is free on edge-triggered backends,
    /// for writing after the first time.
    ///
    /// # Errors
    /// The kernel's, when the registration has to be changed and cannot be.
    fn rearm(&mut self, token: Token, interest: Interest) -> io::Result<()>;

    /// Says that about so many sends come now, one for each of several streams, and then a [`poll`](Backend::poll).
    /// A completion backend may then keep them together and answer `Pending`; without this call, or for a single one,
    /// every send is attempted on the spot. Only a hint, valid until the next `poll`.
    fn gather(&mut self, sends: usize) {
        let _ = sends;
    }

    /// Sends on an attached stream. As a rule it is attempted at once and answers `Done` or `Blocked`. After
    /// [`gather`](Backend::gather) a completion backend may answer `Pending`, hands the sends over together in the
    /// next [`poll`](Backend::poll), finishes partial ones by itself and then reports [`What::Sent`].
    ///
    /// `bufs` holds 1 to [`MAX_SLICES`] slices; the array itself is copied, the bytes are not.
    ///
    /// # Errors
    /// The socket's (`EPIPE`, `ECONNRESET`, ...); no signal is raised. Nothing is in flight then.
    ///
    /// # Safety
    /// If the answer is `Pending`, the bytes behind `bufs` stay valid and unchanged until the terminal event, or until
    /// `quiesce` has returned (C4).
    unsafe fn send(&mut self, token: Token, bufs: &[IoSlice<'_>]) -> io::Result<Sent>;

    /// Tries on the spot to bring the send in flight for `token` to its end: its result, and then no terminal event
    /// comes, or `None`, and then it does. For callers that have to know now what the kernel has taken; a backend may
    /// always answer `None`.
    fn finish(&mut self, token: Token) -> Option<i32> {
        let _ = token;
        None
    }

    /// Asks that the send in flight for `token` ends; its terminal event still comes (C3).
    fn cancel(&mut self, token: Token);

    /// Reports when a child process has ended (C16), which its parent reaps then. For kernels that tell of processes
    /// what others tell of fds.
    ///
    /// # Errors
    /// `ENOSYS` where there is no such thing, `ESRCH` for a process that is gone, `EACCES` or `EPERM` if forbidden.
    fn watch_exit(&mut self, pid: i32, token: Token) -> io::Result<()> {
        let _ = (pid, token);
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }

    /// The fd is about to be closed or handed to somebody else: drops its watch or stream (C7). A send in flight is
    /// cancelled; its memory must stay until [`Backend::in_flight`] no longer counts it, which the terminal event,
    /// still delivered for this one purpose, tells.
    fn forget(&mut self, token: Token);

    /// Hands over what is queued, waits and fills `out`. The only call that may block, and it runs no callback. May be
    /// called without the interpreter's lock.
    ///
    /// # Errors
    /// Only what makes the backend unusable. Timeouts and signals are `Ok` (C9, C10).
    fn poll(&mut self, wait: Wait, out: &mut Events) -> io::Result<()>;

    /// A handle with which any thread ends a `poll` (C8).
    fn waker(&self) -> Waker;

    /// Sends whose terminal event has not been delivered.
    fn in_flight(&self) -> usize;

    /// Cancels all sends in flight and polls until none is left or `out` is full (C14): in the second case, take the
    /// events and call again while [`in_flight`](Backend::in_flight) is not 0. No terminal event is lost; events of
    /// other kinds are kept or dropped.
    ///
    /// # Errors
    /// As for [`poll`](Backend::poll).
    fn quiesce(&mut self, out: &mut Events) -> io::Result<()>;
}

/// The largest number of slices in one [`Backend::send`].
pub const MAX_SLICES: usize = 64;

/// Who a report is for: an index into the caller's table and the generation of that place. Never an fd, never a
/// pointer: both are reused, and a late report must find nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

impl Token {
    /// The token of place `slot` in its `generation`.
    #[must_use]
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self(((generation as u64) << 32) | slot as u64)
    }

    /// The place in the caller's table.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.0 as u32
    }

    /// How often that place has been given away.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// As the 64 bits that kernels carry for us.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The inverse of [`to_bits`](Token::to_bits).
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// A set of directions, and, in reports, whether the other side is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Interest(u8);

impl Interest {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Readable: data, a connection to accept, or the end of the stream.
    pub const READ: Self = Self(1);
    /// Writable.
    pub const WRITE: Self = Self(2);
    /// Only in reports: the peer has shut down, the fd has an error, or there is urgent data, which ends a read before it
    /// whatever is behind. Such a report also has READ and WRITE for a dead fd (as `selectors` does), and a reader must go
    /// on until it gets 0 or an error: no later edge will come.
    pub const CLOSED: Self = Self(4);
    /// Readable and writable.
    pub const BOTH: Self = Self(3);

    /// Whether every direction of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Interest {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Interest {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for Interest {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0 & 7)
    }
}

/// How long [`Backend::poll`] may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    Now,
    /// This long, rounded up to what the kernel can count (C9).
    For(Duration),
    /// Until something happens.
    Forever,
}

/// What became of a [`Backend::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// This many bytes left, at least one.
    Done(usize),
    /// None left: the stream is full. The caller rearms [`Interest::WRITE`] and tries again when told.
    Blocked,
    /// The backend has it; a [`What::Sent`] follows.
    Pending,
}

/// One report from [`Backend::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whom it is for.
    pub token: Token,
    /// What happened.
    pub what: What,
}

/// What happened to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The watch's condition holds, or the stream turned ready in these directions.
    Ready(Interest),
    /// Terminal for a pending `send`: all its bytes, fewer after a cancel or an error, or a negative errno.
    Sent(i32),
}

/// The bounded list that [`Backend::poll`] fills.
#[derive(Debug)]
pub struct Events {
    list: Vec<Event>,
    limit: usize,
}

impl Events {
    /// An empty list for at most `limit` events.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        assert!(limit > 0, "a list without room would never report anything");
        Self { list: Vec::with_capacity(limit), limit }
    }

    /// How many more events fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.limit - self.list.len()
    }

    /// Adds an event. Backends check [`room`](Events::room) first.
    pub fn push(&mut self, token: Token, what: What) {
        debug_assert!(self.room() > 0, "C11: more events than fit");
        self.list.push(Event { token, what });
    }

    /// Takes all events out, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.list.drain(..)
    }

    /// The events, oldest first.
    #[must_use]
    pub fn as_slice(&self) -> &[Event] {
        &self.list
    }

    /// Forgets all events.
    pub fn clear(&mut self) {
        self.list.clear();
    }
}

/// Facts about an open backend, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The name that users select it by.
    pub name: &'static str,
    /// `"readiness"` or `"completion"`.
    pub model: &'static str,
    /// What it found in this kernel and uses, in words (`"epoll_pwait2"`, ...).
    pub features: Vec<&'static str>,
}
