//! Attached streams: reported after `attach` and after each `rearm`.

#![forbid(unsafe_code)]

use zloop_backends::{Interest, Wait};

use crate::rig::{Rig, Stream, pattern};
use crate::world::Family;

/// C6: what can be read when a stream is attached is reported, and room to write that is there when it is asked for.
pub fn a_stream_reports_what_was_ready_before_it_was_attached(rig: &mut Rig) {
    for family in rig.families() {
        let (fd, peer) = rig.world().pair(*family);
        rig.world().write(peer, b"early").expect("room");
        // TCP delivers a little later.
        let read = rig.watch(fd, Interest::READ);
        rig.until_seen(read, Interest::READ);
        rig.forget(read);
        let stream = rig.attach(fd, peer);
        rig.until_seen(stream.token, Interest::READ);
        rig.settle();
        rig.rearm(stream.token, Interest::WRITE);
        rig.until_seen(stream.token, Interest::WRITE);
    }
}

/// C6: after the stream was found empty and rearmed, what comes next is reported. Many times.
pub fn a_rearmed_stream_reports_what_comes_later(rig: &mut Rig) {
    for family in rig.families() {
        let stream = rig.stream_of(*family);
        for round in 0..20 {
            empty(rig, stream);
            rig.settle();
            rig.world().write(stream.peer, &pattern(round, 10)).expect("room");
            rig.until_seen(stream.token, Interest::READ);
        }
    }
}

/// C6: bytes that come between the last read and `rearm` are reported.
pub fn a_rearmed_stream_reports_what_came_meanwhile(rig: &mut Rig) {
    for family in rig.families() {
        let stream = rig.stream_of(*family);
        let filled = pattern(0, 10);
        for round in 0..20 {
            rig.settle();
            assert_eq!(rig.drain(stream.fd, 1 << 16).len(), if round == 0 { 0 } else { 10 });
            rig.world().write(stream.peer, &filled).expect("room");
            rig.rearm(stream.token, Interest::READ);
            rig.until_seen(stream.token, Interest::READ);
        }
    }
}

/// C6: after the stream was found full and rearmed, room is reported.
pub fn a_rearmed_stream_reports_that_it_has_room(rig: &mut Rig) {
    for family in rig.families() {
        let stream = rig.stream_of(*family);
        for _ in 0..3 {
            rig.fill(stream);
            rig.rearm(stream.token, Interest::WRITE);
            rig.until("C6: room to write", |rig| {
                rig.drain(stream.peer, 1 << 20);
                rig.seen(stream.token).contains(Interest::WRITE)
            });
        }
    }
}

/// C6: only what ends a stream, or a read, is reported as `CLOSED`. Whoever is told so reads once more in vain.
pub fn bytes_alone_are_not_reported_as_an_end(rig: &mut Rig) {
    for family in rig.families() {
        let stream = rig.stream_of(*family);
        for round in 0..5 {
            rig.settle();
            rig.world().write(stream.peer, &pattern(round, 10)).expect("room");
            rig.until_seen(stream.token, Interest::READ);
            rig.settle();
            assert!(!rig.seen(stream.token).contains(Interest::CLOSED), "C6: bytes were reported as an end");
            empty(rig, stream);
        }
    }
}

/// C6: a peer that sends no more may still read; room to write is reported to whoever waits for it meanwhile.
pub fn a_half_closed_stream_still_reports_room(rig: &mut Rig) {
    for family in rig.families() {
        for drained in [false, true] {
            let stream = rig.stream_of(*family);
            rig.settle();
            rig.fill(stream);
            rig.rearm(stream.token, Interest::WRITE);
            rig.settle();
            rig.world().write(stream.peer, b"last words").expect("room");
            rig.world().shutdown_write(stream.peer).expect("an open fd");
            rig.until_seen(stream.token, Interest::READ);
            if drained {
                rig.drain(stream.fd, 1000);
            }
            rig.settle();
            rig.until("C6: room to write", |rig| {
                rig.drain(stream.peer, 1 << 20);
                rig.seen(stream.token).contains(Interest::WRITE)
            });
            rig.send_all(stream, b"still writing");
            rig.forget(stream.token);
        }
    }
}

/// C6: a reader that goes on after `CLOSED` until it gets nothing, and rearms after a short read otherwise, comes to
/// the end of the stream; whether the end came with the bytes, before `attach` or later.
pub fn a_stream_is_read_to_its_end(rig: &mut Rig) {
    for family in rig.families() {
        for end in [End::BeforeAttach, End::WithBytes, End::Later] {
            for close in [false, true] {
                read_to_the_end(rig, *family, end, close);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    BeforeAttach,
    WithBytes,
    Later,
}

fn read_to_the_end(rig: &mut Rig, family: Family, end: End, close: bool) {
    let (fd, peer) = rig.world().pair(family);
    let finish = |rig: &mut Rig| {
        if close { rig.world().close(peer) } else { rig.world().shutdown_write(peer) }.expect("an open fd");
    };
    let attached = (end != End::BeforeAttach).then(|| rig.attach(fd, peer));
    rig.settle();
    rig.world().write(peer, b"the last bytes").expect("room");
    if end != End::Later {
        finish(rig);
    }
    let stream = attached.unwrap_or_else(|| rig.attach(fd, peer));
    let mut received = Vec::new();
    let mut finished = end != End::Later;
    loop {
        rig.until_seen(stream.token, Interest::READ);
        let closed = rig.seen(stream.token).contains(Interest::CLOSED);
        match rig.world().read(fd, 1000) {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => received.extend(bytes),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        if !closed {
            rig.rearm(stream.token, Interest::READ);
        }
        if !finished {
            finished = true;
            rig.settle();
            finish(rig);
        }
    }
    assert_eq!(received, b"the last bytes");
    rig.forget(stream.token);
}

/// C6: a stream that the peer has reset is reported in both directions, as `selectors` of Python does.
pub fn a_reset_stream_is_ready_both_ways(rig: &mut Rig) {
    for family in rig.families() {
        let stream = rig.stream_of(*family);
        rig.send_all(stream, b"never read");
        rig.settle();
        empty(rig, stream);
        rig.rearm(stream.token, Interest::BOTH);
        // Bytes unread at close make a reset of it.
        rig.until("the bytes", |rig| {
            let waiting = rig.world().read(stream.peer, 1);
            rig.poll(Wait::Now);
            waiting.is_ok()
        });
        rig.unsee(stream.token);
        rig.world().close(stream.peer).expect("an open fd");
        rig.until_seen(stream.token, Interest::BOTH);
    }
}

/// Reads all there is, and rearms.
fn empty(rig: &mut Rig, stream: Stream) {
    rig.drain(stream.fd, 1 << 16);
    rig.rearm(stream.token, Interest::READ);
}
