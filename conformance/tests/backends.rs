//! Every case on every backend. A new backend is one more line in the list below.

#![forbid(unsafe_code)]

use zloop_backends::Kind;
use zloop_conformance::{Subject, cases, for_each_case, run};

macro_rules! instantiate {
    ([$name:ident $subject:expr] $($clause:ident $module:ident::$case:ident,)+) => {
        mod $name {
            use super::*;
            $(
                #[test]
                fn $case() {
                    run($subject, cases::case(stringify!($case)));
                }
            )+
        }
    };
}

macro_rules! conformance {
    ($($name:ident => $subject:expr,)+) => {
        $(for_each_case! { instantiate $name $subject })+

        const LINES: &[Subject] = &[$($subject),+];
    };
}

conformance! {
    epoll => Subject::Real(Kind::Epoll),
    io_uring => Subject::Real(Kind::IoUring),
    kqueue => Subject::Real(Kind::Kqueue),
    poll => Subject::Real(Kind::Poll),
    select => Subject::Real(Kind::Select),
    sim => Subject::Sim(1),
    sim_with_another_seed => Subject::Sim(20_26),
    sim_with_a_third_seed => Subject::Sim(u64::MAX),
}

#[test]
fn every_kind_has_a_line() {
    for kind in Kind::ALL {
        assert!(LINES.contains(&Subject::Real(*kind)), "{kind} is in the registry, but not in this file's list");
    }
}
