//! The end.

#![forbid(unsafe_code)]

use zloop_backends::Interest;

use crate::rig::{Rig, Stream, pattern};

/// C14: after `quiesce` nothing is in flight; every pending send has had its terminal event.
pub fn nothing_is_in_flight_after_quiesce(rig: &mut Rig) {
    let stalled = stall(rig, 7);
    rig.quiesce();
    check(rig, stalled);
}

/// C14: with little room in the list, `quiesce` is called again and loses nothing.
pub fn quiesce_gives_way_to_a_full_list(rig: &mut Rig) {
    rig.limit(2);
    let stalled = stall(rig, 7);
    rig.settle();
    rig.quiesce();
    check(rig, stalled);
}

/// C14: a backend that has been quiesced is as good as before.
pub fn a_backend_goes_on_after_quiesce(rig: &mut Rig) {
    let stalled = stall(rig, 3);
    rig.quiesce();
    for (stream, _) in stalled {
        rig.drain(stream.peer, 1 << 20);
        rig.rearm(stream.token, Interest::BOTH);
        rig.until_seen(stream.token, Interest::WRITE);
        rig.send_all(stream, b"again");
        assert_eq!(rig.drain(stream.peer, 100), b"again");
        rig.world().write(stream.peer, b"x").expect("room");
        rig.until_seen(stream.token, Interest::READ);
    }
}

/// Streams whose sends cannot get on, and what left of each.
fn stall(rig: &mut Rig, count: usize) -> Vec<(Stream, Vec<u8>)> {
    let full: Vec<_> = (0..count)
        .map(|_| {
            let stream = rig.stream();
            let sent = rig.fill(stream);
            (stream, sent)
        })
        .collect();
    rig.gather();
    for (stream, _) in &full {
        let _ = rig.send(*stream, &pattern(5, 3000)).expect("the peer lives");
    }
    full
}

fn check(rig: &mut Rig, stalled: Vec<(Stream, Vec<u8>)>) {
    for (stream, mut expected) in stalled {
        let left = rig.result(stream.token).unwrap_or(0);
        assert!(left >= 0 || left == -libc::ECANCELED, "C14: the result was {left}");
        expected.extend(&pattern(5, 3000)[..left.max(0) as usize]);
        let received = rig.drain(stream.peer, 1 << 20);
        assert!(received == expected, "C14: {} bytes arrived, {} left", received.len(), expected.len());
    }
}
