"""Handles that only the loop has, handles that are kept, and what the garbage collector makes of both."""

import contextvars
import functools
import gc
import weakref

import pytest

from harness import run_turns

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


class Owner:
    """Keeps the handle of its own method: a cycle."""

    def __init__(self, schedule):
        self.ran = 0
        self.handle = schedule(self.method)

    def method(self, *_):
        self.ran += 1


def in_the_loop(loop, function):
    """Call `function()` in a callback of the running loop, run nothing else, return its result."""
    results = []

    def callback():
        results.append(function())
        loop.stop()

    loop.call_soon(callback)
    loop.run_forever()
    return results.pop()


SCHEDULERS = {
    "call_soon": lambda loop: loop.call_soon,
    "call_later": lambda loop: lambda callback: loop.call_later(0, callback),
    "call_at": lambda loop: lambda callback: loop.call_at(loop.time(), callback),
    "call_soon_threadsafe": lambda loop: loop.call_soon_threadsafe,
}
every_scheduler = pytest.mark.parametrize("name", SCHEDULERS)


@every_scheduler
@pytest.mark.parametrize("inside", [True, False], ids=["running", "idle"])
def test_a_kept_handle_that_ran_is_collected_with_its_owner(loop, name, inside):
    schedule = SCHEDULERS[name](loop)
    owner = in_the_loop(loop, lambda: Owner(schedule)) if inside else Owner(schedule)
    run_turns(loop, 3)
    assert owner.ran == 1
    alive = weakref.ref(owner)
    del owner
    gc.collect()
    assert alive() is None


@every_scheduler
def test_a_kept_handle_is_no_reason_to_keep_a_loop(loop_factory, name):
    """A loop that is closed with callbacks left, one of which has the loop and its own handle."""
    loop = loop_factory()
    schedule = SCHEDULERS[name](loop)
    owner = in_the_loop(loop, functools.partial(Owner, schedule))
    owner.loop = loop
    alive = [weakref.ref(owner), weakref.ref(loop)]
    loop.close()
    del owner, loop, schedule
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
@every_scheduler
def test_an_abandoned_loop_is_collected_with_what_it_has_queued(loop_factory, name, kept):
    """Never closed: the collector alone finds the loop, its callbacks and their owner."""
    loop = loop_factory()
    schedule = SCHEDULERS[name](loop)
    owner = in_the_loop(loop, functools.partial(Owner, schedule))
    if not kept:
        del owner.handle
    owner.loop = loop
    alive = weakref.ref(owner)
    del owner, loop, schedule
    for _ in range(3):
        gc.collect()
    assert alive() is None


def test_collections_while_callbacks_wait_and_run(loop):
    """The collector may look at the queue at any time, and whatever is alive stays."""
    seen = []

    def callback(number, items, mapping):
        gc.collect()
        seen.append((number, items, mapping))

    def burst():
        for number in range(20):
            loop.call_soon(callback, number, [number], {number: number})
            loop.call_later(0, callback, number, [number], {number: number})
        gc.collect()

    loop.call_soon(burst)
    run_turns(loop, 30)
    assert sorted(number for number, *_ in seen) == sorted([*range(20), *range(20)])
    assert all(items == [number] and mapping == {number: number} for number, items, mapping in seen)


def test_a_weak_reference_can_cancel_what_nobody_keeps(loop):
    ran = []

    def scenario():
        first = weakref.ref(loop.call_soon(ran.append, "first"))
        loop.call_soon(lambda: second().cancel())
        second = weakref.ref(loop.call_soon(ran.append, "second"))
        return first, second

    first, second = in_the_loop(loop, scenario)
    run_turns(loop, 2)
    assert ran == ["first"]
    gc.collect()
    assert first() is None and second() is None


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_a_callback_that_cancels_its_own_handle_keeps_its_arguments(loop, count):
    class Argument:
        pass

    kept, seen = [], []

    def callback(*args):
        kept[0].cancel()
        gc.collect()
        seen.append([type(argument) for argument in args])
        assert kept[0]._args is None and kept[0]._callback is None

    kept.append(loop.call_soon(callback, *[Argument() for _ in range(count)]))
    run_turns(loop, 2)
    assert seen == [[Argument] * count]


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_the_arguments_of_a_handle_are_a_tuple(loop, count):
    for handle in (loop.call_soon(print, *range(count)), loop.call_later(9, print, *range(count))):
        assert handle._args == tuple(range(count))
        assert handle._args is handle._args
        handle.cancel()
        assert handle._args is None


def test_arguments_and_context_can_be_replaced(loop):
    """Some debuggers and wrappers do."""
    seen = []

    def callback(*args):
        seen.append((args, VARIABLE.get()))

    context = contextvars.Context()
    context.run(VARIABLE.set, "replaced")
    handle = loop.call_soon(callback, 1, 2)
    handle._args = (3, 4, 5)
    handle._context = context
    run_turns(loop, 1)
    assert seen == [((3, 4, 5), "replaced")]


def test_a_running_handle_shows_the_context_that_it_runs_in(loop):
    kept, seen = [], []

    def callback():
        VARIABLE.set("inside")
        seen.append(kept[0]._context[VARIABLE])

    def scenario():
        kept.append(loop.call_soon(callback))

    contextvars.Context().run(loop.call_soon, scenario)
    run_turns(loop, 3)
    assert seen == ["inside"]
    assert kept[0]._context[VARIABLE] == "inside"


def test_the_context_of_a_failed_callback_is_the_one_it_ran_in(loop):
    seen = []

    def failing():
        VARIABLE.set("failed")
        raise ValueError

    loop.set_exception_handler(
        lambda loop, report: seen.append(report["handle"]._context[VARIABLE])
    )
    contextvars.Context().run(loop.call_soon, failing)
    run_turns(loop, 2)
    assert seen == ["failed"]


def test_what_a_callback_sets_is_not_seen_by_the_next(loop):
    """Also where contexts are empty, and even if a token or a copy is kept."""
    seen, tokens, copies = [], [], []

    def setting(number):
        seen.append(VARIABLE.get())
        if number % 3 == 0:
            tokens.append(VARIABLE.set(number))
        elif number % 3 == 1:
            token = VARIABLE.set(number)
            VARIABLE.reset(token)
            tokens.append(token)
        else:
            copies.append(contextvars.copy_context())

    def scenario():
        for number in range(12):
            loop.call_soon(setting, number)

    contextvars.Context().run(loop.call_soon, scenario)
    run_turns(loop, 3)
    assert seen == ["unset"] * 12
    assert all(VARIABLE not in copy for copy in copies)


def test_a_token_of_one_callback_is_refused_in_another(loop):
    tokens, errors = [], []

    def first():
        tokens.append(VARIABLE.set(1))
        VARIABLE.reset(tokens[0])
        tokens[0] = VARIABLE.set(2)

    def second():
        try:
            VARIABLE.reset(tokens[0])
        except ValueError as error:
            errors.append(str(error))

    def scenario():
        loop.call_soon(first)
        loop.call_soon(second)

    contextvars.Context().run(loop.call_soon, scenario)
    run_turns(loop, 3)
    assert len(errors) == 1 and "different Context" in errors[0]


def test_long_chains_of_handles_are_freed(loop_factory):
    """Each is an argument of the next; freeing them must not take all of the stack."""
    loop = loop_factory()
    handle = None
    for _ in range(100_000):
        handle = loop.call_soon(print, handle)
        del handle._loop
    handles = weakref.ref(handle)
    loop.close()
    del handle
    gc.collect()
    assert handles() is None


@every_scheduler
def test_a_burst_larger_than_any_list_of_spares(loop, name):
    schedule = SCHEDULERS[name](loop)
    counts = [0]

    def callback():
        counts[0] += 1

    def burst():
        for _ in range(5000):
            schedule(callback)

    for _ in range(2):
        loop.call_soon(burst)
        run_turns(loop, 3)
    assert counts == [10_000]


def test_subclasses_of_the_classes_of_handles(loop):
    """Python code can derive from the class of a handle, and make one by hand."""
    cls = type(loop.call_soon(print))

    class Derived(cls):
        __slots__ = ("extra",)

    seen = []
    handle = Derived(seen.append, (1,), loop)
    handle.extra = [handle]
    assert handle._args == (1,)
    loop._add_callback(handle)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *_: None)
        run_turns(loop, 2)
    assert seen == [1]
    alive = weakref.ref(handle)
    del handle
    gc.collect()
    assert alive() is None
