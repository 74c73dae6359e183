//! Backends that change threads, as a loop does that is made in one and run in another.

#![forbid(unsafe_code)]

use std::thread;
use std::time::Duration;

use zloop_backends::{Event, Events, Interest, Sent, Wait};

use crate::rig::{Rig, pattern};

/// C15: what was registered in one thread is reported in another, and back.
pub fn a_backend_works_in_the_thread_that_binds_it(rig: &mut Rig) {
    let stream = rig.stream();
    let (fd, peer) = rig.pair();
    let watch = rig.watch(fd, Interest::READ);
    rig.settle();
    for round in 0..4 {
        rig.drain(stream.fd, 1000);
        rig.rearm(stream.token, Interest::READ);
        rig.drain(fd, 1000);
        rig.settle();
        rig.unsee(watch);
        rig.world().write(stream.peer, b"x").expect("room");
        rig.world().write(peer, b"x").expect("room");
        let elsewhere = poll_elsewhere(rig, 3);
        rig.take_note(&elsewhere);
        assert!(rig.seen(stream.token).contains(Interest::READ), "C15: a stream was left behind in round {round}");
        assert!(rig.seen(watch).contains(Interest::READ), "C15: a watch was left behind in round {round}");
        rig.unsee(watch);
        rig.until_seen(watch, Interest::READ);
        rig.waker().wake();
        rig.poll(Wait::Forever);
        rig.send_all(stream, b"back again");
        assert_eq!(rig.drain(stream.peer, 100), b"back again");
    }
}

/// C15: sends that are in flight when the thread changes still end, whole and once.
pub fn sends_in_flight_go_along(rig: &mut Rig) {
    let streams: Vec<_> = (0..4).map(|_| rig.stream()).collect();
    let mut filled = Vec::new();
    for (index, stream) in streams.iter().enumerate() {
        filled.push(if index % 2 == 0 { rig.fill(*stream) } else { Vec::new() });
    }
    rig.gather();
    let bytes = pattern(4, 4000);
    let answers: Vec<_> = streams.iter().map(|stream| rig.send(*stream, &bytes).expect("the peer lives")).collect();
    let elsewhere = poll_elsewhere(rig, 1);
    rig.take_note(&elsewhere);
    for ((stream, answer), mut expected) in streams.iter().zip(answers).zip(filled) {
        let mut received = rig.drain(stream.peer, 1 << 20);
        let sent = match answer {
            Sent::Done(count) => count,
            Sent::Blocked => 0,
            Sent::Pending => {
                rig.until("C15: the end of the send", |rig| rig.result(stream.token).is_some());
                rig.result(stream.token).and_then(|result| usize::try_from(result).ok()).expect("the peer lives")
            }
        };
        expected.extend(&bytes[..sent]);
        received.extend(rig.drain(stream.peer, 1 << 20));
        assert!(received == expected, "C15: {} bytes arrived, {} left", received.len(), expected.len());
    }
}

/// C15: who waits for room, and has not been polled for since, still waits for it in another thread.
pub fn a_wait_for_room_goes_along(rig: &mut Rig) {
    for times in 0..2 {
        let stream = rig.stream();
        rig.settle();
        let filled = rig.fill(stream);
        rig.rearm(stream.token, Interest::WRITE);
        let elsewhere = poll_elsewhere(rig, times);
        rig.take_note(&elsewhere);
        assert_eq!(rig.drain(stream.peer, 1 << 28).len(), filled.len());
        rig.until("C15: room", |rig| rig.seen(stream.token).contains(Interest::WRITE));
    }
}

/// Binds the backend in another thread, polls a few times there, and binds it here again.
fn poll_elsewhere(rig: &mut Rig, times: usize) -> Vec<Event> {
    let mut backend = rig.take_backend();
    let (backend, events) = thread::scope(|scope| {
        let visit = scope.spawn(move || {
            backend.bind().expect("a backend that this thread can poll");
            let mut list = Events::with_limit(64);
            let mut events = Vec::new();
            for _ in 0..times {
                backend.poll(Wait::For(Duration::from_millis(2)), &mut list).expect("a poll");
                events.extend(list.drain());
            }
            (backend, events)
        });
        visit.join().expect("a thread that polls")
    });
    rig.put_backend(backend);
    rig.backend().bind().expect("a backend that this thread can poll");
    events
}
