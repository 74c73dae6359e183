//! The suite tests itself: each fault must make a case of the clause fail that it breaks, and the case must say so.

#![forbid(unsafe_code)]

use std::{panic, thread};

use zloop_conformance::{CASES, Fault, Subject, runner};

const SEEDS: [u64; 3] = [1, 2026, u64::MAX];

#[test]
fn every_fault_is_noticed_by_its_clause() {
    // What the cases say of broken backends is no news.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let noticed: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = Fault::ALL.iter().map(|fault| scope.spawn(|| is_noticed(*fault))).collect();
        running.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    panic::set_hook(hook);
    let faults = Fault::ALL.iter().zip(noticed);
    let unnoticed: Vec<_> =
        faults.filter(|(_, noticed)| !matches!(noticed, Ok(true))).map(|(fault, _)| fault).collect();
    assert!(unnoticed.is_empty(), "no case of their clause noticed these and said so: {unnoticed:?}");
}

/// Whether a case of its clause fails, in the name of that clause.
fn is_noticed(fault: Fault) -> bool {
    let clause = fault.clause().to_string();
    let names_it = |why: String| why.contains(&clause);
    let mut cases = CASES.iter().filter(|case| case.clause == fault.clause());
    cases.any(|case| SEEDS.iter().any(|seed| runner::attempt(Subject::Faulty(*seed, fault), case).is_err_and(names_it)))
}
