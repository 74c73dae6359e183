//! What a user is told where io_uring is forbidden, and that the other backends do not mind. For real: a filter of
//! system calls, as containers have it, is put on a thread of this test.

#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use zloop_backends::{AnyBackend, Backend, Kind, Unavailable, available, open, open_auto};

#[test]
fn a_seccomp_filter_is_named_as_the_cause() {
    let refused = under_filter(libc::EPERM, || open(Kind::IoUring)).expect_err("the filter forbids it");
    assert_eq!(refused.errno, libc::EPERM);
    assert!(refused.to_string().contains("seccomp"), "{refused}");
    assert!(refused.to_string().contains("io_uring_setup"), "{refused}");
}

#[test]
fn a_hidden_interface_is_told_from_a_forbidden_one() {
    let refused = under_filter(libc::ENOSYS, || open(Kind::IoUring)).expect_err("the filter hides it");
    assert_eq!(refused.errno, libc::ENOSYS);
    assert!(refused.reason.contains("sandbox"), "{refused}");
}

#[test]
fn an_automatic_choice_works_under_the_filter() {
    let (chosen, others) = under_filter(libc::EPERM, || (name(open_auto()), available()));
    assert_eq!(chosen, "epoll");
    assert!(!others.contains(&Kind::IoUring));
    assert!(others.contains(&Kind::Epoll) && others.contains(&Kind::Poll));
}

fn name(opened: Result<AnyBackend, Unavailable>) -> &'static str {
    opened.expect("a backend").profile().name
}

/// Runs something in a thread whose `io_uring_setup` answers with this errno.
fn under_filter<T: Send>(errno: i32, run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let filtered = scope.spawn(move || {
            let rules = [(libc::SYS_io_uring_setup, vec![])].into_iter().collect();
            let answer = SeccompAction::Errno(errno as u32);
            let machine = std::env::consts::ARCH.try_into().expect("a machine with filters");
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, machine).expect("a filter");
            let program: BpfProgram = filter.try_into().expect("a program");
            apply_filter(&program).expect("a filter can be put on this thread");
            run()
        });
        filtered.join().expect("a thread that opens backends")
    })
}
