//! The CPU time of another process: the number that noise on a shared machine spoils least.
#![forbid(unsafe_code)]

use std::fs;
use std::time::Duration;

/// User and system time of all threads of process `pid` that still live, or `None` where the
/// system does not tell (anything but Linux) or the process is gone.
///
/// This sums `schedstat`, which counts nanoseconds; `stat` only counts clock ticks of 10 ms. The
/// kernel's own worker threads of an io_uring are threads of the process, so they are included.
pub fn of_process(pid: u32) -> Option<Duration> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end between the listing and the reading.
        if let Ok(text) = fs::read_to_string(thread.ok()?.path().join("schedstat")) {
            total += text.split(' ').next()?.parse::<u64>().ok()?;
        }
    }
    Some(Duration::from_nanos(total))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_busy_process_is_seen_to_burn_time() {
        let pid = std::process::id();
        let before = of_process(pid).expect("this process exists");
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(100) {}
        let burnt = of_process(pid).expect("still here") - before;
        assert!(burnt > Duration::from_millis(30), "only {burnt:?}");
    }

    #[test]
    fn a_missing_process_has_no_time() {
        assert_eq!(of_process(u32::MAX), None);
    }
}
