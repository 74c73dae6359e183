//! Sends: how they are answered, and how they end.

#![forbid(unsafe_code)]

use std::time::Duration;

use zloop_backends::{Interest, Sent, Wait};

use crate::rig::{Rig, pattern};
use crate::world::Deed;

/// C1: every pending send ends exactly once, with all its bytes.
pub fn pending_sends_end_once_each(rig: &mut Rig) {
    let streams: Vec<_> = (0..12).map(|_| rig.stream()).collect();
    for round in 0..4 {
        rig.gather();
        let mut due = Vec::new();
        for (index, stream) in streams.iter().enumerate() {
            let bytes = pattern(index, 100 + round * 1000);
            match rig.send_slices(*stream, &bytes, 1 + index % 4).expect("the peer lives") {
                Sent::Pending => due.push((*stream, bytes.len() as i32, bytes)),
                Sent::Done(count) => {
                    rig.send_all(*stream, &bytes[count..]);
                    due.push((*stream, -1, bytes));
                }
                Sent::Blocked => panic!("C2: the stream is empty, and yet blocked"),
            }
        }
        for (stream, expected, bytes) in due {
            if expected >= 0 {
                assert_eq!(rig.until_sent(stream.token), expected, "C1: all the bytes leave");
            }
            assert_eq!(rig.drain(stream.peer, 1 << 20), bytes, "C1: what was sent arrives, in order");
        }
        // The rig fails at a second terminal event.
        rig.settle();
    }
}

/// C1: a pending send that meets a full stream waits for room and then leaves whole.
pub fn a_pending_send_is_finished_when_the_stream_has_room_again(rig: &mut Rig) {
    let (full, other) = (rig.stream(), rig.stream());
    let mut expected = rig.fill(full);
    rig.gather();
    let bytes = pattern(7, 4000);
    let answer = rig.send(full, &bytes).expect("the peer lives");
    let _ = rig.send(other, b"so that there are two").expect("the peer lives");
    rig.settle();
    let mut received = Vec::new();
    if answer == Sent::Pending {
        assert_eq!(rig.result(full.token), None, "C1: the stream is full, and yet the send has ended");
        rig.until("C1: the end of the send", |rig| {
            received.extend(rig.drain(full.peer, 1000));
            rig.result(full.token).is_some()
        });
        assert_eq!(rig.result(full.token), Some(4000), "C1: the send has ended before all had left");
        expected.extend(bytes);
    }
    received.extend(rig.drain(full.peer, 1 << 20));
    assert!(received == expected, "C1: {} bytes arrived, not the {} sent", received.len(), expected.len());
}

/// C1: sends that all meet full streams leave when there is room, though nothing else happens during the wait.
pub fn pending_sends_that_all_meet_full_streams_leave_during_the_wait(rig: &mut Rig) {
    let streams = [rig.stream(), rig.stream()];
    for stream in streams {
        rig.fill(stream);
    }
    rig.settle();
    rig.gather();
    let answers = streams.map(|stream| rig.send(stream, b"in good time").expect("the peer lives"));
    for stream in streams {
        rig.later(Duration::from_millis(10), Deed::Read(stream.peer, 1 << 24));
    }
    let deadline = rig.world().now() + Duration::from_secs(1);
    for (stream, answer) in streams.into_iter().zip(answers) {
        while answer == Sent::Pending && rig.result(stream.token).is_none() {
            let now = rig.world().now();
            assert!(now < deadline, "C1: there is room, and yet the send has not ended");
            rig.poll(Wait::For(deadline - now));
        }
    }
}

/// C1: a send to a peer that is gone ends once, with an error.
pub fn a_send_to_a_dead_peer_fails_once(rig: &mut Rig) {
    for gathered in [false, true] {
        let (stream, other) = (rig.stream(), rig.stream());
        rig.world().close(stream.peer).expect("an open fd");
        rig.until_seen(stream.token, Interest::READ);
        if gathered {
            rig.gather();
        }
        let answer = rig.send(stream, b"anybody there?");
        let _ = rig.send(other, b"so that there are two");
        let outcome = rig.outcome(stream, answer);
        assert!([-libc::EPIPE, -libc::ECONNRESET].contains(&outcome), "C1: the outcome was {outcome}");
        rig.settle();
    }
}

/// C1: a send that `finish` has brought to its end is not reported; what it left to do is done by others.
pub fn a_finished_send_is_over(rig: &mut Rig) {
    let streams: Vec<_> = (0..8).map(|_| rig.stream()).collect();
    let full = streams[0];
    let mut filled = rig.fill(full);
    for round in 0..4 {
        rig.gather();
        let bytes = pattern(round, 3000);
        let answers: Vec<_> = streams[1..].iter().map(|stream| rig.send(*stream, &bytes).expect("room")).collect();
        for (index, (stream, answer)) in streams[1..].iter().zip(answers).enumerate() {
            if index % 3 == 0 {
                rig.poll(Wait::Now);
            }
            let sent = match rig.finish_send(stream.token) {
                Some(result) => result,
                None => rig.outcome(*stream, Ok(answer)),
            };
            assert_eq!(rig.drain(stream.peer, 1 << 20), bytes[..sent as usize], "C1: what left is not what arrived");
            assert_eq!(rig.finish_send(stream.token), None, "C1: one send was finished twice");
        }
        // The rig fails at a terminal event of what is over.
        rig.settle();
    }
    rig.gather();
    let answer = rig.send(full, b"for later").expect("the peer lives");
    let finished = rig.finish_send(full.token);
    assert_eq!(finished, None, "C1: a full stream has taken something");
    let mut received = rig.drain(full.peer, 1 << 20);
    let sent = rig.outcome(full, Ok(answer));
    filled.extend(&b"for later"[..sent as usize]);
    received.extend(rig.drain(full.peer, 1 << 20));
    assert!(received == filled, "C1: what was not finished must still leave, once");
}

/// C2: a send that was answered with `Done` is not reported.
pub fn a_send_that_was_done_is_not_reported(rig: &mut Rig) {
    let stream = rig.stream();
    for _ in 0..20 {
        let answer = rig.send(stream, b"a few bytes").expect("the peer lives");
        assert!(matches!(answer, Sent::Done(_)), "C2: {answer:?} of an empty stream");
        // The rig fails at a terminal event of a send that is not in flight.
        rig.settle();
    }
    assert_eq!(rig.backend().in_flight(), 0);
}

/// C2: a full stream is neither an error nor a result; it is writable again when there is room.
pub fn a_full_stream_is_blocked_and_no_error(rig: &mut Rig) {
    for family in rig.families() {
        let stream = rig.stream_of(*family);
        let mut expected = rig.fill(stream);
        assert_eq!(rig.send(stream, b"no room").expect("C2: EAGAIN is no error"), Sent::Blocked);
        rig.rearm(stream.token, Interest::WRITE);
        rig.settle();
        let mut received = Vec::new();
        rig.until("C6: room to write", |rig| {
            received.extend(rig.drain(stream.peer, 1 << 20));
            rig.seen(stream.token).contains(Interest::WRITE)
        });
        rig.send_all(stream, b"there is room");
        expected.extend(b"there is room");
        rig.until("the last bytes", |rig| {
            received.extend(rig.drain(stream.peer, 1 << 20));
            received.len() >= expected.len()
        });
        assert!(received == expected, "C2: what a blocked send was given must not arrive");
    }
}

/// C2: a pending send waits for room; that there is none is never its result.
pub fn a_full_stream_is_no_result_of_a_pending_send(rig: &mut Rig) {
    let streams: Vec<_> = (0..4).map(|_| rig.stream()).collect();
    for stream in &streams {
        rig.fill(*stream);
    }
    rig.gather();
    let answers: Vec<_> = streams.iter().map(|stream| rig.send(*stream, b"in good time")).collect();
    rig.settle();
    for (stream, answer) in streams.iter().zip(answers) {
        // The rig fails at a result of -EAGAIN.
        let pending = answer.expect("the peer lives") == Sent::Pending;
        rig.drain(stream.peer, 1 << 20);
        assert!(!pending || rig.until_sent(stream.token) == 12, "C2: the send ended for want of room");
    }
}

/// C2: without `gather`, or for a single send, the answer is known at once; `poll` ends what was gathered.
pub fn what_was_not_gathered_is_never_pending(rig: &mut Rig) {
    let stream = rig.stream();
    assert!(matches!(rig.send(stream, b"a"), Ok(Sent::Done(1))));
    rig.backend().gather(1);
    assert!(matches!(rig.send(stream, b"b"), Ok(Sent::Done(1))));
    rig.gather();
    rig.settle();
    assert!(matches!(rig.send(stream, b"c"), Ok(Sent::Done(1))));
    assert_eq!(rig.drain(stream.peer, 9), b"abc");
}
