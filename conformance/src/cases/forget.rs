//! After `forget`.

#![forbid(unsafe_code)]

use zloop_backends::{Interest, Sent, Wait};

use crate::rig::Rig;

/// C7: what was ready and not yet reported is not reported after `forget`. (The rig knows which tokens are forgotten.)
pub fn nothing_is_reported_of_the_forgotten(rig: &mut Rig) {
    rig.limit(1);
    let streams: Vec<_> = (0..4).map(|_| rig.stream()).collect();
    let watches: Vec<_> = (0..4).map(|_| rig.pair()).collect();
    let tokens: Vec<_> = watches.iter().map(|(fd, _)| rig.watch(*fd, Interest::BOTH)).collect();
    for peer in streams.iter().map(|stream| stream.peer).chain(watches.iter().map(|(_, peer)| *peer)) {
        rig.world().write(peer, b"ready").expect("room");
    }
    rig.poll(Wait::Now);
    for token in streams.iter().map(|stream| stream.token).chain(tokens) {
        rig.forget(token);
        rig.settle();
    }
    rig.settle();
}

/// C7: a file that gets the number of a forgotten one is a new file, with a new token.
pub fn a_reused_number_is_a_new_file(rig: &mut Rig) {
    for family in rig.families() {
        let mut last = rig.stream_of(*family);
        for round in 0..10 {
            rig.world().write(last.peer, b"for the old one").expect("room");
            if round % 2 == 0 {
                rig.settle();
            }
            rig.forget(last.token);
            rig.world().close(last.fd).expect("an open fd");
            let new = rig.stream_of(*family);
            assert_eq!(rig.world().read(new.fd, 9).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
            rig.settle();
            assert!(!rig.seen(new.token).contains(Interest::READ), "C7: a report for the old file");
            rig.world().write(new.peer, b"for the new one").expect("room");
            rig.until_seen(new.token, Interest::READ);
            rig.drain(new.fd, 1000);
            last = new;
        }
    }
}

/// C7: a duplicate that outlives the forgotten fd does not report in its name.
pub fn a_duplicate_does_not_report_for_the_forgotten(rig: &mut Rig) {
    for watched in [false, true] {
        let (fd, peer) = rig.pair();
        let token = if watched { rig.watch(fd, Interest::READ) } else { rig.attach(fd, peer).token };
        rig.settle();
        let Some(_copy) = rig.world().duplicate(fd) else { return };
        rig.forget(token);
        rig.world().close(fd).expect("an open fd");
        rig.world().write(peer, b"read by the duplicate").expect("room");
        rig.settle();
    }
}

/// C7: once a stream is forgotten and closed, its peer reads the end, without another poll; also if the stream has
/// turned readable since the last one.
pub fn a_forgotten_stream_ends_when_it_is_closed(rig: &mut Rig) {
    for family in rig.families() {
        for (polled, stirred) in [(false, false), (true, false), (true, true)] {
            let stream = rig.stream_of(*family);
            if polled {
                rig.settle();
            }
            if stirred {
                rig.world().write(stream.peer, b"x").expect("room");
                // Unread bytes would make a reset of the end.
                while rig.drain(stream.fd, 10).is_empty() {}
            }
            rig.forget(stream.token);
            rig.world().close(stream.fd).expect("an open fd");
            // The end of a TCP stream takes its time; a kernel that still holds the file never sends it.
            let end = (0..1000).find_map(|_| {
                std::thread::sleep(std::time::Duration::from_micros(200));
                rig.world().read(stream.peer, 1).ok()
            });
            assert_eq!(end, Some(vec![]), "C7: the forgotten file is still open somewhere");
        }
    }
}

/// C7: the terminal event is the one thing that still comes, for the memory's sake; the bytes are whole or cut, never
/// wrong.
pub fn a_send_of_the_forgotten_still_ends(rig: &mut Rig) {
    let (stream, other) = (rig.stream(), rig.stream());
    let mut expected = rig.fill(stream);
    rig.gather();
    let bytes = crate::rig::pattern(9, 4000);
    let answer = rig.send(stream, &bytes).expect("the peer lives");
    let _ = rig.send(other, b"so that there are two");
    rig.settle();
    rig.forget(stream.token);
    rig.world().close(stream.fd).expect("an open fd");
    if answer == Sent::Pending {
        let left = rig.until_sent(stream.token);
        expected.extend(&bytes[..left.max(0) as usize]);
    }
    rig.settle();
    let received = rig.drain(stream.peer, 1 << 20);
    assert!(received == expected, "C7: {} bytes arrived, {} left", received.len(), expected.len());
}
