//! Polls: how files are polled, and what the kernel's reports mean.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use super::Uring;
use super::ring::Ring;
use super::sqe::{self, Serial, Tag};
use crate::api::{Event, Interest, Token, What};

/// What is registered for a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    pub(super) fd: RawFd,
    pub(super) role: Role,
    /// Whoever watches it tries again after a report in vain.
    pub(super) tries_again: bool,
    /// The serial numbers of its polls in the kernel: the main one, and the one for edges of room.
    pub(super) armed: [Serial; 2],
    /// Its send in flight.
    pub(super) flight: Option<Token>,
    /// It is to be asked for urgent data.
    pub(super) suspect: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Watch(Interest),
    Stream,
}

/// Which of a file's two polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// What a watch waits for, once, or edges of a stream's bytes to read.
    Main = 0,
    /// Edges of room to write.
    Room = 1,
}

impl Uring {
    pub(super) fn register(&mut self, fd: RawFd, token: Token, role: Role) {
        self.disarm(token);
        let flight = self.files.get(token).and_then(|file| file.flight);
        self.files
            .insert(token, File { fd, role, tries_again: false, armed: [Serial::NONE; 2], flight, suspect: false });
        self.to_arm.push((token, Direction::Main));
    }

    /// Ends a file's polls; true if there were any. The requests leave with the next call.
    pub(super) fn disarm(&mut self, token: Token) -> bool {
        let armed = self.files.get(token).is_some_and(|file| file.armed != [Serial::NONE; 2]);
        if armed && !self.ring.is_ours() {
            // Only the ring's own thread could end them, so all of them end with the ring.
            self.give_up_ring(Ring::new().ok());
        } else if armed {
            self.end_poll(token, Direction::Main);
            self.end_poll(token, Direction::Room);
        }
        armed
    }

    pub(super) fn end_poll(&mut self, token: Token, direction: Direction) {
        let Some(file) = self.files.get_mut(token) else { return };
        let serial = std::mem::replace(&mut file.armed[direction as usize], Serial::NONE);
        if serial == Serial::NONE {
            return;
        }
        let pushed = self.ring.push_plain(&sqe::cancel_poll(Tag::Poll(token.slot(), serial)));
        debug_assert!(pushed.is_ok(), "no room to remove a poll");
    }

    /// Queues a file's poll, unless it is armed. One for which there was no room is not.
    pub(super) fn arm(&mut self, token: Token, direction: Direction) -> io::Result<()> {
        let Some(file) = self.files.get_mut(token) else { return Ok(()) };
        let armed = &mut file.armed[direction as usize];
        if *armed != Serial::NONE {
            return Ok(());
        }
        let serial = self.serial.next();
        let tag = Tag::Poll(token.slot(), serial);
        let request = match (file.role, direction) {
            (Role::Stream, Direction::Main) => sqe::poll_edges(file.fd, Interest::READ, tag),
            (Role::Watch(interest), Direction::Main) => sqe::poll_once(file.fd, interest, tag),
            (_, Direction::Room) => sqe::poll_edges(file.fd, Interest::WRITE, tag),
        };
        self.ring.push_plain(&request)?;
        (*armed, self.serial) = (serial, serial);
        Ok(())
    }

    /// A poll has reported; the serial number tells whether it is one that the slot's holder has now.
    pub(super) fn polled(&mut self, slot: u32, serial: Serial, result: i32, more: bool) -> Option<Event> {
        let (token, file) = self.files.at(slot)?;
        if more && file.role == Role::Stream && file.armed[Direction::Main as usize] == serial && file.flight.is_none()
        {
            // The rule by far: bytes have come, and nothing else is to be done about it.
            let ready = sqe::ready(result);
            if !std::mem::replace(&mut file.suspect, true) {
                self.urgency.suspect(token);
            }
            return ready.contains(Interest::READ).then_some(Event { token, what: What::Ready(ready) });
        }
        let direction = match file.armed.iter().position(|armed| *armed == serial)? {
            0 => Direction::Main,
            _ => Direction::Room,
        };
        if !more {
            file.armed[direction as usize] = Serial::NONE;
        }
        if result == -libc::EBADF && file.role != Role::Stream {
            // It was closed and not forgotten, of which an epoll says nothing either.
            return None;
        }
        let asked = match (file.role, direction) {
            (Role::Watch(interest), Direction::Main) => interest,
            (Role::Stream, Direction::Main) => Interest::READ,
            (_, Direction::Room) => Interest::WRITE,
        };
        // A poll that failed leaves the fd to the caller, who learns the reason when it is used.
        let failed = result < 0 && result != -libc::ECANCELED;
        let mut ready = if failed { Interest::BOTH | Interest::CLOSED } else { sqe::ready(result.max(0)) };
        let (fd, flight, role, fruitful) = (file.fd, file.flight, file.role, !(ready & asked).is_empty());
        let can_be_vain = role == Role::Stream || file.tries_again;
        match (role, direction, fruitful) {
            _ if failed => {}
            (Role::Watch(_), Direction::Main, false) if result > 0 => self.to_arm.push((token, Direction::Room)),
            (Role::Watch(_), Direction::Room, true) => {
                self.end_poll(token, Direction::Room);
                self.to_arm.push((token, Direction::Main));
            }
            _ if !more => self.to_arm.push((token, direction)),
            _ => {}
        }
        if let Some(key) = flight.filter(|_| ready.contains(Interest::WRITE)) {
            self.resume(token, key);
        }
        if fruitful && !failed && !can_be_vain && !serial.is_after(self.known) {
            ready = sqe::ready_now(fd, asked);
        }
        (!(ready & asked).is_empty()).then_some(Event { token, what: What::Ready(ready) })
    }
}
