//! Taking sends back.

#![forbid(unsafe_code)]

use zloop_backends::{Interest, Sent, Token};

use crate::rig::{Rig, pattern};

/// C3: a cancelled send still has its terminal event, and it comes soon.
pub fn a_cancelled_send_ends_all_the_same(rig: &mut Rig) {
    let streams: Vec<_> = (0..6).map(|_| rig.stream()).collect();
    for stream in &streams {
        rig.fill(*stream);
    }
    rig.gather();
    let bytes = pattern(0, 4000);
    let pending: Vec<_> =
        streams.into_iter().filter(|stream| rig.send(*stream, &bytes).is_ok_and(is_pending)).collect();
    for (index, stream) in pending.iter().enumerate() {
        if index % 2 == 0 {
            rig.settle();
        }
        rig.backend().cancel(stream.token);
        // Once more is no other request.
        rig.backend().cancel(stream.token);
    }
    for stream in pending {
        rig.until("C3: the end of a cancelled send", |rig| rig.result(stream.token).is_some());
        let result = rig.until_sent(stream.token);
        assert_eq!(result, -libc::ECANCELED, "C3: nothing could leave");
    }
    rig.settle();
}

/// C3: what left before the cancel is counted, byte by byte.
pub fn a_cancelled_send_tells_what_had_left(rig: &mut Rig) {
    for room in [1, 3000, 60_000] {
        let (stream, other) = (rig.stream(), rig.stream());
        let mut expected = rig.fill(stream);
        rig.gather();
        let bytes = pattern(3, 16_000);
        let answer = rig.send(stream, &bytes).expect("the peer lives");
        let _ = rig.send(other, b"so that there are two");
        let mut received = rig.world().read(stream.peer, room).expect("the stream is full");
        rig.settle();
        rig.backend().cancel(stream.token);
        let outcome = rig.outcome(stream, Ok(answer));
        assert!(outcome >= 0 || outcome == -libc::ECANCELED, "C3: the outcome was {outcome}");
        expected.extend(&bytes[..outcome.max(0) as usize]);
        received.extend(rig.drain(stream.peer, 1 << 20));
        assert!(received == expected, "C3: {} bytes arrived, {} left", received.len(), expected.len());
    }
}

/// C3: a token that is no longer, or never was, is ignored; its slot's present holder is not affected.
pub fn stale_tokens_are_ignored(rig: &mut Rig) {
    let old = rig.stream();
    rig.forget(old.token);
    let (new, other) = (rig.stream(), rig.stream());
    assert_eq!(new.token.slot(), old.token.slot(), "the slab reuses slots");
    rig.fill(new);
    rig.gather();
    let answer = rig.send(new, b"of the present holder").expect("the peer lives");
    let _ = rig.send(other, b"so that there are two");
    for stale in [old.token, Token::new(9999, 7)] {
        rig.backend().cancel(stale);
        rig.backend().forget(stale);
        rig.backend().rearm(stale, Interest::BOTH).expect("C3: a stale token is ignored");
        rig.backend().watch(new.fd, stale, Interest::NONE).expect("C3: a stale token is ignored");
    }
    rig.settle();
    assert!(!is_pending(answer) || rig.result(new.token).is_none(), "C3: somebody else's send was cancelled");
    rig.drain(new.peer, 1 << 20);
    assert!(!is_pending(answer) || rig.until_sent(new.token) > 0);
    let gone = rig.send(old, b"nobody");
    assert!(gone.is_err_and(|error| error.raw_os_error() == Some(libc::EBADF)), "C3: a send for nobody");
    rig.world().write(new.peer, b"still reported").expect("room");
    rig.until_seen(new.token, Interest::READ);
}

fn is_pending(answer: Sent) -> bool {
    answer == Sent::Pending
}
