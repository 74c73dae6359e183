//! What the conformance suite cannot see: what the kernel keeps, and what happens beyond the ring's capacity.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};

use super::*;
use crate::fork::CHILDREN;

/// A ring, or a line that says why there is none. (Past the test harness, which swallows what passing tests print.)
fn opened() -> Option<Uring> {
    let opened = Uring::open();
    if let Err(error) = &opened {
        let _ = writeln!(std::io::stderr(), "skipped: no io_uring: {}", probe::reason(error));
    }
    opened.ok()
}

/// How many polls the kernel keeps for this ring, and how many completions it could not deliver.
fn kept(uring: &Uring) -> (usize, usize) {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", uring.ring.as_raw_fd())).unwrap();
    let after = |title: &str| info.split(title).nth(1).unwrap_or_default().to_owned();
    let polls = after("PollList:").lines().skip(1).take_while(|line| line.trim().starts_with("op=")).count();
    let lost =
        after("CqOverflowList:").lines().skip(1).take_while(|line| line.trim().starts_with("user_data=")).count();
    (polls, lost)
}

/// Sends that are kept together, however short the turn.
const MANY: usize = 64;

fn settle(uring: &mut Uring) -> Vec<Event> {
    let mut events = Events::with_limit(4096);
    let mut all = Vec::new();
    for _ in 0..3 {
        uring.poll(Wait::Now, &mut events).unwrap();
        all.extend(events.drain());
    }
    all
}

#[test]
fn the_kernel_keeps_few_polls_for_each_file_and_none_for_the_forgotten() {
    let Some(mut uring) = opened() else { return };
    let pairs: Vec<_> = (0..20).map(|_| UnixStream::pair().unwrap()).collect();
    for _ in 0..50 {
        for (slot, (ours, theirs)) in pairs.iter().enumerate() {
            let token = Token::new(slot as u32, 0);
            match slot % 2 {
                0 => uring.attach(ours.as_raw_fd(), token).unwrap(),
                _ => uring.watch(ours.as_raw_fd(), token, Interest::READ).unwrap(),
            }
            uring.rearm(token, Interest::WRITE).unwrap();
            (&*theirs).write_all(b"x").unwrap();
        }
        settle(&mut uring);
        for (ours, _) in &pairs {
            (&*ours).read_exact(&mut [0]).unwrap();
        }
        settle(&mut uring);
        // One for each watch, two for each stream that was full once, and the doorbell's.
        assert_eq!(kept(&uring), (pairs.len() / 2 * 3 + 1, 0));
        for (slot, (_, theirs)) in pairs.iter().enumerate() {
            // A poll that has something to report ends as well as any.
            (&*theirs).write_all(b"x").unwrap();
            uring.forget(Token::new(slot as u32, 0));
        }
        assert_eq!(kept(&uring), (1, 0), "the doorbell's alone");
        for (ours, _) in &pairs {
            (&*ours).read_exact(&mut [0]).unwrap();
        }
    }
}

#[test]
fn a_hundred_thousand_sends_beside_a_far_deadline_leave_nothing_behind() {
    let Some(mut uring) = opened() else { return };
    let pairs: Vec<_> = (0..4).map(|_| UnixStream::pair().unwrap()).collect();
    for (slot, (ours, theirs)) in pairs.iter().enumerate() {
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        uring.attach(ours.as_raw_fd(), Token::new(slot as u32, 0)).unwrap();
    }
    let mut events = Events::with_limit(64);
    for _ in 0..25_000 {
        uring.gather(MANY);
        for slot in 0..pairs.len() {
            // SAFETY: a literal lives for ever.
            let sent = unsafe { uring.send(Token::new(slot as u32, 0), &[IoSlice::new(b"ping")]) };
            assert_eq!(sent.unwrap(), Sent::Pending);
        }
        while uring.in_flight() > 0 {
            uring.poll(Wait::For(Duration::from_secs(3600)), &mut events).unwrap();
            events.clear();
        }
        for (_, theirs) in &pairs {
            (&*theirs).read_exact(&mut [0; 4]).unwrap();
        }
    }
    assert_eq!(kept(&uring), (pairs.len() + 1, 0));
    assert!(uring.flights.is_empty() && uring.queued.is_empty() && uring.to_arm.is_empty());
    assert!(uring.backlog.capacity() < 64 && uring.to_arm.capacity() < 64, "a list has grown");
}

#[test]
fn more_sends_than_the_queue_has_room_for_all_leave() {
    let Some(mut uring) = opened() else { return };
    let pairs: Vec<_> = (0..700).map(|_| UnixStream::pair().unwrap()).collect();
    for (slot, (ours, _)) in pairs.iter().enumerate() {
        ours.set_nonblocking(true).unwrap();
        uring.attach(ours.as_raw_fd(), Token::new(slot as u32, 0)).unwrap();
    }
    uring.gather(MANY);
    for slot in 0..pairs.len() {
        // SAFETY: a literal lives for ever.
        let sent = unsafe { uring.send(Token::new(slot as u32, 0), &[IoSlice::new(b"pi"), IoSlice::new(b"ng")]) };
        assert_eq!(sent.unwrap(), Sent::Pending);
    }
    let ended = settle(&mut uring).into_iter().filter(|event| event.what == What::Sent(4)).count();
    assert_eq!(ended, pairs.len());
    for (_, theirs) in &pairs {
        let mut bytes = [0; 4];
        (&*theirs).read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ping");
    }
}

#[test]
fn more_completions_than_fit_are_delivered_all_the_same() {
    let Some(mut uring) = opened() else { return };
    // Every ring of a doorbell that nobody reads is a completion.
    let doorbell = nix::sys::eventfd::EventFd::new().unwrap();
    uring.attach(doorbell.as_raw_fd(), Token::new(0, 0)).unwrap();
    settle(&mut uring);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    uring.attach(ours.as_raw_fd(), Token::new(1, 0)).unwrap();
    settle(&mut uring);
    let mut seen = 0;
    for round in 0..5000 {
        doorbell.write(1).unwrap();
        // Runs the kernel's deferred work, and takes nothing.
        uring.ring.enter(Wait::Now).unwrap();
        if round == 4500 {
            theirs.write_all(b"x").unwrap();
        }
    }
    for _ in 0..10 {
        seen += settle(&mut uring).iter().filter(|event| event.token == Token::new(1, 0)).count();
    }
    assert!(seen > 0, "what overflowed is lost");
    assert_eq!(kept(&uring), (3, 0), "an overflow has ended a poll for good");
}

#[test]
fn fifty_rings_fit_into_the_limits_of_a_process() {
    let Some(first) = opened() else { return };
    let mut rings: Vec<_> = (1..50).map(|_| Uring::open().unwrap()).chain([first]).collect();
    let mut events = Events::with_limit(8);
    for uring in &mut rings {
        uring.waker().wake();
        uring.poll(Wait::Forever, &mut events).unwrap();
    }
}

#[test]
fn a_peer_that_resets_before_the_handover_is_seen_as_reset() {
    let _no_children = CHILDREN.read();
    let Some(mut uring) = opened() else { return };
    let pairs: Vec<_> = (0..2).map(|_| UnixStream::pair().unwrap()).collect();
    for (slot, (ours, _)) in pairs.iter().enumerate() {
        uring.attach(ours.as_raw_fd(), Token::new(slot as u32, 0)).unwrap();
        (&*ours).write_all(b"never read").unwrap();
    }
    settle(&mut uring);
    uring.gather(MANY);
    for slot in 0..pairs.len() {
        // SAFETY: a literal lives for ever.
        let sent = unsafe { uring.send(Token::new(slot as u32, 0), &[IoSlice::new(b"late")]) };
        assert_eq!(sent.unwrap(), Sent::Pending);
    }
    let ours: Vec<_> = pairs.into_iter().map(|(ours, _theirs)| ours).collect();
    let ends: Vec<_> = settle(&mut uring).into_iter().filter(|event| matches!(event.what, What::Sent(_))).collect();
    assert_eq!(ends.iter().map(|end| end.what).collect::<Vec<_>>(), [What::Sent(-libc::ECONNRESET); 2]);
    drop(ours);
}

#[test]
fn a_child_that_goes_on_with_what_it_inherited_disturbs_nothing() {
    let _alone = CHILDREN.write();
    let Some(mut uring) = opened() else { return };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (token, other) = (Token::new(0, 0), Token::new(1, 0));
    uring.attach(ours.as_raw_fd(), token).unwrap();
    settle(&mut uring);
    let seen = |events: Vec<Event>, token| events.iter().any(|event| event.token == token);
    // SAFETY: the child uses the allocator, which survives a fork, and ends without running anything else of ours.
    let child = unsafe { libc::fork() };
    if child == 0 {
        uring.forget(token);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        uring.attach(ours.as_raw_fd(), other).unwrap();
        theirs.write_all(b"x").unwrap();
        let fine = seen(settle(&mut uring), other);
        drop(uring);
        // SAFETY: ends the process.
        unsafe { libc::_exit(if fine { 7 } else { 8 }) };
    }
    let mut status = 0;
    // SAFETY: the status has a place.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "the child has come to no good end");
    (&theirs).write_all(b"x").unwrap();
    assert!(seen(settle(&mut uring), token), "the child has ended a poll of its parent");
    assert_eq!(kept(&uring), (2, 0));
}

#[test]
fn a_tiny_ring_loses_neither_reports_nor_the_ends_of_sends() {
    let _no_children = CHILDREN.read();
    if opened().is_none() {
        return;
    }
    let mut uring = Uring::on(Ring::with_room(4, 4).unwrap()).unwrap();
    uring.ring.enable().unwrap();
    let mut pairs: Vec<_> =
        (0..300).map(|_| UnixStream::pair().unwrap()).map(|(ours, theirs)| (ours, Some(theirs))).collect();
    for (slot, (ours, _)) in pairs.iter().enumerate() {
        ours.set_nonblocking(true).unwrap();
        uring.attach(ours.as_raw_fd(), Token::new(slot as u32, 0)).unwrap();
    }
    settle(&mut uring);
    uring.gather(MANY);
    for (slot, (_, theirs)) in pairs.iter_mut().enumerate() {
        // SAFETY: a literal lives for ever.
        let sent = unsafe { uring.send(Token::new(slot as u32, 0), &[IoSlice::new(b"ping")]) };
        assert_eq!(sent.unwrap(), Sent::Pending);
        match slot % 3 {
            0 => drop(theirs.take()),
            _ => theirs.as_mut().unwrap().write_all(b"x").unwrap(),
        }
    }
    let events: Vec<_> = (0..200).flat_map(|_| settle(&mut uring)).collect();
    for (slot, (_, theirs)) in pairs.iter().enumerate() {
        let mine = || events.iter().filter(|event| event.token.slot() == slot as u32).map(|event| event.what);
        let ends: Vec<_> = mine().filter(|what| matches!(what, What::Sent(_))).collect();
        assert!(mine().any(|what| matches!(what, What::Ready(ready) if ready.contains(Interest::READ))), "{slot}");
        match theirs {
            Some(_) => assert_eq!(ends, [What::Sent(4)], "{slot}"),
            None => assert_eq!(ends, [What::Sent(-libc::EPIPE)], "{slot}: a failure that overflowed"),
        }
    }
    assert_eq!(uring.in_flight(), 0);
}

#[test]
fn a_failure_that_did_not_fit_is_no_success() {
    let _no_children = CHILDREN.read();
    let Some(mut uring) = opened() else { return };
    let ours: Vec<_> = (0..4).map(|_| UnixStream::pair().unwrap().0).collect();
    uring.gather(MANY);
    for (slot, ours) in ours.iter().enumerate() {
        ours.set_nonblocking(true).unwrap();
        uring.attach(ours.as_raw_fd(), Token::new(slot as u32, 0)).unwrap();
        // SAFETY: a literal lives for ever.
        let sent = unsafe { uring.send(Token::new(slot as u32, 0), &[IoSlice::new(b"anybody there?")]) };
        assert_eq!(sent.unwrap(), Sent::Pending);
    }
    let mut ends = Vec::new();
    let mut events = Events::with_limit(1);
    while uring.in_flight() > 0 {
        uring.poll(Wait::Now, &mut events).unwrap();
        ends.extend(events.drain().map(|event| event.what).filter(|what| matches!(what, What::Sent(_))));
    }
    assert_eq!(ends, [What::Sent(-libc::EPIPE); 4]);
}

#[test]
fn a_poll_that_found_no_room_is_not_taken_for_armed() {
    if opened().is_none() {
        return;
    }
    // A ring that is not enabled takes nothing, so its queue fills up.
    let mut uring = Uring::on(Ring::with_room(4, 4).unwrap()).unwrap();
    let pairs: Vec<_> = (0..10).map(|_| UnixStream::pair().unwrap()).collect();
    for (slot, (ours, theirs)) in pairs.iter().enumerate() {
        uring.watch(ours.as_raw_fd(), Token::new(slot as u32, 0), Interest::READ).unwrap();
        (&*theirs).write_all(b"x").unwrap();
    }
    uring.queue_requests().unwrap_err();
    uring.ring.enable().unwrap();
    let slots: std::collections::HashSet<_> = settle(&mut uring).iter().map(|event| event.token.slot()).collect();
    assert_eq!(slots.len(), pairs.len(), "some are never polled");
}

#[test]
fn a_tiny_ring_reports_every_watch_once_and_none_in_vain() {
    if opened().is_none() {
        return;
    }
    let mut uring = Uring::on(Ring::with_room(4, 4).unwrap()).unwrap();
    uring.ring.enable().unwrap();
    let pairs: Vec<_> = (0..300).map(|_| UnixStream::pair().unwrap()).collect();
    for (slot, (ours, _)) in pairs.iter().enumerate() {
        uring.watch(ours.as_raw_fd(), Token::new(slot as u32, 0), Interest::READ).unwrap();
    }
    assert!(settle(&mut uring).is_empty());
    for round in 0..4 {
        for (slot, (ours, theirs)) in pairs.iter().enumerate() {
            (&*theirs).write_all(b"x").unwrap();
            if slot % 3 == 0 {
                (&*ours).read_exact(&mut [0]).unwrap();
            }
        }
        if round % 2 == 0 {
            uring.ring.enter(Wait::Now).unwrap();
        }
        let mut seen = vec![0; pairs.len()];
        let mut events = Events::with_limit(4096);
        // What overflows comes a few at a time, but in turn.
        for poll in 1..=400 {
            uring.poll(Wait::Now, &mut events).unwrap();
            events.drain().for_each(|event| seen[event.token.slot() as usize] += 1);
            assert!(seen.iter().all(|reports| *reports <= poll), "reported twice by one poll: {seen:?}");
        }
        for (slot, (ours, _)) in pairs.iter().enumerate() {
            assert_eq!(seen[slot] > 0, slot % 3 != 0, "{slot}");
            if slot % 3 != 0 {
                (&*ours).read_exact(&mut [0]).unwrap();
            }
        }
        settle(&mut uring);
    }
}

#[test]
fn a_wake_is_heard_though_an_overflow_has_ended_the_doorbells_poll() {
    let _no_children = CHILDREN.read();
    if opened().is_none() {
        return;
    }
    let mut uring = Uring::on(Ring::with_room(8, 8).unwrap()).unwrap();
    uring.ring.enable().unwrap();
    let pairs: Vec<_> = (0..40).map(|_| UnixStream::pair().unwrap()).collect();
    for (slot, (ours, _)) in pairs.iter().enumerate() {
        ours.set_nonblocking(true).unwrap();
        while (&*ours).write(&[0; 1000]).is_ok() {}
        uring.attach(ours.as_raw_fd(), Token::new(slot as u32, 0)).unwrap();
    }
    settle(&mut uring);
    uring.gather(MANY);
    for slot in 0..pairs.len() {
        // SAFETY: a literal lives for ever.
        let sent = unsafe { uring.send(Token::new(slot as u32, 0), &[IoSlice::new(b"no room")]) };
        assert_eq!(sent.unwrap(), Sent::Pending);
    }
    // Somebody rings whom the wait before has not heard any more.
    uring.alarm.fall_asleep(Wait::Forever);
    uring.waker().wake();
    uring.alarm.awake();
    let (waker, began) = (uring.waker(), std::time::Instant::now());
    let caller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        waker.wake();
    });
    let mut events = Events::with_limit(64);
    while began.elapsed() < Duration::from_millis(50) {
        uring.poll(Wait::For(Duration::from_secs(5)), &mut events).unwrap();
        assert!(events.as_slice().is_empty(), "there is no room");
    }
    caller.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "the wake was lost");
}

#[test]
fn what_is_behind_urgent_data_is_reported_soon() {
    let Some(mut uring) = opened() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    let token = Token::new(0, 0);
    uring.attach(ours.as_raw_fd(), token).unwrap();
    let mut events = Events::with_limit(64);
    for round in 0..3 {
        (&theirs).write_all(b"abc").unwrap();
        send(theirs.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
        (&theirs).write_all(b"def").unwrap();
        let (mut received, began) = (Vec::<u8>::new(), std::time::Instant::now());
        while received.len() < 6 {
            uring.poll(Wait::For(Duration::from_secs(2)), &mut events).unwrap();
            for _ in events.drain().filter(|event| event.token == token) {
                let mut buffer = [0; 100];
                let count = (&ours).read(&mut buffer).unwrap_or(0);
                received.extend(&buffer[..count]);
            }
            assert!(began.elapsed() < Duration::from_secs(1), "{round}: {received:?}");
        }
        assert_eq!(received, b"abcdef", "{round}");
    }
}
