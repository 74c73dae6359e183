//! Watches: the fds of `add_reader` and `add_writer`.

#![forbid(unsafe_code)]

use std::time::Duration;

use zloop_backends::{Interest, Wait};

use crate::rig::{PATIENCE, Rig};
use crate::world::Deed;

/// C6: as long as something is left to read, every poll says so.
pub fn a_watch_reports_while_there_is_something_to_read(rig: &mut Rig) {
    for family in rig.families() {
        let (fd, peer) = rig.world().pair(*family);
        let token = rig.watch(fd, Interest::READ);
        rig.world().write(peer, b"four").expect("room");
        for _ in 0..4 {
            rig.until_seen(token, Interest::READ);
            rig.unsee(token);
            rig.poll(Wait::Now);
            assert!(rig.seen(token).contains(Interest::READ), "C6: unread bytes are not reported again");
            rig.unsee(token);
            assert_eq!(rig.world().read(fd, 1).expect("a byte").len(), 1);
        }
        rig.backend().watch(fd, token, Interest::NONE).expect("a watch can be removed");
    }
}

/// C6: as long as there is room, every poll says so; without room none does, until there is some again.
pub fn a_watch_reports_while_there_is_room_to_write(rig: &mut Rig) {
    let (fd, peer) = rig.pair();
    let token = rig.watch(fd, Interest::WRITE);
    for _ in 0..3 {
        rig.unsee(token);
        rig.until_seen(token, Interest::WRITE);
    }
    while rig.world().write(fd, &[1; 10_000]).is_ok() {}
    rig.settle();
    rig.unsee(token);
    rig.drain(peer, 1 << 20);
    rig.until_seen(token, Interest::WRITE);
}

/// C6: one poll reports a watch once, whatever was done since the last: a callback may block where nothing is to be read.
pub fn one_poll_reports_a_watch_once(rig: &mut Rig) {
    let (fd, peer) = rig.pair();
    let token = rig.watch(fd, Interest::READ);
    for _ in 0..3 {
        let (other, _) = rig.pair();
        let other = rig.watch(other, Interest::READ);
        rig.settle();
        rig.world().write(peer, b"x").expect("room");
        rig.forget(other);
        for _ in 0..3 {
            let reports = rig.poll(Wait::For(PATIENCE)).iter().filter(|event| event.token == token).count();
            assert_eq!(reports, 1, "C6: so many reports of what is ready, by one poll");
        }
        rig.drain(fd, 10);
    }
}

/// C6: what was ready after one poll and is not any more before the next is not reported.
pub fn what_was_over_before_a_poll_is_not_reported(rig: &mut Rig) {
    let (fd, peer) = rig.pair();
    let token = rig.watch(fd, Interest::READ);
    for round in 0..6 {
        let (other, _) = rig.pair();
        let other = rig.watch(other, Interest::READ);
        rig.settle();
        rig.unsee(token);
        rig.world().write(peer, b"x").expect("room");
        if round % 2 == 0 {
            rig.forget(other);
        }
        assert_eq!(rig.drain(fd, 10), b"x");
        rig.settle();
        assert!(rig.seen(token).is_empty(), "C6: a report of what was read before the poll");
        rig.world().write(peer, b"x").expect("room");
        rig.until_seen(token, Interest::READ);
        rig.drain(fd, 10);
    }
}

/// C6: what comes during the wait is reported, though what came before was over, and the turn's sends met full streams.
pub fn what_comes_after_something_that_was_over_is_reported(rig: &mut Rig) {
    let streams = [rig.stream(), rig.stream()];
    for stream in streams {
        rig.fill(stream);
    }
    let (fd, peer) = rig.pair();
    let token = rig.watch(fd, Interest::READ);
    rig.settle();
    rig.world().write(peer, b"x").expect("room");
    assert_eq!(rig.drain(fd, 10), b"x");
    rig.gather();
    for stream in streams {
        let _ = rig.send(stream, b"there is no room").expect("the peer lives");
    }
    rig.unsee(token);
    rig.later(Duration::from_millis(10), Deed::Write(peer, b"x".to_vec()));
    let deadline = rig.world().now() + Duration::from_secs(1);
    while rig.seen(token).is_empty() {
        let now = rig.world().now();
        assert!(now < deadline, "C6: what came during the wait was not reported");
        rig.poll(Wait::For(deadline - now));
    }
}

/// C6: a second call replaces the first, and no interest ends the watch.
pub fn a_changed_watch_reports_what_it_now_waits_for(rig: &mut Rig) {
    let (fd, peer) = rig.pair();
    rig.world().write(peer, b"unread").expect("room");
    let token = rig.watch(fd, Interest::READ);
    rig.until_seen(token, Interest::READ);
    for interest in [Interest::WRITE, Interest::BOTH, Interest::READ] {
        rig.backend().watch(fd, token, interest).expect("a watch can be changed");
        rig.settle();
        rig.unsee(token);
        rig.until_seen(token, interest);
    }
    rig.backend().watch(fd, token, Interest::NONE).expect("a watch can be removed");
    // The rig fails at a report of a token that it does not know.
    rig.forget(token);
    rig.settle();
}

/// C6: the end of the stream is something to read, at every poll, whatever else was waited for.
pub fn a_closed_peer_is_readable(rig: &mut Rig) {
    for family in rig.families() {
        for interest in [Interest::READ, Interest::BOTH] {
            let (fd, peer) = rig.world().pair(*family);
            let token = rig.watch(fd, interest);
            rig.settle();
            rig.unsee(token);
            rig.world().close(peer).expect("an open fd");
            for _ in 0..3 {
                rig.until_seen(token, Interest::READ);
                rig.unsee(token);
            }
            rig.forget(token);
        }
    }
}

/// C6: a few hundred watches are reported as one is.
pub fn many_watches_are_all_reported(rig: &mut Rig) {
    let pairs: Vec<_> = (0..200).map(|_| rig.pair()).collect();
    let tokens: Vec<_> = pairs.iter().map(|(fd, _)| rig.watch(*fd, Interest::READ)).collect();
    for (_, peer) in &pairs {
        rig.world().write(*peer, b"x").expect("room");
    }
    for token in tokens {
        rig.until_seen(token, Interest::READ);
    }
}

/// C6: what cannot be waited for is refused as epoll refuses it.
pub fn what_cannot_be_watched_is_refused(rig: &mut Rig) {
    rig.be_alone();
    let token = rig.token();
    let (fd, peer) = rig.pair();
    rig.world().close(fd).expect("an open fd");
    let closed = rig.backend().watch(fd, token, Interest::READ);
    assert_eq!(closed.expect_err("C6: a closed fd").raw_os_error(), Some(libc::EBADF));
    let negative = rig.backend().watch(-1, token, Interest::READ);
    assert_eq!(negative.expect_err("C6: no fd").raw_os_error(), Some(libc::EBADF));
    if let Some(regular) = rig.world().regular_file() {
        let refused = rig.backend().watch(regular, token, Interest::READ);
        assert_eq!(refused.expect_err("C6: a regular file").raw_os_error(), Some(libc::EPERM));
    }
    // The token is as good as before.
    rig.world().write(peer, b"x").expect_err("the other end is closed");
    let (fd, peer) = rig.pair();
    rig.backend().watch(fd, token, Interest::READ).expect("a stream can be watched");
    rig.world().write(peer, b"x").expect("room");
    rig.until_seen(token, Interest::READ);
}

/// C6: a file that was closed without being forgotten spoils nothing for the others.
pub fn a_file_that_was_closed_spoils_nothing_for_the_others(rig: &mut Rig) {
    let (lost, _peer) = rig.pair();
    rig.watch(lost, Interest::READ);
    let (fd, peer) = rig.pair();
    let token = rig.watch(fd, Interest::READ);
    rig.world().close(lost).expect("an open fd");
    rig.settle();
    rig.world().write(peer, b"x").expect("room");
    rig.until_seen(token, Interest::READ);
}

/// C6: a watch for one report reports what is there, and can be asked again, for the same or for something else.
pub fn a_watch_for_one_report_reports_what_is_there(rig: &mut Rig) {
    for family in rig.families() {
        let (fd, peer) = rig.world().pair(*family);
        rig.world().write(peer, b"unread").expect("room");
        for _ in 0..2 {
            let token = rig.token();
            for interest in [Interest::READ, Interest::WRITE, Interest::READ] {
                rig.backend().watch_once(fd, token, interest).expect("a stream can be watched");
                rig.until_seen(token, interest);
                rig.settle();
                rig.unsee(token);
            }
            rig.forget(token);
        }
    }
}

/// C6: a watch for one report reports what comes later, each time that it is made.
pub fn a_watch_for_one_report_reports_what_comes(rig: &mut Rig) {
    for family in rig.families() {
        let (fd, peer) = rig.world().pair(*family);
        for _ in 0..3 {
            let token = rig.token();
            rig.backend().watch_once(fd, token, Interest::READ).expect("a stream can be watched");
            rig.world().write(peer, b"x").expect("room");
            rig.until_seen(token, Interest::READ);
            assert_eq!(rig.drain(fd, 1), b"x");
            rig.forget(token);
        }
    }
}

/// C6: a watch for one report that was given up before it came is over, and so is one that was reported.
pub fn a_watch_for_one_report_can_be_given_up(rig: &mut Rig) {
    let (fd, peer) = rig.pair();
    let given_up = rig.token();
    rig.backend().watch_once(fd, given_up, Interest::READ).expect("a stream can be watched");
    rig.settle();
    // The rig fails at a report of a token that was forgotten.
    rig.forget(given_up);
    rig.world().write(peer, b"x").expect("room");
    rig.settle();
    let reported = rig.token();
    rig.backend().watch_once(fd, reported, Interest::READ).expect("a stream can be watched");
    rig.until_seen(reported, Interest::READ);
    rig.forget(reported);
    rig.settle();
    // Any other way to use the fd is as good as on a new one.
    let token = rig.watch(fd, Interest::READ);
    rig.until_seen(token, Interest::READ);
    rig.forget(token);
    let stream = rig.attach(fd, peer);
    rig.until_seen(stream.token, Interest::READ);
}

/// C6: a number that was closed and given to another file is watched for one report like a new one.
pub fn a_reused_number_is_watched_for_one_report(rig: &mut Rig) {
    let (fd, peer) = rig.pair();
    let first = rig.token();
    rig.backend().watch_once(fd, first, Interest::WRITE).expect("a stream can be watched");
    rig.until_seen(first, Interest::WRITE);
    rig.forget(first);
    rig.world().close(fd).expect("an open fd");
    rig.world().close(peer).expect("an open fd");
    for _ in 0..2 {
        let (fd, peer) = rig.pair();
        let token = rig.token();
        rig.backend().watch_once(fd, token, Interest::READ).expect("a stream can be watched");
        rig.world().write(peer, b"x").expect("room");
        rig.until_seen(token, Interest::READ);
        rig.forget(token);
    }
}
