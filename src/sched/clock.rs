//! The loop's clock, the same one that `time.monotonic()` reads.
#![forbid(unsafe_code)]

use nix::time::{ClockId, clock_gettime};

/// macOS: CPython reads `mach_absolute_time`, which stops while the machine sleeps, and so does this clock.
#[cfg(target_vendor = "apple")]
const MONOTONIC: ClockId = ClockId::from_raw(libc::CLOCK_UPTIME_RAW);
#[cfg(not(target_vendor = "apple"))]
const MONOTONIC: ClockId = ClockId::CLOCK_MONOTONIC;

/// Seconds on the monotonic clock, computed as CPython does: whole nanoseconds divided once.
#[must_use]
pub fn monotonic() -> f64 {
    let time = clock_gettime(MONOTONIC).expect("POSIX guarantees this clock");
    let nanoseconds = time.tv_sec() as i64 * 1_000_000_000 + time.tv_nsec() as i64;
    nanoseconds as f64 / 1e9
}
