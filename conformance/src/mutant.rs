//! A backend that breaks one clause of the contract, to see that the suite would notice.
//!
//! It wraps the backend in memory and falsifies what goes in or comes out.

use std::collections::{HashMap, HashSet};
use std::io::{self, IoSlice, PipeReader, PipeWriter, Read, Write};
use std::os::fd::RawFd;
use std::process;
use std::thread::{self, ThreadId};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use zloop_backends::sim::{Sim, World as SimWorld};
use zloop_backends::{Backend, Event, Events, Interest, Profile, Sent, Token, Wait, Waker, What};

use crate::clause::Clause;

macro_rules! faults {
    ($($clause:ident { $($(#[doc = $doc:literal])+ $name:ident,)+ })+) => {
        /// One way to break the contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fault {
            $($($(#[doc = $doc])+ $name,)+)+
        }

        impl Fault {
            /// Every fault.
            pub const ALL: &'static [Self] = &[$($(Self::$name),+),+];

            /// The clause that it breaks.
            #[must_use]
            pub const fn clause(self) -> Clause {
                match self {
                    $($(Self::$name)|+ => Clause::$clause,)+
                }
            }
        }
    };
}

faults! {
    C1 {
        /// A pending send is reported twice.
        DoubleSent,
        /// A pending send is never reported.
        LostSent,
        /// A pending send is reported with a byte less than left.
        ShortSent,
        /// A send that was finished on the spot is reported as well.
        SentAfterFinish,
    }
    C2 {
        /// A send that was done at once is reported as well.
        SentAfterDone,
        /// A full stream is an error.
        AgainAsError,
        /// A pending send ends with `-EAGAIN`.
        AgainAsResult,
    }
    C3 {
        /// Cancelling does nothing.
        LostCancel,
        /// A cancelled send vanishes without its terminal event.
        SilentCancel,
        /// A stale token cancels the send of the slot's present holder.
        CancelsBySlot,
    }
    C4 {
        /// The bytes of a pending send are taken after its terminal event.
        LateRead,
        /// The bytes of a send that was done at once are taken later.
        LateDone,
    }
    C5 {
        /// `forget` closes the caller's fd.
        ClosesTheFd,
        /// Every wait opens an fd that nobody closes.
        LeaksFds,
    }
    C6 {
        /// A watch reports once.
        EdgeWatch,
        /// What is ready is reported twice by one poll.
        DoubleReady,
        /// What was ready once is reported for ever.
        StaleReady,
        /// A watch for one report that is made again reports nothing.
        DeafOnce,
        /// `rearm` does nothing.
        LostRearm,
        /// An attached stream that is ready already is not reported.
        QuietAttach,
        /// What is closed is not reported as readable.
        LosesTheEnd,
        /// Bytes are reported as an end.
        FalseEnd,
    }
    C7 {
        /// What was ready before `forget` is reported after it.
        LateReady,
        /// Reports go to whoever had the fd's number before, too.
        KeyedByFd,
    }
    C8 {
        /// A wake does nothing.
        DropsWake,
        /// A wake that comes before the wait is dropped.
        DropsEarlyWake,
        /// One wake ends two waits.
        WakesTwice,
    }
    C9 {
        /// Waits end early.
        EarlyTimeout,
        /// A timeout is an error.
        TimeoutError,
        /// A wait for ever ends without a reason.
        EndlessEnds,
    }
    C10 {
        /// A signal is an error.
        SignalError,
        /// A signal does not end the wait.
        SwallowsSignal,
    }
    C11 {
        /// What did not fit is lost.
        LosesLeftovers,
        /// What did not fit comes last.
        StarvesLeftovers,
    }
    C12 {
        /// A second send is accepted while the first is in flight.
        AcceptsTwoSends,
    }
    C13 {
        /// After a forked child has dropped its copy, the parent reports nothing.
        ChildDisturbs,
    }
    C14 {
        /// `quiesce` does nothing.
        QuiesceLeaves,
    }
    C15 {
        /// In another thread, nothing is reported of what was registered before.
        StaysAtHome,
    }
    C16 {
        /// The end of a child is not reported.
        LosesExits,
        /// A child is reported that lives.
        EarlyExits,
    }
}

/// The backend in memory, with a fault.
#[derive(Debug)]
pub struct Mutant {
    inner: Sim,
    world: SimWorld,
    fault: Fault,
    gathering: bool,
    /// The fd of each token.
    fds: HashMap<Token, RawFd>,
    /// Who had an fd's number before.
    former: HashMap<RawFd, Token>,
    /// Tokens that have been reported, and sends in flight.
    reported: HashSet<Token>,
    flying: HashSet<Token>,
    /// Made-up or delayed reports.
    queue: Vec<Event>,
    /// Bytes that are taken too late, and whether it is too late yet.
    late: Vec<(Token, Bytes, bool)>,
    /// Somebody else's backend: calling it ends no wait here.
    elsewhere: Sim,
    pipe: (PipeReader, PipeWriter),
    process: u32,
    home: ThreadId,
}

#[derive(Clone, Copy, Debug)]
struct Bytes(*const u8, usize);

// SAFETY: a pointer of the caller's; it is read in the thread that polls.
unsafe impl Send for Bytes {}

impl Mutant {
    /// Gives a backend a fault.
    ///
    /// # Panics
    /// Without fds.
    #[must_use]
    pub fn new(inner: Sim, world: SimWorld, fault: Fault) -> Self {
        let pipe = io::pipe().expect("a pipe");
        fcntl(&pipe.0, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe");
        Self {
            inner,
            world,
            fault,
            gathering: false,
            fds: HashMap::new(),
            former: HashMap::new(),
            reported: HashSet::new(),
            flying: HashSet::new(),
            queue: Vec::new(),
            late: Vec::new(),
            elsewhere: Sim::new(0).expect("a sim"),
            pipe,
            process: process::id(),
            home: thread::current().id(),
        }
    }

    fn waiting_for(&self, wait: Wait) -> Wait {
        match (self.fault, wait) {
            _ if !self.queue.is_empty() || !self.late.is_empty() => Wait::Now,
            (Fault::EarlyTimeout, Wait::For(time)) => Wait::For(time / 2),
            (Fault::EndlessEnds, Wait::Forever) => Wait::For(std::time::Duration::from_millis(1)),
            _ => wait,
        }
    }

    /// What becomes of a report.
    fn mangle(&mut self, event: Event) -> Vec<Event> {
        let Event { token, what } = event;
        let first = self.reported.insert(token);
        if let What::Sent(_) = what {
            self.flying.remove(&token);
        }
        match (self.fault, what) {
            (Fault::DoubleSent, What::Sent(_)) | (Fault::DoubleReady, What::Ready(_)) => vec![event, event],
            (Fault::LostSent, What::Sent(_)) => vec![],
            (Fault::SilentCancel, What::Sent(result)) if result == -libc::ECANCELED => vec![],
            (Fault::ShortSent, What::Sent(count)) => vec![Event { token, what: What::Sent(count - 1) }],
            (Fault::AgainAsResult, What::Sent(_)) => vec![Event { token, what: What::Sent(-libc::EAGAIN) }],
            (Fault::EdgeWatch | Fault::QuietAttach, What::Ready(_)) if first == (self.fault == Fault::QuietAttach) => {
                vec![]
            }
            (Fault::FalseEnd, What::Ready(ready)) => {
                vec![Event { token, what: What::Ready(ready | Interest::CLOSED) }]
            }
            (Fault::LosesTheEnd, What::Ready(ready)) if ready.contains(Interest::CLOSED) => vec![],
            (Fault::KeyedByFd, What::Ready(_)) => {
                let former = self.fds.get(&token).and_then(|fd| self.former.get(fd));
                former.map(|token| Event { token: *token, what }).into_iter().chain([event]).collect()
            }
            (Fault::StaysAtHome, _) if thread::current().id() != self.home => vec![],
            (Fault::ChildDisturbs, What::Ready(_)) if self.is_disturbed() => vec![],
            _ => vec![event],
        }
    }

    fn is_disturbed(&self) -> bool {
        (&self.pipe.0).read(&mut [0]).is_ok_and(|count| count > 0) && (&self.pipe.1).write(&[1]).is_ok()
    }

    /// Takes bytes that are overdue.
    fn take_late(&mut self) {
        for (token, bytes, overdue) in std::mem::take(&mut self.late) {
            if overdue {
                // SAFETY: the rig overwrites the memory of finished sends, and keeps it for as long as it lives.
                let bytes = unsafe { std::slice::from_raw_parts(bytes.0, bytes.1) }.to_vec();
                let _ = self.fds.get(&token).map(|fd| self.world.write(*fd, &bytes));
            } else {
                self.queue.push(Event { token, what: What::Sent(bytes.1 as i32) });
                self.late.push((token, bytes, true));
            }
        }
    }

    fn finish_poll(&mut self, wait: Wait, quiet: bool) -> io::Result<()> {
        match (self.fault, wait) {
            (Fault::TimeoutError, Wait::For(_)) if quiet => Err(Errno::ETIMEDOUT.into()),
            (Fault::SignalError, Wait::Forever) if quiet => Err(Errno::EINTR.into()),
            (Fault::WakesTwice, Wait::Forever) if quiet => {
                self.inner.waker().wake();
                Ok(())
            }
            (Fault::LeaksFds, _) => {
                std::mem::forget(io::pipe()?);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Backend for Mutant {
    fn profile(&self) -> Profile {
        self.inner.profile()
    }

    fn watch(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.fds.insert(token, fd);
        self.inner.watch(fd, token, interest)
    }

    fn watch_once(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let again = self.fds.values().any(|known| *known == fd);
        self.fds.insert(token, fd);
        if self.fault == Fault::DeafOnce && again {
            return Ok(());
        }
        self.inner.watch_once(fd, token, interest)
    }

    fn attach(&mut self, fd: RawFd, token: Token) -> io::Result<()> {
        self.fds.insert(token, fd);
        self.inner.attach(fd, token)
    }

    fn rearm(&mut self, token: Token, interest: Interest) -> io::Result<()> {
        if self.fault == Fault::LostRearm {
            return Ok(());
        }
        self.inner.rearm(token, interest)
    }

    fn gather(&mut self, sends: usize) {
        self.gathering = sends > 1;
        self.inner.gather(sends);
    }

    unsafe fn send(&mut self, token: Token, bufs: &[IoSlice<'_>]) -> io::Result<Sent> {
        let bytes = Bytes(bufs[0].as_ptr(), bufs[0].len());
        match self.fault {
            Fault::LateRead if self.gathering => {
                self.late.push((token, bytes, false));
                return Ok(Sent::Pending);
            }
            Fault::LateDone => {
                self.late.push((token, bytes, true));
                return Ok(Sent::Done(bytes.1));
            }
            Fault::AcceptsTwoSends if self.flying.contains(&token) => return Ok(Sent::Pending),
            _ => {}
        }
        // SAFETY: the caller promises what the backend in memory asks for.
        let answer = unsafe { self.inner.send(token, bufs) };
        match (self.fault, &answer) {
            (Fault::SentAfterDone, Ok(Sent::Done(count))) => {
                self.queue.push(Event { token, what: What::Sent(*count as i32) });
            }
            (Fault::AgainAsError, Ok(Sent::Blocked)) => return Err(Errno::EAGAIN.into()),
            (_, Ok(Sent::Pending)) => drop(self.flying.insert(token)),
            _ => {}
        }
        answer
    }

    fn finish(&mut self, token: Token) -> Option<i32> {
        let result = self.inner.finish(token)?;
        self.flying.remove(&token);
        if self.fault == Fault::SentAfterFinish {
            self.queue.push(Event { token, what: What::Sent(result) });
        }
        Some(result)
    }

    fn cancel(&mut self, token: Token) {
        match self.fault {
            Fault::LostCancel => {}
            Fault::CancelsBySlot => {
                let holders: Vec<_> = self.fds.keys().filter(|known| known.slot() == token.slot()).copied().collect();
                holders.into_iter().for_each(|holder| self.inner.cancel(holder));
            }
            _ => self.inner.cancel(token),
        }
    }

    fn watch_exit(&mut self, pid: i32, token: Token) -> io::Result<()> {
        match self.fault {
            Fault::LosesExits => Ok(()),
            Fault::EarlyExits => {
                self.queue.push(Event { token, what: What::Ready(Interest::READ) });
                Ok(())
            }
            _ => self.inner.watch_exit(pid, token),
        }
    }

    fn forget(&mut self, token: Token) {
        self.inner.forget(token);
        let Some(fd) = self.fds.remove(&token) else { return };
        match self.fault {
            Fault::ClosesTheFd => drop(self.world.close(fd)),
            Fault::LateReady => self.queue.push(Event { token, what: What::Ready(Interest::READ) }),
            _ => {}
        }
        self.former.insert(fd, token);
    }

    fn poll(&mut self, wait: Wait, out: &mut Events) -> io::Result<()> {
        self.gathering = false;
        self.take_late();
        if self.fault == Fault::StaleReady {
            let known = self.reported.iter().filter(|token| self.fds.contains_key(token));
            self.queue = known.map(|token| Event { token: *token, what: What::Ready(Interest::READ) }).collect();
        }
        if self.fault == Fault::DropsEarlyWake {
            let mut early = Events::with_limit(out.room());
            self.inner.poll(Wait::Now, &mut early)?;
            self.queue.extend(early.drain());
        }
        let overfull = matches!(self.fault, Fault::LosesLeftovers | Fault::StarvesLeftovers);
        let mut found = Events::with_limit(if overfull { 1000 } else { out.room() });
        let start = self.world.now();
        self.inner.poll(self.waiting_for(wait), &mut found)?;
        if let (Fault::SwallowsSignal, Wait::For(time), []) = (self.fault, wait, found.as_slice()) {
            self.inner.poll(Wait::For((start + time).saturating_sub(self.world.now())), &mut found)?;
        }
        let mut events = std::mem::take(&mut self.queue);
        for event in found.drain() {
            events.extend(self.mangle(event));
        }
        if overfull {
            events.sort_by_key(|event| event.token);
            events.truncate(out.room());
        }
        let quiet = events.is_empty();
        self.queue = events.split_off(events.len().min(out.room()));
        events.into_iter().for_each(|event| out.push(event.token, event.what));
        self.finish_poll(wait, quiet)
    }

    fn waker(&self) -> Waker {
        if self.fault == Fault::DropsWake { self.elsewhere.waker() } else { self.inner.waker() }
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn quiesce(&mut self, out: &mut Events) -> io::Result<()> {
        if self.fault == Fault::QuiesceLeaves { Ok(()) } else { self.inner.quiesce(out) }
    }
}

impl Drop for Mutant {
    fn drop(&mut self) {
        if self.fault == Fault::ChildDisturbs && self.process != process::id() {
            let _ = (&self.pipe.1).write(&[1]);
        }
    }
}
