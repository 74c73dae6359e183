//! When more is ready than fits.

#![forbid(unsafe_code)]

use std::collections::HashSet;

use zloop_backends::{Interest, Sent, Wait};

use crate::rig::{Rig, pattern};

const MANY: usize = 10;
const FIT: usize = 3;

/// Each token may take two reports, one for each direction.
const ROUNDS: usize = (2 * MANY).div_ceil(FIT) + 1;

/// C11: watches that stay ready are all reported within a few polls, though only some fit.
pub fn every_watch_gets_its_turn(rig: &mut Rig) {
    let pairs: Vec<_> = (0..MANY).map(|_| rig.pair()).collect();
    let tokens: HashSet<_> = pairs.iter().map(|(fd, _)| rig.watch(*fd, Interest::READ)).collect();
    for (_, peer) in &pairs {
        rig.world().write(*peer, b"x").expect("room");
    }
    rig.limit(FIT);
    rig.settle();
    for _ in 0..3 {
        let mut reported = HashSet::new();
        for _ in 0..ROUNDS {
            reported.extend(rig.poll(Wait::Now).into_iter().map(|event| event.token));
        }
        assert_eq!(reported, tokens, "C11: some wait for ever");
    }
}

/// C11: streams, which are reported once, are all reported though only some fit.
pub fn every_stream_gets_its_turn(rig: &mut Rig) {
    rig.limit(FIT);
    let streams: Vec<_> = (0..MANY).map(|_| rig.stream()).collect();
    for stream in &streams {
        rig.world().write(stream.peer, b"x").expect("room");
        rig.rearm(stream.token, Interest::WRITE);
    }
    for _ in 0..2 * ROUNDS {
        rig.poll(Wait::Now);
    }
    for stream in &streams {
        assert!(rig.seen(stream.token).contains(Interest::BOTH), "C11: a report was lost");
    }
}

/// C11: terminal events that did not fit come later, each once.
pub fn every_end_of_a_send_gets_its_turn(rig: &mut Rig) {
    rig.limit(FIT);
    let streams: Vec<_> = (0..MANY).map(|_| rig.stream()).collect();
    rig.gather();
    let bytes = pattern(0, 500);
    let answers: Vec<_> = streams.iter().map(|stream| rig.send(*stream, &bytes).expect("the peer lives")).collect();
    for _ in 0..4 * ROUNDS {
        rig.poll(Wait::Now);
    }
    for (stream, answer) in streams.iter().zip(answers) {
        let ended = answer != Sent::Pending || rig.result(stream.token) == Some(500);
        assert!(ended, "C11: a terminal event was lost");
    }
}
