//! One send at a time.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use zloop_backends::Sent;

use crate::rig::{Rig, pattern};

/// C12: a second send while one is in flight is the caller's mistake; a debug build says so.
pub fn a_second_send_in_flight_is_caught(rig: &mut Rig) {
    if !cfg!(debug_assertions) {
        return;
    }
    for _ in 0..8 {
        rig.settle();
        let (stream, other) = (rig.stream(), rig.stream());
        rig.fill(stream);
        rig.gather();
        let first = rig.send(stream, b"first").expect("the peer lives");
        let _ = rig.send(other, b"so that there are two");
        if first == Sent::Pending {
            let second = catch_unwind(AssertUnwindSafe(|| rig.send(stream, b"second")));
            assert!(second.is_err_and(|panic| is_of_the_backend(&*panic)), "C12: two sends are in flight");
        }
    }
}

/// The rig itself would notice, too.
fn is_of_the_backend(panic: &(dyn std::any::Any + Send)) -> bool {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.is_some_and(|text| text.contains("C12: a send is in flight already"))
}

/// C12: sends that wait for each other arrive in order, pending or not.
pub fn sends_one_after_another_keep_their_order(rig: &mut Rig) {
    let streams: Vec<_> = (0..4).map(|_| rig.stream()).collect();
    let mut expected = Vec::new();
    let mut received = vec![Vec::new(); streams.len()];
    for round in 0..60 {
        let bytes = pattern(expected.len(), 1 + round * 97);
        if round % 3 > 0 {
            rig.gather();
        }
        for stream in &streams {
            rig.send_all(*stream, &bytes);
        }
        expected.extend(bytes);
        for (stream, received) in streams.iter().zip(&mut received) {
            received.extend(rig.drain(stream.peer, 1 << 20));
        }
    }
    assert!(received.iter().all(|received| *received == expected), "C12: the bytes are out of order");
}
