//! Forked children.

#![forbid(unsafe_code)]

use std::time::Duration;

use zloop_backends::{Events, Interest, Token, Wait};

use crate::os::in_forked_child;
use crate::rig::Rig;
use crate::world::Family;

/// C13: a child that drops its copy can open a backend of its own, and the parent's goes on.
pub fn a_child_can_have_a_backend_of_its_own(rig: &mut Rig) {
    rig.be_alone();
    let (fd, peer) = rig.pair();
    let watched = rig.watch(fd, Interest::READ);
    rig.settle();
    let mut backend = Some(rig.take_backend());
    let subject = rig.subject();
    let fine = in_forked_child(|| {
        drop(backend.take());
        let (mut own, mut world) = subject.open().expect("it opened before");
        own.bind().expect("a backend that this thread can poll");
        let (fd, peer) = world.pair(Family::Unix);
        own.attach(fd, Token::new(0, 0)).expect("a stream can be attached");
        world.write(peer, b"x").expect("room");
        let mut events = Events::with_limit(8);
        own.poll(Wait::Forever, &mut events).expect("a poll");
        assert_eq!(events.drain().next().map(|event| event.token), Some(Token::new(0, 0)));
    });
    assert!(fine, "C13: the child came to no good end");
    rig.put_backend(backend.expect("only the child has dropped it"));
    rig.world().write(peer, b"x").expect("room");
    rig.until_seen(watched, Interest::READ);
}

/// C13: a child that lets go of its parent's files one by one, as collecting transports does, takes none from the parent.
pub fn a_child_that_forgets_disturbs_nothing(rig: &mut Rig) {
    rig.be_alone();
    let stream = rig.stream();
    let (fd, peer) = rig.pair();
    let watched = rig.watch(fd, Interest::READ);
    rig.settle();
    let mut backend = Some(rig.take_backend());
    let fine = in_forked_child(|| {
        let mut inherited = backend.take().expect("just put there");
        inherited.forget(watched);
        inherited.forget(stream.token);
        drop(inherited);
    });
    assert!(fine, "C13: the child came to no good end");
    rig.put_backend(backend.expect("only the child has dropped it"));
    rig.world().write(peer, b"x").expect("room");
    rig.until("C13: what the parent watches", |rig| rig.seen(watched).contains(Interest::READ));
    rig.rearm(stream.token, Interest::READ);
    rig.world().write(stream.peer, b"x").expect("room");
    rig.until_seen(stream.token, Interest::READ);
}

/// C13: a child that drops its copy of the backend changes nothing for its parent.
pub fn a_child_that_drops_its_copy_disturbs_nothing(rig: &mut Rig) {
    rig.be_alone();
    let stream = rig.stream();
    let (fd, peer) = rig.pair();
    let token = rig.watch(fd, Interest::READ);
    rig.settle();
    let backend = rig.take_backend();
    let mut backend = Some(backend);
    assert!(in_forked_child(|| drop(backend.take())), "C13: the child came to no good end");
    rig.put_backend(backend.expect("only the child has dropped it"));
    let before = rig.world().now();
    let pause = Duration::from_millis(5);
    rig.poll(Wait::For(pause));
    assert!(rig.world().now() - before >= pause, "C13: the child has ended a wait of its parent");
    rig.world().write(peer, b"x").expect("room");
    rig.until("C13: what the parent watches", |rig| rig.seen(token).contains(Interest::READ));
    rig.unsee(token);
    rig.rearm(stream.token, Interest::READ);
    rig.world().write(stream.peer, b"x").expect("room");
    rig.until_seen(stream.token, Interest::READ);
    rig.send_all(stream, b"still here");
    rig.waker().wake();
    rig.poll(Wait::Forever);
    assert_eq!(rig.drain(stream.peer, 100), b"still here");
}
