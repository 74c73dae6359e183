//! The suite tests itself: each fault must make a case of the clause fail that it breaks.

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
    for (fault, noticed) in Fault::ALL.iter().zip(noticed) {
        assert!(matches!(noticed, Ok(true)), "no case of {} noticed {fault:?}", fault.clause());
    }
}

fn is_noticed(fault: Fault) -> bool {
    let mut cases = CASES.iter().filter(|case| case.clause == fault.clause());
    cases.any(|case| SEEDS.iter().any(|seed| runner::attempt(Subject::Faulty(*seed, fault), case).is_err()))
}
