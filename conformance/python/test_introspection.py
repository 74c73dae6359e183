"""What a loop tells of itself: classes, names, attributes, signatures, repr."""

import asyncio
import gc
import inspect
import sys
import weakref

import pytest

from harness import run_turns

PUBLIC = [name for name in dir(asyncio.SelectorEventLoop) if not name.startswith("_")]


def test_kind(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert isinstance(loop, asyncio.BaseEventLoop)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_of_asyncio_is_there(loop, name):
    attribute = getattr(loop, name)
    theirs = getattr(asyncio.SelectorEventLoop, name)
    assert callable(attribute) == callable(theirs)
    assert inspect.iscoroutinefunction(attribute) == inspect.iscoroutinefunction(theirs)


@pytest.mark.parametrize("name", PUBLIC)
def test_signatures(loop, name):
    """They name the same parameters; but for one, whose signature depends on the patch release."""
    theirs = inspect.signature(getattr(asyncio.SelectorEventLoop, name))
    try:
        ours = inspect.signature(getattr(type(loop), name))
    except ValueError:
        assert name == "create_task"
        return
    kinds = {p.name: p.kind for p in theirs.parameters.values()}
    found = {p.name: p.kind for p in ours.parameters.values()}
    assert [n for n in kinds if n != "self"] == [n for n in found if n != "self"]
    defaults = {p.name: p.default for p in theirs.parameters.values()}
    assert defaults == {p.name: p.default for p in ours.parameters.values()}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_methods_are_documented(loop, name):
    if getattr(asyncio.SelectorEventLoop, name).__doc__:
        assert getattr(type(loop), name).__doc__


def test_repr(compare):
    """running, closed and debug, as asyncio shows them."""

    def scenario(loop, reports):
        loop.set_debug(False)
        texts = [repr(loop)]
        loop.call_soon(lambda: texts.append(repr(loop)))
        run_turns(loop)
        loop.set_debug(True)
        texts.append(repr(loop))
        loop.close()
        texts.append(repr(loop))
        return [text.partition(" ")[2] for text in texts]

    assert compare(scenario)[0] == "running=False closed=False debug=False>"


def test_attributes_and_weak_references(loop):
    loop.anything = [1]
    assert loop.anything == [1]
    assert weakref.ref(loop)() is loop
    assert {loop: 1}[loop] == 1
    assert vars(loop)["anything"] == [1]


def test_methods_can_be_patched(loop, monkeypatch):
    """Tests replace methods of a loop object; the loop's own calls see that."""
    seen = []
    monkeypatch.setattr(loop, "time", lambda: 5.0)
    assert loop.time() == 5.0
    monkeypatch.undo()
    original = loop.call_soon
    monkeypatch.setattr(loop, "call_soon", lambda *a, **k: (seen.append(a), original(*a, **k))[1])
    loop.run_until_complete(asyncio.sleep(0))
    assert seen


def test_subclassing(loop_factory):
    probe = loop_factory()
    base = type(probe)
    probe.close()

    class Loop(base):
        """A loop with an own constructor and own state."""

        def __init__(self, *args, extra=None):
            super().__init__(*args)
            self.extra = extra

        def method(self):
            return self.extra, self.is_running()

    loop = Loop(extra=5)
    assert loop.method() == (5, False)
    assert loop.run_until_complete(asyncio.sleep(0, "result")) == "result"
    assert type(loop).__name__ in repr(loop)
    alive = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert alive() is None


def test_multiple_inheritance(loop_factory):
    probe = loop_factory()
    base = type(probe)
    probe.close()

    class Mixin:
        def call_soon(self, callback, *args, context=None):
            self.count = getattr(self, "count", 0) + 1
            return super().call_soon(callback, *args, context=context)

    class Loop(Mixin, base):
        pass

    loop = Loop()
    loop.run_until_complete(asyncio.sleep(0))
    assert loop.count >= 2
    loop.close()


def test_loops_cannot_be_pickled(loop):
    import pickle

    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(loop)


def test_a_loop_in_a_reference_cycle_is_collected(loop_factory):
    class Holder:
        pass

    holder = Holder()
    loop = holder.loop = loop_factory()
    loop.me = loop
    loop.method = loop.call_soon
    loop.holder = holder
    loop.set_exception_handler(lambda *args, holder=holder: None)
    loop.set_task_factory(lambda *args, holder=holder, **options: None)
    alive = weakref.ref(loop)
    loop.close()
    del loop, holder
    gc.collect()
    assert alive() is None


def test_gc_can_walk_a_loop_with_everything(loop):
    """The collector sees what the loop holds: handles, timers, readers."""
    from harness import unix_pair

    near, far = unix_pair()

    class Marker:
        pass

    marker = Marker()
    loop.call_soon(lambda thing: None, marker)
    loop.call_later(60, lambda thing: None, marker).cancel()
    loop.add_reader(near, lambda thing: None, marker)
    gc.collect()
    assert gc.is_tracked(loop)
    loop.remove_reader(near)
    run_turns(loop)
    near.close()
    far.close()


def test_sizes(loop):
    assert sys.getsizeof(loop) > 0
    handle = loop.call_soon(bool)
    assert sys.getsizeof(handle) > 0
    run_turns(loop)


def test_the_handles_loop_attribute(loop):
    """asyncio's own code and debuggers look at these."""
    handle = loop.call_soon(bool)
    assert handle._loop is loop
    assert handle._callback is bool
    assert tuple(handle._args or ()) == ()
    assert handle._cancelled is False
    timer = loop.call_later(60, max, 1, 2)
    assert timer._callback is max and tuple(timer._args) == (1, 2)
    assert timer._scheduled is True
    timer.cancel()
    assert timer._cancelled is True and timer._callback is None
    run_turns(loop)


def test_the_event_loop_is_found_by_get_event_loop(loop):
    async def main():
        assert asyncio.get_event_loop() is asyncio.get_running_loop() is loop

    loop.run_until_complete(main())


def test_names_of_classes(loop):
    for cls in type(loop).__mro__:
        assert cls.__module__ and cls.__qualname__
    assert type(loop.call_soon(bool)).__name__ == "Handle"
    timer = loop.call_later(1, bool)
    assert type(timer).__name__ == "TimerHandle"
    timer.cancel()
    run_turns(loop)
