//! libkqueue (Linux): the names of `nix::sys::event` that the selector needs, which nix has only where the kernel has
//! them. For the tests of the selector on Linux; the kernel's interface is nix's everywhere else.
//!
//! Three habits of the library are made up for here, so that the selector need not know them: a change that fails does
//! not end the wait, and its report is lost with a timeout; an fd that is ready both ways takes one place when it waits
//! and two when it reports, and an edge without a place is lost; a closed queue is let go by a thread of the library,
//! some time later.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use libc::{c_int, c_short, c_uint, c_ushort, timespec};
use nix::errno::Errno;

bitflags::bitflags! {
    /// What is done with an event, and what is said of it.
    #[derive(Clone, Copy, Debug)]
    pub struct EvFlags: c_ushort {
        const EV_ADD = 0x0001;
        const EV_DELETE = 0x0002;
        const EV_ONESHOT = 0x0010;
        const EV_CLEAR = 0x0020;
        const EV_RECEIPT = 0x0040;
        const EV_ERROR = 0x4000;
        const EV_EOF = 0x8000;
    }

    /// What a filter should do or has found.
    #[derive(Clone, Copy, Debug)]
    pub struct FilterFlag: c_uint {
        const NOTE_TRIGGER = 0x0100_0000;
        const NOTE_EXIT = 0x8000_0000;
    }
}

/// What is waited for.
#[allow(non_camel_case_types, reason = "the names of the C interface")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum EventFilter {
    EVFILT_READ = -1,
    EVFILT_WRITE = -2,
    EVFILT_PROC = -5,
    EVFILT_USER = -11,
}

const FILTERS: [EventFilter; 4] =
    [EventFilter::EVFILT_READ, EventFilter::EVFILT_WRITE, EventFilter::EVFILT_PROC, EventFilter::EVFILT_USER];

/// A change or a report.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KEvent {
    ident: usize,
    filter: c_short,
    flags: c_ushort,
    fflags: c_uint,
    data: isize,
    udata: isize,
}

impl KEvent {
    pub const fn new(
        ident: usize,
        filter: EventFilter,
        flags: EvFlags,
        fflags: FilterFlag,
        data: isize,
        udata: isize,
    ) -> Self {
        Self { ident, filter: filter as c_short, flags: flags.bits(), fflags: fflags.bits(), data, udata }
    }

    pub const fn ident(&self) -> usize {
        self.ident
    }

    pub fn filter(&self) -> nix::Result<EventFilter> {
        FILTERS.into_iter().find(|filter| *filter as c_short == self.filter).ok_or(Errno::EINVAL)
    }

    pub const fn flags(&self) -> EvFlags {
        EvFlags::from_bits_retain(self.flags)
    }

    pub const fn fflags(&self) -> FilterFlag {
        FilterFlag::from_bits_retain(self.fflags)
    }

    pub const fn data(&self) -> isize {
        self.data
    }

    pub const fn udata(&self) -> isize {
        self.udata
    }
}

const BLANK: KEvent = KEvent::new(0, EventFilter::EVFILT_READ, EvFlags::empty(), FilterFlag::empty(), 0, 0);

/// How many reports the library can bring at once.
const ROOM: usize = 512;

/// A queue.
#[derive(Debug)]
pub struct Kqueue {
    /// There until it is dropped.
    fd: Option<OwnedFd>,
    /// Reports that nobody has asked for yet, last ones first.
    kept: Mutex<Vec<KEvent>>,
}

impl Kqueue {
    pub fn new() -> nix::Result<Self> {
        // SAFETY: takes nothing.
        let fd = Errno::result(unsafe { kqueue() })?;
        // SAFETY: the library has just made it for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd: Some(fd), kept: Mutex::new(Vec::new()) })
    }

    pub fn kevent(&self, changes: &[KEvent], reports: &mut [KEvent], time: Option<timespec>) -> nix::Result<usize> {
        if reports.is_empty() || changes.iter().any(|change| change.flags().contains(EvFlags::EV_RECEIPT)) {
            return self.call(changes, reports, time);
        }
        let refused = self.hand_over(changes, reports)?;
        if refused > 0 {
            return Ok(refused);
        }
        // Only the thread that waits comes here.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_empty() {
            kept.resize(ROOM, BLANK);
            let answer = self.call(&[], &mut kept, time);
            kept.truncate(answer.unwrap_or(0));
            kept.reverse();
            answer?;
        }
        let count = kept.len().min(reports.len());
        reports[..count].fill_with(|| kept.pop().expect("there are at least so many"));
        Ok(count)
    }

    /// Makes changes, and answers how many failed; those are reported.
    fn hand_over(&self, changes: &[KEvent], reports: &mut [KEvent]) -> nix::Result<usize> {
        if changes.is_empty() {
            return Ok(0);
        }
        let asked: Vec<_> = changes
            .iter()
            .map(|change| KEvent { flags: change.flags | EvFlags::EV_RECEIPT.bits(), ..*change })
            .collect();
        let mut receipts = vec![BLANK; asked.len()];
        self.call(&asked, &mut receipts, Some(timespec { tv_sec: 0, tv_nsec: 0 }))?;
        let failed = receipts.into_iter().filter(|receipt| receipt.data != 0);
        Ok(reports.iter_mut().zip(failed).map(|(report, failed)| *report = failed).count())
    }

    fn call(&self, changes: &[KEvent], reports: &mut [KEvent], time: Option<timespec>) -> nix::Result<usize> {
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let (taken, room) = (changes.len() as c_int, reports.len() as c_int);
        let queue = self.as_fd().as_raw_fd();
        // SAFETY: the library reads the changes and the time, and writes at most as many reports as there is room for.
        let count = unsafe { kevent(queue, changes.as_ptr(), taken, reports.as_mut_ptr(), room, time) };
        Errno::result(count).map(|count| count as usize)
    }
}

impl AsFd for Kqueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("only drop takes it").as_fd()
    }
}

impl Drop for Kqueue {
    fn drop(&mut self) {
        drop(self.fd.take());
        // SAFETY: takes nothing; waits for the library's thread.
        unsafe { libkqueue_drain_pending_close() };
    }
}

unsafe extern "C" {
    fn kqueue() -> c_int;
    fn libkqueue_drain_pending_close();
    fn kevent(
        queue: c_int,
        changes: *const KEvent,
        nchanges: c_int,
        reports: *mut KEvent,
        nreports: c_int,
        time: *const timespec,
    ) -> c_int;
}
