//! What the scheduler gave another process: the CPU time it used, the number that noise on a
//! shared machine spoils least, and the time it wanted to run and could not.
#![forbid(unsafe_code)]

use std::fs;
use std::ops::Sub;
use std::time::Duration;

/// Sums over all threads of a process that still live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// User and system time.
    pub ran: Duration,
    /// Time spent runnable, waiting for a core.
    pub waited: Duration,
}

impl Usage {
    /// Reads the usage of process `pid`, or `None` where the system does not tell (anything but
    /// Linux) or the process is gone.
    ///
    /// This sums `schedstat`, which counts nanoseconds; `stat` only counts clock ticks of 10 ms.
    /// The kernel's own worker threads of an io_uring are threads of the process, so they are
    /// included.
    pub fn of_process(pid: u32) -> Option<Self> {
        let mut total = Self { ran: Duration::ZERO, waited: Duration::ZERO };
        for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
            // A thread may end between the listing and the reading.
            if let Ok(text) = fs::read_to_string(thread.ok()?.path().join("schedstat")) {
                let mut fields = text.split_whitespace().map(str::parse);
                total.ran += Duration::from_nanos(fields.next()?.ok()?);
                total.waited += Duration::from_nanos(fields.next()?.ok()?);
            }
        }
        Some(total)
    }
}

impl Sub for Usage {
    type Output = Self;

    /// What came on top of `earlier`; zero where a thread that counted then has ended since.
    fn sub(self, earlier: Self) -> Self {
        Self { ran: self.ran.saturating_sub(earlier.ran), waited: self.waited.saturating_sub(earlier.waited) }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_busy_process_is_seen_to_burn_time() {
        let pid = std::process::id();
        let before = Usage::of_process(pid).expect("this process exists");
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(100) {}
        let burnt = Usage::of_process(pid).expect("still here") - before;
        assert!(burnt.ran > Duration::ZERO, "{burnt:?}");
        // However busy the machine, a thread that wants to run either runs or waits; what a hypervisor takes away
        // counts as neither.
        assert!(burnt.ran + burnt.waited > Duration::from_millis(40), "only {burnt:?}");
    }

    #[test]
    fn a_missing_process_has_no_usage() {
        assert_eq!(Usage::of_process(u32::MAX), None);
    }
}
