//! The loop's clock, the same one that `time.monotonic()` reads.
#![forbid(unsafe_code)]

use nix::time::{ClockId, clock_gettime};

use super::slice::Clocks;

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

/// The system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Clocks for System {
    fn exact(&self) -> f64 {
        monotonic()
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn coarse(&self) -> u64 {
        // The kernel's last tick, 1 to 10 ms ago.
        clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
            .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn coarse(&self) -> u64 {
        (monotonic() * 1000.0) as u64
    }
}
