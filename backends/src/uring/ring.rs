//! The ring itself: setting it up, entering the kernel, taking completions.

use std::io;
use std::mem::MaybeUninit;
use std::thread::{self, ThreadId};
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, cqueue, squeue};
use nix::errno::Errno;

use super::sqe::Plain;
use crate::api::Wait;
use crate::fork::Origin;

/// Room for what is queued between two polls; more is handed over early.
const SUBMISSIONS: u32 = 256;

/// Room for completions. The kernel keeps what does not fit, at a price.
const COMPLETIONS: u32 = 4096;

/// What every call says: run deferred work, too.
const ALWAYS: EnterFlags = EnterFlags::GETEVENTS;

/// A ring, disabled until a thread takes it for its own.
pub(super) struct Ring {
    kernel: IoUring,
    owner: Option<ThreadId>,
    abandoned: bool,
    origin: Origin,
    /// How many requests were ever queued; it starts over after 2^32.
    pushed: u32,
    /// What every wait passes on.
    wait_flags: EnterFlags,
    without_array: bool,
}

/// The argument of an `io_uring_enter` with a deadline, as the kernel lays it out.
#[repr(C)]
struct ExtArg {
    signal_mask: u64,
    signal_mask_size: u32,
    min_wait_us: u32,
    deadline: u64,
}

/// `struct __kernel_timespec`: 64 bits each, on every machine.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

impl Ring {
    /// Sets up a ring for a thread yet to be named.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` before Linux 6.1, `ENOSYS`, `EPERM`, `ENOMEM`, `EMFILE`.
    pub(super) fn new() -> io::Result<Self> {
        Self::with_room(SUBMISSIONS, COMPLETIONS)
    }

    /// [`new`](Ring::new), with room for so many of each, powers of two.
    pub(super) fn with_room(submissions: u32, completions: u32) -> io::Result<Self> {
        let (kernel, without_array) = match build(submissions, completions, true) {
            // Before Linux 6.6 the flag that saves an array is unknown.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                (build(submissions, completions, false)?, false)
            }
            other => (other?, true),
        };
        let mut wait_flags = ALWAYS | EnterFlags::EXT_ARG;
        // Since Linux 6.15 a wait can be idleness instead of waiting for a disk.
        wait_flags.set(EnterFlags::NO_IOWAIT, kernel.params().is_feature_no_iowait());
        Ok(Self { kernel, owner: None, abandoned: false, origin: Origin::here(), pushed: 0, wait_flags, without_array })
    }

    /// Makes the calling thread the only one that may enter.
    pub(super) fn enable(&mut self) -> io::Result<()> {
        self.kernel.submitter().register_enable_rings()?;
        self.owner = Some(this_thread());
        Ok(())
    }

    /// Says that nobody goes on with it, not even its owner.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
    }

    /// Whether nobody has taken the ring yet, so that the calling thread may.
    pub(super) fn is_new(&self) -> bool {
        self.owner.is_none() && !self.is_inherited()
    }

    /// Whether the calling thread may enter.
    pub(super) fn is_ours(&self) -> bool {
        self.owner == Some(this_thread()) && !self.is_inherited() && !self.abandoned
    }

    /// Whether it belongs to a parent of this process. Its memory is shared with the parent, who would see each change.
    pub(super) fn is_inherited(&self) -> bool {
        self.origin.is_inherited()
    }

    #[cfg(test)]
    pub(super) fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.kernel)
    }

    /// What is used of this kernel.
    pub(super) fn features(&self) -> Vec<&'static str> {
        let mut features = vec!["single issuer", "deferred task work"];
        if self.without_array {
            features.push("no submission array");
        }
        if self.wait_flags.contains(EnterFlags::NO_IOWAIT) {
            features.push("idle waits are no I/O waits");
        }
        features
    }

    /// [`push`](Ring::push) for requests that point to nothing.
    pub(super) fn push_plain(&mut self, request: &Plain) -> io::Result<()> {
        // SAFETY: there is nothing that would have to stay valid.
        unsafe { self.push(&request.0) }
    }

    /// Queues a request; hands over what is queued if there is no room.
    ///
    /// # Safety
    /// What the request points to stays valid until the kernel has taken the request, and its payload until its
    /// completion.
    pub(super) unsafe fn push(&mut self, request: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller's promise.
            if unsafe { self.kernel.submission().push(request) }.is_ok() {
                self.pushed = self.pushed.wrapping_add(1);
                return Ok(());
            }
            let before = self.queued();
            self.enter(Wait::Now)?;
            if self.queued() == before {
                // Without memory, or with thousands of completions nobody takes, the kernel takes nothing.
                return Err(Errno::EAGAIN.into());
            }
        }
    }

    /// How many requests the kernel has not taken yet.
    pub(super) fn queued(&mut self) -> usize {
        let mut queue = self.kernel.submission();
        queue.sync();
        queue.len()
    }

    /// The number of the request queued last.
    pub(super) fn last_pushed(&self) -> u32 {
        self.pushed
    }

    /// The number of the request that the kernel has taken last.
    pub(super) fn last_taken(&mut self) -> u32 {
        self.pushed.wrapping_sub(self.queued() as u32)
    }

    /// Whether the kernel keeps completions for which there was no room.
    pub(super) fn has_overflowed(&mut self) -> bool {
        self.kernel.submission().cq_overflow()
    }

    /// Whether a call that does not wait could bring anything.
    pub(super) fn is_worth_entering(&mut self) -> bool {
        let mut queue = self.kernel.submission();
        queue.sync();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Hands over what is queued and waits for a completion. Timeouts and signals are no errors.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let queued = self.queued() as u32;
        let submitter = self.kernel.submitter();
        let answer = match deadline(wait) {
            None => {
                // SAFETY: without an argument; the queue holds as many requests.
                unsafe { submitter.enter::<libc::sigset_t>(queued, 0, ALWAYS.bits(), None) }
            }
            Some(deadline) => {
                let deadline = deadline.as_ref();
                let argument = ExtArg {
                    signal_mask: 0,
                    signal_mask_size: 0,
                    min_wait_us: 0,
                    deadline: deadline.map_or(0, |deadline| std::ptr::from_ref(deadline) as u64),
                };
                // SAFETY: the argument has the layout that EXT_ARG asks for, and points to a time that outlives the
                // call.
                unsafe { submitter.enter(queued, 1, self.wait_flags.bits(), Some(&argument)) }
            }
        };
        match answer {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // EBUSY, EAGAIN: completions have to be taken first, or memory is short; the requests stay queued.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The oldest completions, as far as there is room.
    #[inline]
    pub(super) fn take<'a>(&mut self, room: &'a mut [MaybeUninit<cqueue::Entry>]) -> &'a [cqueue::Entry] {
        self.kernel.completion().fill(room)
    }

    /// The oldest completion.
    #[inline]
    pub(super) fn next(&mut self) -> Option<cqueue::Entry> {
        self.kernel.completion().next()
    }
}

/// `None`: no wait at all; `Some(None)`: for ever.
fn deadline(wait: Wait) -> Option<Option<Timespec>> {
    match wait {
        Wait::Now => None,
        Wait::For(Duration::ZERO) => None,
        Wait::Forever => Some(None),
        Wait::For(time) => Some(Some(Timespec {
            seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(time.subsec_nanos()),
        })),
    }
}

fn build(submissions: u32, completions: u32, without_array: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_r_disabled();
    builder.setup_submit_all().setup_clamp().setup_cqsize(completions);
    if without_array {
        builder.setup_no_sqarray();
    }
    builder.build(submissions)
}

fn this_thread() -> ThreadId {
    thread_local!(static THIS: ThreadId = thread::current().id());
    THIS.with(|this| *this)
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("owner", &self.owner).finish_non_exhaustive()
    }
}
