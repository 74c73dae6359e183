//! Runs cases and tells what became of them.

#![forbid(unsafe_code)]

use std::any::Any;
use std::collections::HashSet;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use crate::cases::Case;
use crate::rig::Rig;
use crate::subject::Subject;

/// Runs a case as a test: fails with the case, and passes with a printed reason where this machine lacks the backend.
///
/// # Panics
/// If the case fails, or the backend is missing though `ZLOOP_REQUIRE` names it.
pub fn run(subject: Subject, case: &Case) {
    match Rig::open(subject) {
        Ok(mut rig) => {
            (case.run)(&mut rig);
            rig.finish();
        }
        Err(why) if subject.is_required() => panic!("ZLOOP_REQUIRE names it, but {why}"),
        Err(why) => say_once(format!("skipped: {why}")),
    }
}

/// Runs a case and catches its failure.
///
/// # Errors
/// What the case says.
pub fn attempt(subject: Subject, case: &Case) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| run(subject, case))).map_err(|panic| words(&*panic))
}

/// Past the test harness, which swallows what passing tests print.
fn say_once(line: String) {
    static SAID: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.get_or_insert_default().insert(line.clone()) {
        // Nobody to tell is no reason to fail.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "it panicked".into())
}
