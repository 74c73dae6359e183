//! The timing of a run: a warm-up that is thrown away, a window that counts, and a report.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::fault::Fault;
use crate::proc_cpu::Usage;
use crate::slices::Slices;

/// The longest latency told apart, in nanoseconds; longer ones count as this.
pub(crate) const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// How long to run, and whom to observe.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Time before anything counts.
    pub warmup: Duration,
    /// The measured window.
    pub duration: Duration,
    /// How long to wait, after the window, for replies that are still owed.
    pub patience: Duration,
    /// The process whose CPU time is charged to the requests.
    pub server_pid: Option<u32>,
}

/// The stage a run is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Requests flow but do not count.
    Warmup,
    /// Requests count.
    Window,
    /// No new requests; owed replies are awaited.
    Drain,
}

/// Counts replies and watches the clock.
pub struct Recorder {
    plan: Plan,
    stage: Stage,
    /// When the present stage ends.
    until: Instant,
    window_start: Instant,
    latencies: Histogram<u64>,
    /// Of an open loop.
    slices: Option<Slices>,
    server: Meter,
    own: Meter,
    seconds: f64,
}

impl Recorder {
    /// Starts the warm-up now.
    pub fn start(plan: Plan) -> Self {
        let now = Instant::now();
        let latencies = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("these bounds are valid constants");
        Self {
            stage: Stage::Warmup,
            until: now + plan.warmup,
            window_start: now,
            latencies,
            slices: None,
            server: Meter::of(plan.server_pid),
            own: Meter::of(Some(std::process::id())),
            seconds: 0.0,
            plan,
        }
    }

    /// Tells slices of the window apart, too.
    pub fn tell_slices(&mut self) {
        self.slices = Some(Slices::start(Instant::now()));
    }

    /// Moves on if the present stage is over; returns the stage that holds at `now`.
    pub fn stage(&mut self, now: Instant) -> Stage {
        if let (Stage::Window, Some(slices)) = (self.stage, &mut self.slices) {
            slices.turn(now);
        }
        if now < self.until {
            return self.stage;
        }
        match self.stage {
            Stage::Warmup => self.open_window(),
            Stage::Window => self.close_window(),
            Stage::Drain => {}
        }
        self.stage
    }

    fn open_window(&mut self) {
        self.server.start();
        self.own.start();
        self.window_start = Instant::now();
        self.until = self.window_start + self.plan.duration;
        if let Some(slices) = &mut self.slices {
            slices.restart(self.window_start);
        }
        self.stage = Stage::Window;
    }

    fn close_window(&mut self) {
        let now = Instant::now();
        self.server.stop();
        self.own.stop();
        self.seconds = (now - self.window_start).as_secs_f64();
        self.until = now + self.plan.patience;
        self.stage = Stage::Drain;
    }

    /// When the present stage ends.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Whether the drain has lasted as long as the plan's patience.
    pub fn out_of_patience(&self, now: Instant) -> bool {
        self.stage == Stage::Drain && now >= self.until
    }

    /// Counts one reply, if the window is open.
    pub fn record(&mut self, latency: Duration) {
        if self.stage == Stage::Window {
            let nanoseconds = latency.as_nanos().clamp(1, u128::from(LATENCY_NS_MAX)) as u64;
            self.latencies.saturating_record(nanoseconds);
            if let Some(slices) = &mut self.slices {
                slices.record(nanoseconds);
            }
        }
    }

    /// The result, once the window is closed.
    pub fn report(&self) -> Result<Report, Fault> {
        let requests = self.latencies.len();
        if requests == 0 {
            return Err(Fault::Silent);
        }
        let microseconds = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Report {
            requests,
            seconds: self.seconds,
            requests_per_s: requests as f64 / self.seconds,
            latency_us: Latency {
                mean: self.latencies.mean() / 1e3,
                p50: microseconds(0.50),
                p90: microseconds(0.90),
                p99: microseconds(0.99),
                p999: microseconds(0.999),
                max: self.latencies.max() as f64 / 1e3,
                quiet_p99: self.slices.as_ref().and_then(Slices::quiet_p99_ns).map(|time| time as f64 / 1e3),
            },
            server_cpu_s: self.server.used.map(|usage| usage.ran.as_secs_f64()),
            server_cpu_us_per_request: self.server.used.map(|usage| usage.ran.as_secs_f64() * 1e6 / requests as f64),
            core_wait_share: self.server.waited_s().max(self.own.waited_s()) / self.seconds,
            lost: 0,
        })
    }
}

/// Watches a process from the start of the window to its end.
struct Meter {
    pid: Option<u32>,
    before: Option<Usage>,
    used: Option<Usage>,
}

impl Meter {
    fn of(pid: Option<u32>) -> Self {
        Self { pid, before: None, used: None }
    }

    fn start(&mut self) {
        self.before = self.pid.and_then(Usage::of_process);
    }

    fn stop(&mut self) {
        let after = self.pid.and_then(Usage::of_process);
        self.used = after.zip(self.before).map(|(after, before)| after - before);
    }

    fn waited_s(&self) -> f64 {
        self.used.map_or(0.0, |usage| usage.waited.as_secs_f64())
    }
}

/// What one run found. Times carry their unit in their name.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Replies that came within the window.
    pub requests: u64,
    /// Length of the window.
    pub seconds: f64,
    /// Replies per second.
    pub requests_per_s: f64,
    /// From the request (in an open loop: from when it was due) to the last byte of its reply.
    pub latency_us: Latency,
    /// CPU time of the server within the window, user and system, if it was asked for.
    pub server_cpu_s: Option<f64>,
    /// The same per reply.
    pub server_cpu_us_per_request: Option<f64>,
    /// The part of the window that the server or this process, whichever is worse, was kept from
    /// its core by something else: above a few hundredths, distrust the run.
    pub core_wait_share: f64,
    /// Datagrams that were given up; always 0 for streams, where a loss is a [`Fault`].
    pub lost: u64,
}

/// Latencies in microseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// The average.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// Nine of ten are at most this.
    pub p90: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// 999 of 1,000 are at most this.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// Of an open loop: the p99 that the best quarter of the window's [slices](crate::slices) kept below.
    pub quiet_p99: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(warmup_ms: u64, duration_ms: u64) -> Plan {
        Plan {
            warmup: Duration::from_millis(warmup_ms),
            duration: Duration::from_millis(duration_ms),
            patience: Duration::ZERO,
            server_pid: None,
        }
    }

    #[test]
    fn only_the_window_counts() {
        let mut recorder = Recorder::start(plan(200, 200));
        recorder.record(Duration::from_micros(1));
        assert_eq!(recorder.stage(Instant::now()), Stage::Warmup);
        std::thread::sleep(Duration::from_millis(201));
        assert_eq!(recorder.stage(Instant::now()), Stage::Window);
        recorder.record(Duration::from_micros(100));
        recorder.record(Duration::from_micros(300));
        std::thread::sleep(Duration::from_millis(201));
        assert_eq!(recorder.stage(Instant::now()), Stage::Drain);
        recorder.record(Duration::from_micros(900));
        let report = recorder.report().unwrap();
        assert_eq!(report.requests, 2);
        assert!((report.latency_us.p50 - 100.0).abs() < 1.0, "{report:?}");
        assert!((report.latency_us.max - 300.0).abs() < 1.0, "{report:?}");
        assert!(report.seconds >= 0.2, "{report:?}");
    }

    #[test]
    fn silence_is_a_fault() {
        let mut recorder = Recorder::start(plan(0, 0));
        recorder.stage(Instant::now());
        recorder.stage(Instant::now());
        assert!(matches!(recorder.report(), Err(Fault::Silent)));
    }
}
