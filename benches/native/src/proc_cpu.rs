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
    use std::process::Command;
    use std::thread::sleep;

    #[test]
    fn a_busy_process_is_seen_to_burn_time() {
        // Another process: of this one, threads of other tests end meanwhile, and take what they used with them.
        let mut busy = Command::new("/bin/sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell");
        let usage = || Usage::of_process(busy.id()).expect("it runs");
        let before = usage();
        let burnt = (0..500).map(|_| {
            sleep(Duration::from_millis(20));
            usage() - before
        });
        // However long a busy machine or a hypervisor may let it wait.
        let seen = burnt.into_iter().any(|burnt| burnt.ran > Duration::from_millis(20));
        busy.kill().expect("a child of ours");
        busy.wait().expect("a child of ours");
        assert!(seen, "it has hardly run in ten seconds");
    }

    #[test]
    fn a_missing_process_has_no_usage() {
        assert_eq!(Usage::of_process(u32::MAX), None);
    }
}
