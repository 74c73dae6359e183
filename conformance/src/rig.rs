//! A backend, what was asked of it, and checks that hold in every case.
//!
//! Whatever a case is about, the rig fails it when a report comes for a token that nobody has, when a send ends twice
//! or ends though it was answered at once, when more events come than fit, or when a result is `-EAGAIN`. It
//! overwrites the memory of every send as soon as it may, so late reads show up in what the peer receives.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use zloop_backends::{Backend, Event, Events, Interest, Sent, Slots, Token, Unavailable, Wait, Waker, What};

use crate::subject::{Opened, Subject};
use crate::world::{Deed, Family, World};

/// How long anything may take that must happen.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The number of events that a poll brings at most, unless a case says otherwise.
const LIMIT: usize = 64;

/// More than any stream takes whose peer does not read.
const FULL_MAX: usize = 1 << 28;

/// Held shared by every rig, and alone by whoever forks, counts the process's fds, or needs a number to stay free.
static FDS: RwLock<()> = RwLock::new(());

/// Memory of sends that never ended. Kept in sight, so that whoever looks for leaks finds only real ones.
static ABANDONED: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A backend under test.
#[allow(missing_debug_implementations)]
pub struct Rig {
    subject: Subject,
    backend: Option<Box<dyn Backend + Send>>,
    world: Box<dyn World>,
    tokens: Slots<Interest>,
    flights: HashMap<Token, Box<[u8]>>,
    results: HashMap<Token, i32>,
    /// Memory of sends that are over, overwritten. Kept, so that whoever reads it late finds it.
    graves: Vec<Box<[u8]>>,
    events: Events,
    company: Company,
}

/// Who else of this process may open, close and inherit fds.
enum Company {
    Others(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Nobody(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
    /// Between the two.
    Unknown,
}

/// An attached stream.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Its token.
    pub token: Token,
    /// The backend's end.
    pub fd: RawFd,
    /// The other end.
    pub peer: RawFd,
}

impl Rig {
    /// Opens a backend.
    ///
    /// # Errors
    /// Why this machine has none.
    pub fn open(subject: Subject) -> Result<Self, Unavailable> {
        let company = Company::Others(FDS.read().unwrap_or_else(PoisonError::into_inner));
        let (mut backend, world) = subject.open()?;
        backend.bind().expect("a backend that this thread can poll");
        Ok(Self {
            subject,
            backend: Some(backend),
            world,
            tokens: Slots::new(),
            flights: HashMap::new(),
            results: HashMap::new(),
            graves: Vec::new(),
            events: Events::with_limit(LIMIT),
            company,
        })
    }

    /// What is tested.
    #[must_use]
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// The backend.
    pub fn backend(&mut self) -> &mut dyn Backend {
        &mut **self.backend.as_mut().expect("the backend has not been dropped")
    }

    /// The world around it.
    pub fn world(&mut self) -> &mut dyn World {
        &mut *self.world
    }

    /// The kinds of streams that there are.
    #[must_use]
    pub fn families(&self) -> &'static [Family] {
        self.world.families()
    }

    /// A waker of the backend.
    pub fn waker(&mut self) -> Waker {
        self.backend().waker()
    }

    /// Lets something happen after a while.
    pub fn later(&mut self, after: Duration, deed: Deed) {
        self.world.later(after, deed);
    }

    /// From now on, at most so many events come with one poll.
    pub fn limit(&mut self, limit: usize) {
        self.events = Events::with_limit(limit);
    }

    /// Takes the backend out.
    pub fn take_backend(&mut self) -> Box<dyn Backend + Send> {
        self.backend.take().expect("the backend has not been dropped")
    }

    /// Puts a backend (back) in.
    pub fn put_backend(&mut self, backend: Box<dyn Backend + Send>) {
        self.backend = Some(backend);
    }

    /// From now on, no other rig of this process does anything. For cases that fork, whose child would hold the files of
    /// other cases open for a while, and for those that need an fd's number to stay free once it is closed.
    pub fn be_alone(&mut self) {
        self.company = Company::Unknown;
        self.company = Company::Nobody(FDS.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Drops the backend, runs `count` while no other rig of this process opens or closes fds, and opens a new one.
    pub fn alone<T>(&mut self, count: impl FnOnce(&mut dyn FnMut() -> Opened) -> T) -> T {
        self.finish();
        self.company = Company::Unknown;
        let subject = self.subject;
        let counted = {
            let _alone = FDS.write().unwrap_or_else(PoisonError::into_inner);
            count(&mut || subject.open().expect("it opened before"))
        };
        *self = Self::open(subject).expect("it opened before");
        counted
    }

    // What is asked of the backend.

    /// A new token, known to the rig.
    pub fn token(&mut self) -> Token {
        self.tokens.insert(Interest::NONE)
    }

    /// Two connected streams: what the backend gets, and the other end.
    pub fn pair(&mut self) -> (RawFd, RawFd) {
        self.world.pair(Family::Unix)
    }

    /// An attached stream.
    pub fn stream(&mut self) -> Stream {
        self.stream_of(Family::Unix)
    }

    /// An attached stream of a kind.
    pub fn stream_of(&mut self, family: Family) -> Stream {
        let (fd, peer) = self.world.pair(family);
        self.attach(fd, peer)
    }

    /// Attaches an end of a pair.
    pub fn attach(&mut self, fd: RawFd, peer: RawFd) -> Stream {
        let token = self.token();
        self.backend().attach(fd, token).expect("a stream can be attached");
        Stream { token, fd, peer }
    }

    /// Watches an fd under a new token.
    pub fn watch(&mut self, fd: RawFd, interest: Interest) -> Token {
        let token = self.token();
        self.backend().watch(fd, token, interest).expect("a stream can be watched");
        token
    }

    /// Rearms a stream, and forgets what was reported of these directions.
    pub fn rearm(&mut self, token: Token, interest: Interest) {
        if let Some(seen) = self.tokens.get_mut(token) {
            *seen = *seen & !interest;
        }
        self.backend().rearm(token, interest).expect("a stream can be rearmed");
    }

    /// Forgets a token. Its slot is free for others then.
    pub fn forget(&mut self, token: Token) {
        self.backend().forget(token);
        self.tokens.remove(token);
    }

    /// Sends a copy of these bytes; the copy is overwritten when the backend is through with it.
    ///
    /// # Errors
    /// The backend's.
    pub fn send(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<Sent> {
        self.send_slices(stream, bytes, 1)
    }

    /// As [`send`](Rig::send), in so many slices.
    ///
    /// # Errors
    /// The backend's.
    pub fn send_slices(&mut self, stream: Stream, bytes: &[u8], slices: usize) -> io::Result<Sent> {
        let copy: Box<[u8]> = bytes.into();
        let parts: Vec<_> = copy.chunks(bytes.len().div_ceil(slices).max(1)).map(IoSlice::new).collect();
        let backend = &mut **self.backend.as_mut().expect("the backend has not been dropped");
        // SAFETY: the copy lives in `flights`, unchanged, until the terminal event; `Drop` leaks it if that does not
        // come.
        let answer = unsafe { backend.send(stream.token, &parts) };
        if let Ok(Sent::Pending) = answer {
            let before = self.flights.insert(stream.token, copy);
            assert!(before.is_none(), "C12: two sends in flight for {:?}", stream.token);
            self.results.remove(&stream.token);
        } else {
            self.bury(copy);
        }
        if let Err(error) = &answer {
            let again = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind());
            assert!(!again, "C2: {error} as the result of a send");
        }
        if let Ok(Sent::Done(count)) = answer {
            assert!((1..=bytes.len()).contains(&count), "C2: {count} of {} bytes left", bytes.len());
        }
        answer
    }

    /// Says that sends come, so many that it must seem worthwhile to keep them together.
    pub fn gather(&mut self) {
        self.backend().gather(64);
    }

    /// Asks that a send in flight be ended on the spot; its result if it was.
    pub fn finish_send(&mut self, token: Token) -> Option<i32> {
        let result = self.backend().finish(token)?;
        self.note(Event { token, what: What::Sent(result) });
        Some(result)
    }

    /// Sends until the stream is full; returns what left.
    pub fn fill(&mut self, stream: Stream) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            assert!(all.len() < FULL_MAX, "C2: {} bytes left, and the peer has read none", all.len());
            let chunk = pattern(all.len(), 30_000);
            match self.send(stream, &chunk).expect("the peer lives") {
                Sent::Done(count) => all.extend(&chunk[..count]),
                Sent::Blocked => return all,
                Sent::Pending => panic!("C2: nothing was gathered, and yet the send is pending"),
            }
        }
    }

    // What the backend tells.

    /// Polls once.
    pub fn poll(&mut self, wait: Wait) -> Vec<Event> {
        let limit = self.events.room();
        let backend = &mut **self.backend.as_mut().expect("the backend has not been dropped");
        let outcome = {
            let _guard = Watchdog::new(wait);
            backend.poll(wait, &mut self.events)
        };
        outcome.expect("C9, C10: neither a timeout nor a signal is an error");
        let events: Vec<_> = self.events.drain().collect();
        assert!(events.len() <= limit, "C11: {} events where {limit} fit", events.len());
        self.take_note(&events);
        events
    }

    /// Checks and keeps reports, which came here or in another thread.
    pub fn take_note(&mut self, events: &[Event]) {
        for event in events {
            self.note(*event);
        }
    }

    /// Quiesces, and takes the terminal events.
    pub fn quiesce(&mut self) {
        for _ in 0..1000 {
            let backend = &mut **self.backend.as_mut().expect("the backend has not been dropped");
            backend.quiesce(&mut self.events).expect("C14: a backend can be quiesced");
            for event in self.events.drain().collect::<Vec<_>>() {
                if matches!(event.what, What::Sent(_)) {
                    self.note(event);
                }
            }
            if self.backend().in_flight() == 0 {
                break;
            }
        }
        assert_eq!(self.backend().in_flight(), 0, "C14: sends are in flight after quiesce");
        assert!(self.flights.is_empty(), "C14: no terminal event came for {:?}", self.flights.keys());
    }

    /// Checks a report and keeps it.
    fn note(&mut self, event: Event) {
        match event.what {
            What::Ready(ready) => {
                let Some(seen) = self.tokens.get_mut(event.token) else {
                    panic!("C7: {ready:?} for the forgotten {:?}", event.token);
                };
                *seen = *seen | ready;
            }
            What::Sent(result) => {
                let Some(memory) = self.flights.remove(&event.token) else {
                    panic!("C1, C2: a send of {:?} ended that was not in flight", event.token);
                };
                let len = memory.len();
                self.bury(memory);
                assert!(result != -libc::EAGAIN && result != -libc::EINTR, "C2: a result of {result}");
                assert!(result <= len as i32, "C1: {result} of {len} bytes left");
                self.results.insert(event.token, result);
            }
        }
    }

    fn bury(&mut self, mut memory: Box<[u8]>) {
        memory.fill(SCRIBBLE);
        self.graves.push(memory);
    }

    /// What was reported of a token since it was last rearmed.
    #[must_use]
    pub fn seen(&self, token: Token) -> Interest {
        self.tokens.get(token).copied().unwrap_or_default()
    }

    /// Forgets what was reported of a token.
    pub fn unsee(&mut self, token: Token) {
        if let Some(seen) = self.tokens.get_mut(token) {
            *seen = Interest::NONE;
        }
    }

    /// The result of a token's last pending send, once it has ended.
    #[must_use]
    pub fn result(&self, token: Token) -> Option<i32> {
        self.results.get(&token).copied()
    }

    /// Polls until the condition holds; fails if it does not in good time.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let deadline = self.world.now() + PATIENCE;
        // The world's clock may stand still while reports come that are of no use.
        let real_deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let now = self.world.now();
            assert!(now < deadline && Instant::now() < real_deadline, "{what}: not within {PATIENCE:?}");
            self.poll(Wait::For(deadline - now));
        }
    }

    /// Polls until these directions of a token have been reported.
    #[track_caller]
    pub fn until_seen(&mut self, token: Token, interest: Interest) {
        self.until(&format!("C6: {interest:?} of {token:?}"), |rig| rig.seen(token).contains(interest));
    }

    /// Polls until a token's pending send has ended.
    #[track_caller]
    pub fn until_sent(&mut self, token: Token) -> i32 {
        self.until(&format!("C1: the end of the send of {token:?}"), |rig| rig.results.contains_key(&token));
        self.results[&token]
    }

    /// Polls without waiting, often enough for anything that is ready to show up.
    pub fn settle(&mut self) {
        for _ in 0..4 {
            self.poll(Wait::Now);
        }
    }

    /// How many bytes left in the end, whatever the answer was.
    #[track_caller]
    pub fn outcome(&mut self, stream: Stream, answer: io::Result<Sent>) -> i32 {
        match answer {
            Ok(Sent::Done(count)) => count as i32,
            Ok(Sent::Blocked) => 0,
            Ok(Sent::Pending) => self.until_sent(stream.token),
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    /// Sends all of it, as a transport would.
    #[track_caller]
    pub fn send_all(&mut self, stream: Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let answer = self.send(stream, bytes);
            if matches!(answer, Ok(Sent::Blocked)) {
                self.rearm(stream.token, Interest::WRITE);
                self.until_seen(stream.token, Interest::WRITE);
            }
            let sent = self.outcome(stream, answer);
            bytes = &bytes[usize::try_from(sent).expect("the peer lives")..];
        }
    }

    /// Reads from an fd until it is empty; at most `most` bytes at a time.
    pub fn drain(&mut self, fd: RawFd, most: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(bytes) = self.world.read(fd, most) {
            if bytes.is_empty() {
                break;
            }
            all.extend(bytes);
        }
        all
    }

    /// Ends: nothing may be in flight, and the backend can be dropped.
    pub fn finish(&mut self) {
        if self.backend.is_some() {
            self.quiesce();
            self.backend = None;
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A failed case may leave sends in flight; then their memory has to stay for as long as the process does.
        let mut abandoned = ABANDONED.lock().unwrap_or_else(PoisonError::into_inner);
        abandoned.extend(self.flights.drain().map(|(_, memory)| memory));
    }
}

/// What finished sends leave in their memory.
const SCRIBBLE: u8 = 0xEE;

/// Bytes that tell where they belong, none of them what the rig leaves in finished memory.
#[must_use]
pub fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at % 211) as u8).collect()
}

/// Ends the process if a wait for ever really takes that long: a thread cannot be ended from outside.
struct Watchdog(Option<mpsc::Sender<()>>);

impl Watchdog {
    fn new(wait: Wait) -> Self {
        if wait != Wait::Forever {
            return Self(None);
        }
        let (sender, receiver) = mpsc::channel();
        let name = thread::current().name().unwrap_or_default().to_owned();
        thread::spawn(move || {
            if receiver.recv_timeout(3 * PATIENCE) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{name}: a wait for ever was not ended (C8, C9)");
                std::process::abort();
            }
        });
        Self(Some(sender))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}
