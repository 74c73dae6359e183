//! Until when memory belongs to the backend.
//!
//! The rig overwrites the memory of each send as soon as it may; here is checked that the peer does not see it.

#![forbid(unsafe_code)]

use zloop_backends::Sent;

use crate::rig::{Rig, pattern};

/// C4: after `Done` the memory may be used for other things.
pub fn memory_is_free_after_a_send_was_done(rig: &mut Rig) {
    for family in rig.families() {
        let stream = rig.stream_of(*family);
        for len in [1, 1000, 20_000] {
            let bytes = pattern(len, len);
            rig.send_all(stream, &bytes);
            rig.settle();
            let mut received = Vec::new();
            rig.until("the bytes", |rig| {
                received.extend(rig.drain(stream.peer, 1 << 20));
                received.len() >= len
            });
            assert!(received == bytes, "C4: the memory was read after the send was done");
        }
    }
}

/// C4: after the terminal event the memory may be used for other things.
pub fn memory_is_free_after_the_terminal_event(rig: &mut Rig) {
    let streams: Vec<_> = (0..8).map(|_| rig.stream()).collect();
    rig.gather();
    let bytes = pattern(1, 12_000);
    let answers: Vec<_> = streams.iter().map(|stream| rig.send(*stream, &bytes)).collect();
    for (stream, answer) in streams.iter().zip(answers) {
        let sent = rig.outcome(*stream, answer);
        rig.settle();
        let received = rig.drain(stream.peer, 1 << 20);
        assert!(received == bytes[..sent as usize], "C4: the memory was read after the terminal event");
    }
}

/// C4: after `Blocked` nothing of the memory is used.
pub fn a_blocked_send_took_nothing(rig: &mut Rig) {
    let stream = rig.stream();
    let expected = rig.fill(stream);
    assert!(matches!(rig.send(stream, &pattern(50, 100)), Ok(Sent::Blocked)));
    let mut received = Vec::new();
    for _ in 0..4 {
        received.extend(rig.drain(stream.peer, 1 << 20));
        rig.settle();
    }
    assert!(received == expected, "C4: a blocked send has sent something");
}
