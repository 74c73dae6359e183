"""Handle and TimerHandle: kinds, cancelling, comparing, repr, lifetime."""

import asyncio
import contextvars
import gc
import weakref

import pytest

from harness import PY, normal, run_turns


def named(*args):
    """A callback with a stable name."""


class Argument:
    pass


MAKERS = {
    "soon": lambda loop, *a, **k: loop.call_soon(*a, **k),
    "threadsafe": lambda loop, *a, **k: loop.call_soon_threadsafe(*a, **k),
    "later": lambda loop, *a, **k: loop.call_later(60, *a, **k),
    "later-zero": lambda loop, *a, **k: loop.call_later(0, *a, **k),
    "at": lambda loop, *a, **k: loop.call_at(loop.time() + 60, *a, **k),
}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@every_maker
def test_kind(loop, make):
    handle = make(loop, named)
    timer = "call_" in make.__code__.co_names[0] and make.__code__.co_names[0] in (
        "call_later",
        "call_at",
    )
    assert isinstance(handle, asyncio.Handle)
    assert isinstance(handle, asyncio.TimerHandle) is timer
    if timer:
        assert isinstance(handle.when(), float)
    handle.cancel()


@every_maker
def test_cancel_twice(loop, make):
    handle = make(loop, pytest.fail, "a cancelled callback ran")
    assert handle.cancelled() is False
    assert handle.cancel() is None
    assert handle.cancelled() is True
    assert handle.cancel() is None
    assert handle.cancelled() is True
    run_turns(loop, 3)


@every_maker
def test_repr_like_asyncio(compare, make):
    def scenario(loop, reports):
        loop.set_debug(False)
        handle = make(loop, named, 1, "two")
        reprs = [normal(repr(handle))]
        handle.cancel()
        reprs.append(normal(repr(handle)))
        return reprs

    first, second = compare(scenario)
    assert "named(" in first and "test_handles.py" in first
    assert "cancelled" in second and "named" not in second


@every_maker
def test_repr_like_asyncio_in_debug_mode(compare, make):
    def scenario(loop, reports):
        loop.set_debug(True)
        handle = make(loop, named, 1)
        reprs = [normal(repr(handle))]
        handle.cancel()
        return [*reprs, normal(repr(handle))]

    first, second = compare(scenario)
    assert "created at" in first


@every_maker
def test_repr_after_running(compare, make):
    def scenario(loop, reports):
        loop.set_debug(False)
        handle = make(loop, named)
        if not isinstance(handle, asyncio.TimerHandle):
            run_turns(loop, 2)
        text = normal(repr(handle))
        handle.cancel()
        return text

    compare(scenario)


@pytest.mark.skipif(PY < (3, 12), reason="Handle.get_context is new in Python 3.12")
@every_maker
def test_get_context(loop, make):
    context = contextvars.copy_context()
    handle = make(loop, named, context=context)
    assert handle.get_context() is context
    handle.cancel()
    own = make(loop, named)
    assert isinstance(own.get_context(), contextvars.Context)
    assert own.get_context() is not context
    own.cancel()


@every_maker
def test_weak_references(loop, make):
    handle = make(loop, named)
    ref = weakref.ref(handle)
    assert ref() is handle
    handle.cancel()
    run_turns(loop, 2)
    del handle
    loop.call_later(60, named).cancel()
    gc.collect()
    run_turns(loop, 2)
    # A cancelled timer may stay in the heap for a while; anything else must go.
    if "later" not in make.__code__.co_names[0] and "call_at" not in make.__code__.co_names:
        assert ref() is None


def test_a_handle_that_ran_is_freed(loop):
    argument = Argument()
    alive = [weakref.ref(argument), weakref.ref(loop.call_soon(named, argument))]
    assert alive[1]() is not None, "the loop holds the handle"
    del argument
    run_turns(loop, 2)
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


def test_a_timer_that_fired_is_freed(loop):
    argument = Argument()
    alive = [weakref.ref(argument), weakref.ref(loop.call_later(0, named, argument))]
    del argument
    run_turns(loop, 3)
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


def test_cancel_frees_callback_and_arguments(loop):
    argument = Argument()
    alive = weakref.ref(argument)
    handle = loop.call_soon(named, argument)
    handle.cancel()
    del argument
    gc.collect()
    assert alive() is None


def test_a_cycle_through_a_handle_is_collected(loop_factory):
    """Handle -> argument -> handle, on a loop that is closed without ever running it."""
    loop = loop_factory()
    argument = Argument()
    argument.handle = loop.call_later(3600, named, argument)
    argument.soon = loop.call_soon(named, argument)
    alive = weakref.ref(argument)
    loop.close()
    del argument, loop
    gc.collect()
    assert alive() is None


def test_timers_compare_by_deadline(loop):
    now = loop.time() + 60
    early = loop.call_at(now, named)
    late = loop.call_at(now + 1, named)
    twin = loop.call_at(now, named)
    other = loop.call_at(now, named, 1)
    assert early < late and early <= late and late > early and late >= early
    assert not early > late and not early >= late
    assert early <= twin and early >= twin and not early < twin
    assert early == twin and early != other and early != late
    assert hash(early) == hash(now)
    assert early != object() and (early == 1) is False
    for operator in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__"):
        assert getattr(early, operator)(1) is NotImplemented
    with pytest.raises(TypeError):
        assert early < 1
    twin.cancel()
    assert early != twin, "cancelled counts"
    for handle in (early, late, other):
        handle.cancel()
    assert sorted([late, early, other], key=lambda h: h.when())[-1] is late


def test_timers_of_asyncio_compare_with_ours(loop):
    """A TimerHandle that someone else made can be ordered among ours."""
    handle = loop.call_at(100.0, named)
    foreign = asyncio.TimerHandle(50.0, named, (), loop)
    assert foreign < handle and handle > foreign
    handle.cancel()


def test_cancelled_handles_of_both_kinds_in_one_set(loop):
    handles = {loop.call_soon(named), loop.call_later(60, named), loop.call_at(1e9, named)}
    assert len(handles) == 3
    for handle in handles:
        handle.cancel()


def test_handles_carry_a_source_traceback_in_debug_mode(debug_loop):
    for make in MAKERS.values():
        handle = make(debug_loop, named)
        assert any("test_handles.py" in frame.filename for frame in handle._source_traceback)
        handle.cancel()


def test_no_source_traceback_otherwise(loop):
    loop.set_debug(False)
    for make in MAKERS.values():
        handle = make(loop, named)
        assert handle._source_traceback is None
        handle.cancel()


def test_call_later_returns_a_timer_handle_even_for_zero(loop):
    handle = loop.call_later(0, named)
    assert isinstance(handle, asyncio.TimerHandle)
    assert handle.when() <= loop.time()
    run_turns(loop, 2)
    assert handle.when() <= loop.time()


def test_handles_made_by_hand_run_on_the_loop(loop):
    """asyncio's own classes still work with this loop as their loop."""
    seen = []
    handle = asyncio.Handle(seen.append, (1,), loop)
    handle._run()
    assert seen == [1]


@every_maker
def test_what_a_timer_or_handle_refuses(loop, make):
    handle = make(loop, named)
    with pytest.raises(TypeError):
        handle.cancel(1)
    with pytest.raises(TypeError):
        handle.cancelled(1)
    handle.cancel()


@pytest.mark.parametrize("side", ["reader", "writer"])
def test_a_handle_that_is_cancelled_watches_no_longer(loop, run, pair, side):
    """As libraries cancel what `_add_reader` returns: the file is let go of when it is ready."""
    near, far = pair
    others = {"reader": "writer", "writer": "reader"}
    called = []
    handle = getattr(loop, f"_add_{side}")(near, called.append, side)
    far.send(b"ready")
    run(asyncio.sleep(0.01))
    assert set(called) == {side}
    handle.cancel()
    called.clear()
    getattr(loop, f"add_{others[side]}")(near, called.append, others[side])
    run(asyncio.sleep(0.01))
    assert set(called) == {others[side]}
    assert getattr(loop, f"remove_{side}")(near) is False
    assert getattr(loop, f"remove_{others[side]}")(near) is True
