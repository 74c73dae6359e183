//! Runs the suite over the backends named on the command line (all of them without a name), and prints one line per
//! clause and a total.
//!
//! The exit status is 1 if a case fails, or if a backend is missing that was named here or in `ZLOOP_REQUIRE`.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use zloop_backends::Kind;
use zloop_conformance::{CASES, Clause, Subject, runner};

fn main() -> ExitCode {
    // What a case says is printed below its clause.
    std::panic::set_hook(Box::new(|_| {}));
    let names: Vec<String> = std::env::args().skip(1).collect();
    let mut passed = true;
    if names.is_empty() {
        for subject in Kind::ALL.iter().copied().map(Subject::Real).chain([Subject::Sim(1)]) {
            passed &= conform(subject, subject.is_required());
        }
    }
    for name in names {
        match Subject::from_name(&name) {
            Some(subject) => passed &= conform(subject, true),
            None => {
                let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                println!("{name}: no such backend; there are {} and sim", known.join(", "));
                passed = false;
            }
        }
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the whole suite over a backend; true if it passed, or is missing and may be.
fn conform(subject: Subject, required: bool) -> bool {
    let profile = match subject.open() {
        Ok((backend, _)) => backend.profile(),
        Err(why) => {
            println!("{subject}: {}: {why}", if required { "FAILED" } else { "skipped" });
            return !required;
        }
    };
    println!("{subject}: {}, {}", profile.model, profile.features.join(", "));
    let start = Instant::now();
    let failed: usize = Clause::ALL.iter().map(|clause| run_clause(subject, *clause)).sum();
    let total = CASES.len();
    println!("{subject}: {} of {total} cases passed in {}\n", total - failed, seconds(start.elapsed()));
    failed == 0
}

/// Runs the cases of a clause, and prints its line; the number of those that failed.
fn run_clause(subject: Subject, clause: Clause) -> usize {
    let start = Instant::now();
    let cases: Vec<_> = CASES.iter().filter(|case| case.clause == clause).collect();
    let failures: Vec<_> = cases
        .iter()
        .filter_map(|case| runner::attempt(subject, case).err().map(|why| format!("        {}: {why}", case.name)))
        .collect();
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    let took = seconds(start.elapsed());
    println!("  {clause:<4}{verdict:<8}{:>2} cases {took:>9}   {}", cases.len(), clause.short());
    failures.iter().for_each(|failure| println!("{failure}"));
    failures.len()
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}
