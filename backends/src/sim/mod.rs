//! The backend in memory: streams and time are simulated, and whatever the contract leaves open is drawn from a seed.
//!
//! It is as unhelpful as the contract allows: a stream's direction is reported once and then only after `rearm`,
//! sends are split, blocked or left pending at random, and reports come in random order. It passes the conformance
//! suite, so what works on it relies on nothing but the contract.
//!
//! Time is virtual: a wait that nothing ends moves the clock to its deadline at once. Only a wait for ever with an
//! empty agenda really sleeps, because another thread may call.

pub mod world;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, RawFd};
use std::slice;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::api::{Backend, Events, Interest, MAX_SLICES, Profile, Sent, Token, Wait, What};
use crate::table::Table;
use crate::wake::{Alarm, Waker};
use world::Advance;
pub use world::{CAPACITY, Deed, World};

/// How long a wait for ever with an empty agenda may really last. Whoever runs it has lost a wake then.
const SLEEP_MS_MAX: u16 = 2000;

/// A backend in memory.
#[derive(Debug)]
pub struct Sim {
    world: World,
    random: Random,
    files: Table<File>,
    /// The tokens with a registration.
    tokens: Vec<Token>,
    sends: Vec<Flight>,
    /// Terminal events on their way.
    ended: Vec<(Token, i32)>,
    /// Reports that did not fit, oldest first.
    leftovers: Vec<Report>,
    /// Whether sends may wait for the next `poll`.
    gathering: bool,
    alarm: Alarm,
}

/// What is registered for a token.
#[derive(Clone, Copy, Debug)]
struct File {
    file: Token,
    stream: bool,
    /// What may be reported; of a stream, what has not been since it was last rearmed.
    armed: Interest,
}

/// A send that answered `Pending`.
#[derive(Debug)]
struct Flight {
    token: Token,
    file: Token,
    slices: Vec<(*const u8, usize)>,
    sent: usize,
    cancelled: bool,
}

// SAFETY: the pointers name memory that the caller of `send` keeps valid, in whatever thread.
unsafe impl Send for Flight {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Report {
    token: Token,
    /// A terminal event's result. Readiness has none, and is looked up when it is delivered.
    result: Option<i32>,
}

impl Sim {
    /// A backend in a world of its own.
    ///
    /// # Errors
    /// The kernel's, when the waker's fd cannot be had.
    pub fn new(seed: u64) -> io::Result<Self> {
        Ok(Self {
            world: World::default(),
            random: Random(seed),
            files: Table::new(),
            tokens: Vec::new(),
            sends: Vec::new(),
            ended: Vec::new(),
            leftovers: Vec::new(),
            gathering: false,
            alarm: Alarm::new()?,
        })
    }

    /// The world around the backend.
    #[must_use]
    pub fn world(&self) -> World {
        self.world.clone()
    }

    fn register(&mut self, fd: RawFd, token: Token, stream: bool, armed: Interest) -> io::Result<()> {
        let file = self.world.file(fd)?;
        self.files.insert(token, File { file, stream, armed });
        self.tokens.retain(|known| known.slot() != token.slot());
        self.tokens.push(token);
        Ok(())
    }

    /// Lets the sends in flight move on by one step each.
    fn move_sends(&mut self) {
        for mut send in std::mem::take(&mut self.sends) {
            match self.step(&mut send) {
                Some(result) => self.ended.push((send.token, result)),
                None => self.sends.push(send),
            }
        }
    }

    /// One step of a send; its result once it has ended.
    fn step(&mut self, send: &mut Flight) -> Option<i32> {
        if send.cancelled {
            return Some(if send.sent > 0 { send.sent as i32 } else { -libc::ECANCELED });
        }
        let bytes = send.bytes();
        let rest = &bytes[send.sent..];
        match self.world.send(send.file, &rest[..self.random.piece(rest.len())]) {
            Ok(count) => {
                send.sent += count;
                (send.sent == bytes.len()).then_some(send.sent as i32)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) if send.sent > 0 => Some(send.sent as i32),
            Err(error) => Some(-error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    /// Whether a send in flight has somewhere to go.
    fn can_move(&self) -> bool {
        self.sends.iter().any(|send| self.world.ready(send.file).contains(Interest::WRITE))
    }

    /// Fills `out`, with what did not fit last time first; true if there was anything.
    fn deliver(&mut self, out: &mut Events) -> bool {
        let mut reports = std::mem::take(&mut self.leftovers);
        let ended = self.ended.drain(..).map(|(token, result)| Report { token, result: Some(result) });
        let ready = self.tokens.iter().map(|token| Report { token: *token, result: None });
        let mut new: Vec<_> = ended.chain(ready).filter(|report| !reports.contains(report)).collect();
        self.random.shuffle(&mut new);
        reports.append(&mut new);
        let before = out.room();
        for report in reports {
            let what = match report.result {
                Some(result) => What::Sent(result),
                None => What::Ready(self.ready(report.token)),
            };
            if what == What::Ready(Interest::NONE) {
                continue;
            }
            if out.room() == 0 {
                self.leftovers.push(report);
                continue;
            }
            out.push(report.token, what);
            self.disarm(report.token, what);
        }
        out.room() < before
    }

    /// What is to be reported of a token now.
    fn ready(&self, token: Token) -> Interest {
        let Some(file) = self.files.get(token) else { return Interest::NONE };
        let ready = self.world.ready(file.file);
        let dead = ready.contains(Interest::BOTH | Interest::CLOSED);
        if (ready & file.armed).is_empty() && (file.stream || !dead) {
            return Interest::NONE;
        }
        if ready.contains(Interest::CLOSED) { ready } else { ready & file.armed }
    }

    fn disarm(&mut self, token: Token, what: What) {
        let What::Ready(ready) = what else { return };
        if let Some(file) = self.files.get_mut(token).filter(|file| file.stream) {
            file.armed = file.armed & !ready;
        }
    }

    /// Waits until something can be delivered or the wait is over.
    fn wait(&mut self, wait: Wait, out: &mut Events) {
        let limit = match wait {
            Wait::Now => Some(self.world.now()),
            Wait::For(time) => Some(self.world.now().saturating_add(time)),
            Wait::Forever => None,
        };
        loop {
            while self.world.is_due() {
                if self.world.advance(limit) == Advance::Signalled {
                    return;
                }
            }
            self.move_sends();
            if self.deliver(out) || self.is_rung(PollTimeout::ZERO) || wait == Wait::Now {
                return;
            }
            if self.can_move() {
                continue;
            }
            match self.world.advance(limit) {
                Advance::Happened => {}
                Advance::Signalled | Advance::Elapsed => return,
                Advance::Stuck if self.is_rung(SLEEP_MS_MAX.into()) => return,
                Advance::Stuck => panic!("C8, C9: nothing on the agenda and nobody calls, so this wait never ends"),
            }
        }
    }

    /// Whether another thread has rung, or a signal came, within a time of the real clock.
    fn is_rung(&self, limit: PollTimeout) -> bool {
        let mut fds = [PollFd::new(self.alarm.as_fd(), PollFlags::POLLIN)];
        !matches!(poll(&mut fds, limit), Ok(0))
    }
}

impl Backend for Sim {
    fn profile(&self) -> Profile {
        Profile { name: "sim", model: "completion", features: vec!["virtual time"] }
    }

    fn watch(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let interest = interest & Interest::BOTH;
        if interest.is_empty() {
            self.forget(token);
            return Ok(());
        }
        self.register(fd, token, false, interest)
    }

    fn attach(&mut self, fd: RawFd, token: Token) -> io::Result<()> {
        self.register(fd, token, true, Interest::READ)
    }

    fn rearm(&mut self, token: Token, interest: Interest) -> io::Result<()> {
        if let Some(file) = self.files.get_mut(token).filter(|file| file.stream) {
            file.armed = file.armed | (interest & Interest::BOTH);
        }
        Ok(())
    }

    fn gather(&mut self, sends: usize) {
        self.gathering = sends > 1;
    }

    unsafe fn send(&mut self, token: Token, bufs: &[IoSlice<'_>]) -> io::Result<Sent> {
        debug_assert!((1..=MAX_SLICES).contains(&bufs.len()), "1 to {MAX_SLICES} slices");
        debug_assert!(self.sends.iter().all(|send| send.token != token), "C12: a send is in flight already");
        let file = self.files.get(token).ok_or(Errno::EBADF)?.file;
        let slices = bufs.iter().map(|buf| (buf.as_ptr(), buf.len())).collect();
        let send = Flight { token, file, slices, sent: 0, cancelled: false };
        if self.gathering && self.random.draw(4) > 0 {
            self.sends.push(send);
            return Ok(Sent::Pending);
        }
        let bytes = send.bytes();
        match self.world.send(file, &bytes[..self.random.piece(bytes.len())]) {
            Ok(count) => Ok(Sent::Done(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Blocked),
            Err(error) => Err(error),
        }
    }

    fn finish(&mut self, token: Token) -> Option<i32> {
        let place = self.sends.iter().position(|send| send.token == token)?;
        let mut send = self.sends.swap_remove(place);
        let result = self.step(&mut send);
        if result.is_none() {
            self.sends.push(send);
        }
        result
    }

    fn cancel(&mut self, token: Token) {
        for send in self.sends.iter_mut().filter(|send| send.token == token) {
            send.cancelled = true;
        }
    }

    fn forget(&mut self, token: Token) {
        self.cancel(token);
        self.files.remove(token);
        self.tokens.retain(|known| *known != token);
        self.leftovers.retain(|report| report.token != token || report.result.is_some());
    }

    fn poll(&mut self, wait: Wait, out: &mut Events) -> io::Result<()> {
        self.gathering = false;
        let wait = self.alarm.fall_asleep(wait);
        self.wait(wait, out);
        self.alarm.awake();
        self.alarm.empty();
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.alarm.waker()
    }

    fn in_flight(&self) -> usize {
        self.sends.len() + self.ended.len() + self.leftovers.iter().filter(|report| report.result.is_some()).count()
    }

    fn quiesce(&mut self, out: &mut Events) -> io::Result<()> {
        for send in &mut self.sends {
            send.cancelled = true;
        }
        self.move_sends();
        let ended = self.ended.drain(..).map(|(token, result)| Report { token, result: Some(result) });
        self.leftovers.retain(|report| report.result.is_some());
        self.leftovers.extend(ended);
        let fitting = self.leftovers.len().min(out.room());
        for report in self.leftovers.drain(..fitting) {
            out.push(report.token, What::Sent(report.result.unwrap_or_default()));
        }
        Ok(())
    }
}

impl Flight {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (start, len) in &self.slices {
            // SAFETY: the caller of `send` keeps the slices valid until the terminal event.
            bytes.extend_from_slice(unsafe { slice::from_raw_parts(*start, *len) });
        }
        bytes
    }
}

/// splitmix64: the same seed, the same run.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    fn draw(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// How much of a send goes at once: often all, never nothing.
    fn piece(&mut self, len: usize) -> usize {
        if self.draw(3) > 0 { len } else { (1 + self.draw(len)).min(len) }
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.draw(at + 1));
        }
    }
}
