//! Child processes. A backend that cannot watch them has to say so, and is through with the case then.

#![forbid(unsafe_code)]

use std::io::Read;
use std::process::{Child, Command, Stdio};

use zloop_backends::{Interest, Token};

use crate::rig::Rig;

/// C16: a child is reported once, when it has ended, and left for its parent to reap.
pub fn a_child_that_ends_is_reported_once(rig: &mut Rig) {
    rig.be_alone();
    let children: Vec<_> = (0..3).map(|_| start("sleep", "60")).collect();
    let tokens: Vec<_> = children.iter().map(|child| (rig.token(), child)).collect();
    let watched = tokens.iter().filter(|(token, child)| watch(rig, *token, child) == Answer::Watched).count();
    let tokens: Vec<_> = tokens.into_iter().map(|(token, _)| token).collect();
    if watched == 0 {
        return children.into_iter().for_each(end);
    }
    rig.settle();
    for (mut child, token) in children.into_iter().zip(tokens) {
        assert!(rig.seen(token).is_empty(), "C16: a child is reported that lives");
        child.kill().expect("a child of ours");
        until_told(rig, token);
        rig.unsee(token);
        rig.settle();
        assert!(rig.seen(token).is_empty(), "C16: a child is reported twice");
        assert!(!child.wait().expect("C16: the backend has reaped the child").success());
        rig.forget(token);
    }
}

/// C16: a child that ended before it was watched is reported, or the call says that it is gone. It can be reaped.
pub fn a_child_that_had_ended_is_reported_or_refused(rig: &mut Rig) {
    rig.be_alone();
    let mut child = start("true", "");
    // It has at least closed its files; the rest may come before, during or after the call.
    child.stdout.take().expect("a pipe").read_to_end(&mut Vec::new()).expect("the end of the child");
    let token = rig.token();
    if watch(rig, token, &child) == Answer::Watched {
        until_told(rig, token);
    }
    assert!(child.wait().expect("C16: the backend has reaped the child").success());
    rig.forget(token);
}

/// C16, C7: a child that was forgotten is not reported, and others are.
pub fn nothing_is_reported_of_a_forgotten_child(rig: &mut Rig) {
    rig.be_alone();
    let (forgotten, mut other) = (start("sleep", "60"), start("sleep", "60"));
    let (first, second) = (rig.token(), rig.token());
    let watched = watch(rig, first, &forgotten) == Answer::Watched && watch(rig, second, &other) == Answer::Watched;
    rig.forget(first);
    end(forgotten);
    // The rig fails at a report of a token that it does not know.
    rig.settle();
    other.kill().expect("a child of ours");
    if watched {
        until_told(rig, second);
    }
    end(other);
    rig.settle();
}

/// Polls until a child's end has been reported.
fn until_told(rig: &mut Rig, token: Token) {
    rig.until("C16: the end of a child", |rig| rig.seen(token).contains(Interest::READ));
}

#[derive(PartialEq, Eq)]
enum Answer {
    Watched,
    Gone,
    Impossible,
}

fn watch(rig: &mut Rig, token: Token, child: &Child) -> Answer {
    match rig.backend().watch_exit(child.id() as i32, token).map_err(|error| error.raw_os_error()) {
        Ok(()) => Answer::Watched,
        Err(Some(libc::ESRCH)) => Answer::Gone,
        Err(Some(libc::ENOSYS)) => Answer::Impossible,
        Err(error) => panic!("C16: a child can be watched or not, but {error:?}"),
    }
}

fn start(program: &str, argument: &str) -> Child {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a child")
}

fn end(mut child: Child) {
    child.kill().expect("a child of ours");
    child.wait().expect("C16: the backend has reaped the child");
}
