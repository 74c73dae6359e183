//! Signals.

#![forbid(unsafe_code)]

use std::time::Duration;

use zloop_backends::Wait;

use crate::rig::{PATIENCE, Rig};
use crate::world::Deed;

/// C10: a signal ends the wait promptly, and is no error.
pub fn a_signal_ends_a_wait(rig: &mut Rig) {
    for wait in [Wait::Forever, Wait::For(Duration::from_secs(600))] {
        let before = rig.world().now();
        rig.later(Duration::from_millis(10), Deed::Signal);
        let events = rig.poll(wait);
        assert!(events.is_empty(), "nobody was attached");
        assert!(rig.world().now() - before < PATIENCE, "C10: the signal did not end the wait");
    }
}

/// C10: so it does when the wait hands over sends first.
pub fn a_signal_ends_a_wait_that_also_sends(rig: &mut Rig) {
    let streams = [rig.stream(), rig.stream()];
    for stream in streams {
        rig.fill(stream);
    }
    rig.settle();
    rig.gather();
    for stream in streams {
        let _ = rig.send(stream, b"there is no room").expect("the peer lives");
    }
    let before = rig.world().now();
    rig.later(Duration::from_millis(10), Deed::Signal);
    rig.poll(Wait::For(Duration::from_secs(600)));
    assert!(rig.world().now() - before < PATIENCE, "C10: the signal did not end the wait");
    assert!(streams.iter().all(|stream| rig.result(stream.token).is_none()), "C10: a signal is no result");
}
