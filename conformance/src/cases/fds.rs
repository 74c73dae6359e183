//! Whose fds are whose.

#![forbid(unsafe_code)]

use std::time::Duration;

use zloop_backends::{Events, Interest, Token, Wait};

use crate::os::open_fds;
use crate::rig::Rig;

/// C5: a backend closes no fd of the caller's, whatever is done with it.
pub fn the_callers_fds_stay_open(rig: &mut Rig) {
    let stream = rig.stream();
    let (watched, _peer) = rig.pair();
    let token = rig.watch(watched, Interest::BOTH);
    rig.send_all(stream, b"some bytes");
    rig.settle();
    rig.forget(stream.token);
    assert!(rig.world().is_open(stream.fd), "C5: forget has closed the caller's fd");
    rig.backend().watch(watched, token, Interest::NONE).expect("a watch can be removed");
    assert!(rig.world().is_open(watched), "C5: the end of a watch has closed the caller's fd");
    let again = rig.stream();
    rig.finish();
    for fd in [stream.fd, watched, again.fd] {
        assert!(rig.world().is_open(fd), "C5: drop has closed the caller's fd");
    }
}

/// C5, C14: what a backend opens, it closes.
pub fn nothing_stays_open_after_drop(rig: &mut Rig) {
    rig.alone(|open| {
        // The first one may open what stays for the whole process.
        drop(open());
        let before = open_fds();
        for _ in 0..3 {
            let (mut backend, mut world) = open();
            backend.bind().expect("a backend that this thread can poll");
            let (fd, _peer) = world.pair(world.families()[0]);
            backend.attach(fd, Token::new(0, 0)).expect("a stream can be attached");
            backend.waker().wake();
            let mut events = Events::with_limit(8);
            for _ in 0..3 {
                backend.poll(Wait::For(Duration::from_micros(1)), &mut events).expect("a poll");
                events.clear();
            }
            backend.quiesce(&mut events).expect("nothing is in flight");
            drop((backend, world));
        }
        assert_eq!(open_fds(), before, "C5: fds were left open");
    });
}
