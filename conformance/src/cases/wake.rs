//! Wakers.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use zloop_backends::{Interest, Wait};

use crate::rig::Rig;
use crate::world::Deed;

/// C8: a wake that came before the wait ends it at once, from this thread or another.
pub fn a_wake_before_the_wait_ends_it(rig: &mut Rig) {
    let waker = rig.waker();
    waker.wake();
    rig.poll(Wait::Forever);
    let from_elsewhere = waker.clone();
    thread::spawn(move || from_elsewhere.wake()).join().expect("a thread that wakes");
    rig.poll(Wait::Forever);
}

/// C8: a wake that comes during the wait ends it.
pub fn a_wake_during_the_wait_ends_it(rig: &mut Rig) {
    let waker = rig.waker();
    for wait in [Wait::Forever, Wait::For(Duration::from_secs(600))] {
        let before = rig.world().now();
        rig.later(Duration::from_millis(10), Deed::Wake(waker.clone()));
        rig.poll(wait);
        let took = rig.world().now() - before;
        assert!(took >= Duration::from_millis(10), "C9: the wait ended before anybody called");
        assert!(took < Duration::from_secs(5), "C8: the wake did not end the wait");
    }
}

/// C8: a thousand wakes end one wait, not two.
pub fn many_wakes_end_one_wait(rig: &mut Rig) {
    let waker = rig.waker();
    for _ in 0..3 {
        for _ in 0..1000 {
            waker.wake();
        }
        rig.poll(Wait::Forever);
        let before = rig.world().now();
        let pause = Duration::from_millis(5);
        rig.poll(Wait::For(pause));
        assert!(rig.world().now() - before >= pause, "C8: calls that were heard end a second wait");
    }
}

/// C8: threads hand over thousands of items, each with a wake; all are found, though a wait may be about to begin.
pub fn no_wake_of_any_thread_is_lost(rig: &mut Rig) {
    const THREADS: usize = 3;
    const ITEMS: usize = 700;
    let inbox = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (waker, inbox) = (rig.waker(), Arc::clone(&inbox));
            thread::spawn(move || {
                for item in 0..ITEMS {
                    inbox.fetch_add(1, Ordering::Release);
                    waker.wake();
                    if item % 16 == 0 {
                        thread::sleep(Duration::from_micros(50));
                    }
                }
            })
        })
        .collect();
    // Reports that come along must not swallow a call.
    let (fd, peer) = rig.pair();
    let token = rig.watch(fd, Interest::READ);
    let mut found = 0;
    while found < THREADS * ITEMS {
        rig.poll(Wait::Forever);
        found += inbox.swap(0, Ordering::Acquire);
        if found % 7 == 0 {
            let _ = rig.world().write(peer, b"x");
        } else if rig.seen(token).contains(Interest::READ) {
            rig.drain(fd, 100);
            rig.unsee(token);
        }
    }
    for thread in threads {
        thread.join().expect("a thread that wakes");
    }
}
