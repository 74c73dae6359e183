//! How long waits last.

#![forbid(unsafe_code)]

use std::time::Duration;

use zloop_backends::{Interest, Wait};

use crate::rig::{PATIENCE, Rig};
use crate::world::Deed;

/// C9: a wait lasts at least as long as asked for, fractions of a millisecond included, and ends without events.
pub fn a_wait_is_never_early(rig: &mut Rig) {
    for nanos in [0, 1, 40_000, 300_000, 999_999, 1_000_001, 1_500_000, 12_345_678] {
        let wanted = Duration::from_nanos(nanos);
        for _ in 0..3 {
            let before = rig.world().now();
            let events = rig.poll(Wait::For(wanted));
            let took = rig.world().now() - before;
            assert!(events.is_empty(), "nobody was attached");
            assert!(took >= wanted, "C9: a wait of {wanted:?} ended after {took:?}");
            assert!(took < wanted + PATIENCE, "C9: a wait of {wanted:?} ended after {took:?}");
        }
    }
}

/// C9: `Now` does not wait.
pub fn a_wait_of_nothing_is_over_at_once(rig: &mut Rig) {
    let before = rig.world().now();
    for _ in 0..100 {
        assert!(rig.poll(Wait::Now).is_empty());
    }
    assert!(rig.world().now() - before < PATIENCE);
}

/// C9: a wait for ever, or for very long, ends when something happens, and not before.
pub fn a_wait_for_ever_lasts_until_something_happens(rig: &mut Rig) {
    let (fd, peer) = rig.pair();
    let token = rig.watch(fd, Interest::READ);
    let pause = Duration::from_millis(15);
    for wait in [Wait::Forever, Wait::For(Duration::MAX), Wait::For(Duration::from_secs(86_400 * 365))] {
        let before = rig.world().now();
        rig.later(pause, Deed::Write(peer, b"x".to_vec()));
        rig.poll(wait);
        assert!(rig.seen(token).contains(Interest::READ), "C9: the wait ended without a reason");
        assert!(rig.world().now() - before >= pause, "C9: the wait ended before anything happened");
        rig.drain(fd, 10);
        rig.unsee(token);
    }
}

/// C9: a watch for room to write sleeps though the peer sends no more, wakes when there is room, and sleeps again.
pub fn a_half_closed_peer_keeps_no_writer_busy(rig: &mut Rig) {
    for family in rig.families() {
        let (fd, peer) = rig.world().pair(*family);
        let token = rig.watch(fd, Interest::WRITE);
        rig.settle();
        rig.world().shutdown_write(peer).expect("an open fd");
        for _ in 0..2 {
            // The peer's kernel may still move bytes, and so make room.
            let full = (0..200).any(|_| rig.world().write(fd, &[1; 100_000]).is_err() && sleeps(rig));
            assert!(full, "C9: a full stream is reported again and again");
            rig.unsee(token);
            rig.until("C6: room to write", |rig| {
                rig.drain(peer, 1 << 20);
                rig.seen(token).contains(Interest::WRITE)
            });
            for _ in 0..3 {
                rig.unsee(token);
                rig.until_seen(token, Interest::WRITE);
            }
        }
        rig.forget(token);
    }
}

/// Whether a few waits in a row last about as long as they should; one may end early because something moved inside.
fn sleeps(rig: &mut Rig) -> bool {
    let pause = Duration::from_millis(4);
    let before = rig.world().now();
    let quiet = (0..10).all(|_| rig.poll(Wait::For(pause)).is_empty());
    let took = rig.world().now() - before;
    assert!(!quiet || took >= 5 * pause, "C9: ten waits of {pause:?} with nothing to report took {took:?}");
    quiet
}

/// C9: a stream that was reported and is left alone (nothing was read, nothing is rearmed) does not keep a loop busy.
pub fn what_was_reported_does_not_cut_the_next_wait_short(rig: &mut Rig) {
    for family in rig.families() {
        let stream = rig.stream_of(*family);
        rig.world().write(stream.peer, b"left for later").expect("room");
        rig.rearm(stream.token, Interest::WRITE);
        rig.until_seen(stream.token, Interest::BOTH);
        rig.settle();
        let pause = Duration::from_millis(10);
        let before = rig.world().now();
        let events = rig.poll(Wait::For(pause));
        assert!(rig.world().now() - before >= pause, "C9: woken for {events:?}, which was known");
    }
}
