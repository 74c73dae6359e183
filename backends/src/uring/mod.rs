//! io_uring (Linux 6.1 or newer): the small sends of a turn leave together, with one call.
//!
//! * A stream is polled for reading by one request that reports edges until it is removed; receiving is the caller's,
//!   with plain system calls, as on every backend. Room to write is polled for by another one, from the first time on
//!   that the stream was full.
//! * A watch is polled by a request that reports once and is armed again for the next wait; what is still ready then
//!   reports at once. That is level-triggered, for no system call more. What a poll has seen that was armed for an
//!   earlier wait may be over: the kernel reports what woke it, so it is asked again. A watch that was seen in vain is
//!   armed again, and the wait ends without it. And every poll also reports a peer that sends no more, whether asked
//!   to or not: a watch for room would then be armed for ever in vain, so until there is room it is polled for edges.
//! * A send that was [gathered](Backend::gather) and is small is queued and handed over with the others (`flight.rs`).
//!   A lone or large one is attempted on the spot: there is nothing to save, and its bytes are still in the cache. So is
//!   one of few whose callbacks are short (`pace.rs`).
//!
//! The ring belongs to the thread that polls: it is made disabled, taken by the first [`bind`](Backend::bind), and
//! replaced when another thread binds. A forked child leaves the ring of its parent alone.

mod flight;
mod pace;
mod polls;
pub(crate) mod probe;
mod ring;
mod sqe;
mod urgent;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::cqueue;
use nix::errno::Errno;

use crate::api::{Backend, Event, Events, Interest, MAX_SLICES, Profile, Sent, Token, Wait, What};
use crate::table::Table;
use crate::wake::{Alarm, Waker};
use crate::{attempt, fd};
use flight::{Flight, Stage};
use pace::Pace;
use polls::{Direction, File, Role};
use ring::Ring;
use sqe::{Serial, Tag};
use urgent::Urgency;

/// Sends of more bytes are attempted at once: by the time that a batch of them is handed over, the first is out of the
/// cache. (Measured: 10 KiB cost a tenth more when they waited for each other.)
const GATHERED_BYTES_MAX: usize = 4096;

/// How many completions leave the ring together: about what one call brings.
const TAKEN_AT_ONCE: usize = 32;

/// A backend on a ring.
#[derive(Debug)]
pub struct Uring {
    ring: Ring,
    files: Table<File>,
    serial: Serial,
    /// The number armed last before the present wait. What a poll up to there has seen may be over.
    known: Serial,
    /// Files and directions that have to be polled from the next wait on.
    to_arm: Vec<(Token, Direction)>,
    flights: crate::slots::Slots<Flight>,
    /// Flights to be handed over by the next wait.
    queued: Vec<Token>,
    /// Flights handed over, with the numbers of their requests.
    submitted: VecDeque<(u32, Token)>,
    /// Reports that no completion stands for, or that had to be taken from a ring before its time.
    backlog: VecDeque<Event>,
    /// Completions of watches that had to be taken before their time. What they mean shows when they are reported.
    saved: VecDeque<cqueue::Entry>,
    gathering: bool,
    pace: Pace,
    urgency: Urgency,
    alarm: Alarm,
    alarm_is_armed: bool,
}

impl Uring {
    /// Sets up a ring.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        Self::on(Ring::new()?)
    }

    fn on(ring: Ring) -> io::Result<Self> {
        Ok(Self {
            ring,
            files: Table::new(),
            serial: Serial::NONE,
            known: Serial::NONE,
            to_arm: Vec::new(),
            flights: crate::slots::Slots::new(),
            queued: Vec::new(),
            submitted: VecDeque::new(),
            backlog: VecDeque::new(),
            saved: VecDeque::new(),
            gathering: false,
            pace: Pace::default(),
            urgency: Urgency::new(),
            alarm: Alarm::new()?,
            alarm_is_armed: false,
        })
    }

    /// Leaves the ring to the kernel, which ends its polls. All files are armed anew by the next wait, in another ring. If
    /// there is none yet, `bind` tries again.
    fn give_up_ring(&mut self, other: Option<Ring>) {
        if !self.ring.is_inherited() {
            self.save_completions();
        }
        match other {
            Some(ring) => self.ring = ring,
            None => self.ring.abandon(),
        }
        self.alarm_is_armed = false;
        // Who waits for room, and was not handed over yet, still waits.
        self.to_arm.retain(|(_, direction)| *direction == Direction::Room);
        for (token, file) in self.files.iter_mut() {
            if file.armed[Direction::Room as usize] != Serial::NONE || file.flight.is_some() {
                self.to_arm.push((token, Direction::Room));
            }
            file.armed = [Serial::NONE; 2];
            self.to_arm.push((token, Direction::Main));
        }
        // What the kernel has not even looked at is handed over to the next ring.
        self.queued.clear();
        self.submitted.clear();
        for (key, flight) in self.flights.iter_mut().filter(|(_, flight)| flight.stage != Stage::Blocked) {
            flight.stage = Stage::Queued;
            self.queued.push(key);
        }
    }

    /// Takes all completions, whatever the caller has room for.
    fn save_completions(&mut self) {
        while let Some(completion) = self.ring.next() {
            if self.is_of_watch(&completion) {
                self.saved.push_back(completion);
            } else if let Some(event) = self.complete(&completion) {
                self.backlog.push_back(event);
            }
        }
    }

    fn is_of_watch(&mut self, completion: &cqueue::Entry) -> bool {
        let Tag::Poll(slot, _) = Tag::from_bits(completion.user_data()) else { return false };
        self.files.at(slot).is_some_and(|(_, file)| file.role != Role::Stream)
    }

    /// Queues the polls and sends that the next call hands over.
    fn queue_requests(&mut self) -> io::Result<()> {
        if !self.alarm_is_armed {
            self.ring.push_plain(&sqe::poll_alarm(self.alarm.as_raw_fd()))?;
            self.alarm_is_armed = true;
        }
        while let Some(&(token, direction)) = self.to_arm.last() {
            self.arm(token, direction)?;
            self.to_arm.pop();
        }
        for index in 0..self.queued.len() {
            let key = self.queued[index];
            let Some(flight) = self.flights.get_mut(key).filter(|flight| flight.stage == Stage::Queued) else {
                continue;
            };
            let request = flight.request(Tag::Send(key.slot()));
            // SAFETY: the kernel is through with slices and header when the call that hands them over returns, which
            // is before the flight can move; the bytes are the caller's promise.
            if let Err(error) = unsafe { self.ring.push(&request) } {
                flight.stage = Stage::Queued;
                return Err(error);
            }
            self.submitted.push_back((self.ring.last_pushed(), key));
        }
        self.queued.clear();
        Ok(())
    }

    /// Ends the sends that the kernel has taken and says nothing about: all of theirs left.
    fn land_silent(&mut self, out: &mut Events) -> io::Result<()> {
        // It may have said something about them that has not been looked at.
        self.save_completions();
        while self.ring.has_overflowed() {
            self.ring.enter(Wait::Now)?;
            self.save_completions();
        }
        let taken = self.ring.last_taken();
        while let Some(&(number, key)) = self.submitted.front() {
            // Numbers start over, but never so far that the sign of the difference changes.
            if (taken.wrapping_sub(number) as i32) < 0 {
                break;
            }
            self.submitted.pop_front();
            if let Some(flight) = self.flights.get(key).filter(|flight| flight.stage == Stage::Submitted) {
                let result = flight.complete();
                let landed = self.land(key, result);
                if self.backlog.is_empty() && out.room() > 0 {
                    out.push(landed.token, landed.what);
                } else {
                    self.backlog.push_back(landed);
                }
            }
        }
        Ok(())
    }

    /// Fills `out` as far as it goes.
    fn reap(&mut self, out: &mut Events) {
        let mut room = [const { MaybeUninit::uninit() }; TAKEN_AT_ONCE];
        while out.room() > 0 {
            if let Some(event) = self.backlog.pop_front() {
                out.push(event.token, event.what);
                continue;
            }
            if let Some(completion) = self.saved.pop_front() {
                if let Some(event) = self.complete(&completion) {
                    out.push(event.token, event.what);
                }
                continue;
            }
            let most = out.room().min(TAKEN_AT_ONCE);
            let completions = self.ring.take(&mut room[..most]);
            if completions.is_empty() {
                return;
            }
            for completion in completions {
                if let Some(event) = self.complete(completion) {
                    out.push(event.token, event.what);
                }
            }
        }
    }

    /// What a completion means.
    #[inline]
    fn complete(&mut self, completion: &cqueue::Entry) -> Option<Event> {
        let more = cqueue::more(completion.flags());
        match Tag::from_bits(completion.user_data()) {
            Tag::Poll(slot, serial) => self.polled(slot, serial, completion.result(), more),
            Tag::Send(place) => {
                let key = self.flights.token_at(place)?;
                let flight = self.flights.get_mut(key)?;
                match flight.advance(completion.result()) {
                    Some(result) => Some(self.land(key, result)),
                    None => {
                        self.to_arm.push((flight.token, Direction::Room));
                        None
                    }
                }
            }
            Tag::Alarm => {
                self.alarm_is_armed = more;
                None
            }
            Tag::Nobody => None,
        }
    }

    /// Goes on with a send that was blocked, now that there is room.
    fn resume(&mut self, token: Token, key: Token) {
        let Some(flight) = self.flights.get_mut(key).filter(|flight| flight.stage == Stage::Blocked) else { return };
        match flight.resume() {
            Some(result) => {
                let landed = self.land(key, result);
                self.backlog.push_back(landed);
            }
            None => self.to_arm.push((token, Direction::Room)),
        }
    }

    /// Ends a send.
    fn land(&mut self, key: Token, result: i32) -> Event {
        let token = self.flights.remove(key).map_or(key, |flight| flight.token);
        if let Some(file) = self.files.get_mut(token) {
            file.flight = None;
        }
        Event { token, what: What::Sent(result) }
    }

    /// Ends a send that the kernel does not have, or else as soon as it gives it back.
    fn cancel_flight(&mut self, key: Token) {
        let Some(flight) = self.flights.get_mut(key) else { return };
        if flight.stage == Stage::Submitted {
            flight.cancelled = true;
            return;
        }
        let result = flight.result_now();
        let landed = self.land(key, result);
        self.backlog.push_back(landed);
    }
}

impl Backend for Uring {
    fn profile(&self) -> Profile {
        Profile { name: "io_uring", model: "completion", features: self.ring.features() }
    }

    fn bind(&mut self) -> io::Result<()> {
        if self.ring.is_ours() {
            return Ok(());
        }
        if !self.ring.is_new() {
            // As long as there is no other, nothing is given up, and the ring's own thread can go on with it.
            let other = Ring::new()?;
            self.give_up_ring(Some(other));
        }
        self.ring.enable()
    }

    fn watch(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let interest = interest & Interest::BOTH;
        if interest.is_empty() {
            self.forget(token);
            return Ok(());
        }
        fd::waitable(fd)?;
        self.register(fd, token, Role::Watch(interest));
        Ok(())
    }

    fn watch_once(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.watch(fd, token, interest)?;
        if let Some(file) = self.files.get_mut(token) {
            file.tries_again = true;
        }
        Ok(())
    }

    fn attach(&mut self, fd: RawFd, token: Token) -> io::Result<()> {
        fd::waitable(fd)?;
        attempt::adopt(fd)?;
        self.register(fd, token, Role::Stream);
        Ok(())
    }

    #[inline]
    fn rearm(&mut self, token: Token, interest: Interest) -> io::Result<()> {
        // The poll for reading reports edges by itself.
        if interest.contains(Interest::WRITE) && self.files.get(token).is_some_and(|file| file.role == Role::Stream) {
            self.to_arm.push((token, Direction::Room));
        }
        Ok(())
    }

    #[inline]
    fn gather(&mut self, sends: usize) {
        self.gathering = self.pace.begin(sends);
    }

    unsafe fn send(&mut self, token: Token, bufs: &[IoSlice<'_>]) -> io::Result<Sent> {
        debug_assert!((1..=MAX_SLICES).contains(&bufs.len()), "1 to {MAX_SLICES} slices");
        let file = self.files.get_mut(token).ok_or(Errno::EBADF)?;
        debug_assert!(file.flight.is_none(), "C12: a send is in flight already");
        // A list that is full has more behind it, which would have to wait for the end of this one.
        let small = bufs.len() < MAX_SLICES && bufs.iter().map(|buf| buf.len()).sum::<usize>() <= GATHERED_BYTES_MAX;
        if self.gathering && small {
            let key = self.flights.insert(Flight::new(token, file.fd, bufs));
            file.flight = Some(key);
            self.queued.push(key);
            return Ok(Sent::Pending);
        }
        match attempt::send(file.fd, bufs) {
            Ok(sent) => Ok(Sent::Done(sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Blocked),
            Err(error) => Err(error),
        }
    }

    fn finish(&mut self, token: Token) -> Option<i32> {
        let key = self.files.get(token)?.flight?;
        match self.flights.get(key)?.stage {
            Stage::Queued => {
                let Some(result) = self.flights.get_mut(key)?.resume() else {
                    self.to_arm.push((token, Direction::Room));
                    return None;
                };
                self.land(key, result);
                Some(result)
            }
            // Submitted: the kernel was too short of memory to look at it; it comes when there is some.
            Stage::Blocked | Stage::Submitted => None,
        }
    }

    fn cancel(&mut self, token: Token) {
        if let Some(key) = self.files.get(token).and_then(|file| file.flight) {
            self.cancel_flight(key);
        }
    }

    fn forget(&mut self, token: Token) {
        self.cancel(token);
        let armed = self.disarm(token);
        if self.files.remove(token).is_none() {
            return;
        }
        if armed && self.ring.is_ours() {
            // A poll holds the file open, and its peer would wait for the end of the stream: so it ends here.
            let entered = self.ring.enter(Wait::Now);
            debug_assert!(entered.is_ok(), "the ring cannot be entered: {entered:?}");
        }
        if !self.backlog.is_empty() {
            self.backlog.retain(|event| event.token != token || matches!(event.what, What::Sent(_)));
        }
    }

    fn poll(&mut self, wait: Wait, out: &mut Events) -> io::Result<()> {
        debug_assert!(out.room() > 0, "nothing can be reported");
        self.gathering = false;
        self.pace.end(self.queued.len());
        self.bind()?;
        self.known = self.serial;
        if self.urgency.is_due() {
            self.urgency.look(&mut self.files, &mut self.backlog);
        }
        let before = out.room();
        // In this order, a watch that is reported here is armed again by the next call only, and not reported twice.
        self.queue_requests()?;
        self.reap(out);
        if out.room() == before {
            self.queue_requests()?;
        }
        if !self.submitted.is_empty() {
            // What leaves in silence ends no wait, so this call must not wait yet.
            self.ring.enter(Wait::Now)?;
            self.reap(out);
            self.land_silent(out)?;
            self.reap(out);
            if out.room() == before {
                // None has ended. What ends the wait is polled for from now on: room, and watches seen in vain.
                self.queue_requests()?;
            }
        }
        // What the kernel has not taken yet, for want of memory, may still leave in silence.
        let is_over = out.room() < before || !self.submitted.is_empty();
        let wait = if is_over { Wait::Now } else { self.alarm.fall_asleep(self.urgency.limit(wait)) };
        let entered = if wait == Wait::Now && !self.ring.is_worth_entering() { Ok(()) } else { self.ring.enter(wait) };
        self.alarm.awake();
        entered?;
        self.reap(out);
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.alarm.waker()
    }

    fn in_flight(&self) -> usize {
        self.flights.len() + self.backlog.iter().filter(|event| matches!(event.what, What::Sent(_))).count()
    }

    fn quiesce(&mut self, out: &mut Events) -> io::Result<()> {
        if self.ring.is_ours() {
            self.ring.enter(Wait::Now)?;
            self.land_silent(out)?;
        } else if !self.ring.is_new() {
            self.give_up_ring(Ring::new().ok());
        }
        self.save_completions();
        let keys: Vec<_> = self.flights.iter().map(|(key, _)| key).collect();
        keys.into_iter().for_each(|key| self.cancel_flight(key));
        for _ in 0..self.backlog.len() {
            match self.backlog.pop_front() {
                Some(Event { token, what: What::Sent(result) }) if out.room() > 0 => {
                    out.push(token, What::Sent(result))
                }
                Some(event) => self.backlog.push_back(event),
                None => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
