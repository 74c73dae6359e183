"""call_later, call_at, time: order, precision, odd delays."""

import asyncio
import gc
import itertools
import math
import random
import threading
import time
import weakref
from fractions import Fraction
from unittest import mock

import pytest

from harness import run_turns, scaled


def test_time_is_monotonic_time(loop):
    for _ in range(50):
        before = time.monotonic()
        now = loop.time()
        assert before <= now <= time.monotonic()
        assert type(now) is float


def test_time_moves_inside_one_callback(loop):
    async def main():
        first = loop.time()
        while loop.time() == first:
            pass
        return loop.time() - first

    assert 0 < loop.run_until_complete(main()) < 1


@pytest.mark.parametrize(
    "delay", [0, 1e-9, 1e-6, 5e-5, 2e-4, 5e-4, 9.99e-4, 1e-3, 1.5e-3, 0.0101, 0.03]
)
def test_never_early(loop, delay):
    resolution = time.get_clock_info("monotonic").resolution
    for _ in range(3):
        fired = loop.create_future()
        handle = loop.call_later(delay, lambda fired=fired: fired.set_result(loop.time()))
        at = loop.run_until_complete(fired)
        assert at >= handle.when() - resolution
        assert at - handle.when() < 0.5


def test_when_is_time_plus_delay(loop):
    before = loop.time()
    handle = loop.call_later(5, lambda: None)
    assert before + 5 <= handle.when() <= loop.time() + 5
    exact = loop.time() + 7.25
    other = loop.call_at(exact, lambda: None)
    assert other.when() == exact
    handle.cancel()
    other.cancel()


def test_deadlines_decide_the_order(loop):
    """Also for deadlines that are a hair apart, scheduled in any order."""
    base = loop.time() + 0.01
    order = list(range(60))
    random.Random(7).shuffle(order)
    seen = []
    for index in order:
        loop.call_at(base + index * 1e-6, seen.append, index)
    loop.call_at(base + 0.001, loop.stop)
    loop.run_forever()
    assert seen == list(range(60))


def test_deadlines_one_ulp_apart(loop):
    import math

    first = loop.time() + 0.005
    second = math.nextafter(first, math.inf)
    seen = []
    loop.call_at(second, seen.append, 2)
    loop.call_at(first, seen.append, 1)
    loop.call_at(second + 0.001, loop.stop)
    loop.run_forever()
    assert seen == [1, 2]


@pytest.mark.zloop_only("asyncio's heap leaves the order of equal deadlines open")
@pytest.mark.parametrize("count", [5, 50])
def test_equal_deadlines_keep_their_order(loop, count):
    seen = []
    when = loop.time() + 0.005
    for index in range(count):
        loop.call_at(when, seen.append, index)
    loop.call_at(when + 0.002, loop.stop)
    loop.run_forever()
    assert seen == list(range(count))


@pytest.mark.zloop_only("asyncio's heap leaves the order of equal deadlines open")
def test_equal_deadlines_keep_their_order_when_some_are_cancelled(loop):
    seen = []
    when = loop.time() + 0.005
    handles = [loop.call_at(when, seen.append, index) for index in range(300)]
    for handle in handles[::3]:
        handle.cancel()
    loop.call_at(when + 0.002, loop.stop)
    loop.run_forever()
    assert seen == [index for index in range(300) if index % 3]


def test_negative_delays_fire_at_once_in_deadline_order(loop):
    seen = []
    for delay in (-1, -3, -2, 0, -1e10):
        loop.call_later(delay, seen.append, delay)
    run_turns(loop, 3)
    assert seen == [-1e10, -3, -2, -1, 0]


@pytest.mark.parametrize("delay", [1e5, 1e10, 1e18, 1e300, float("inf"), 2**40])
def test_huge_delays_neither_fire_nor_trap(loop, delay):
    far = loop.call_later(delay, pytest.fail, "a timer of the far future fired")
    at = loop.call_at(delay * 2, pytest.fail, "a timer of the far future fired")
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert far.when() >= delay
    far.cancel()
    at.cancel()
    run_turns(loop)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_time_that_is_no_number_holds_nobody_up(loop, sign):
    """It is anybody's guess when such a timer is due; asyncio takes it for due with the one before it."""
    seen = []
    loop.call_later(0.001, seen.append, 1)
    loop.call_later(0.002, loop.stop)
    strange = loop.call_later(math.copysign(math.nan, sign), seen.append, "strange")
    watchdog = threading.Timer(3, loop.call_soon_threadsafe, (loop.stop,))
    watchdog.start()
    loop.run_forever()
    watchdog.cancel()
    watchdog.join()
    strange.cancel()
    assert 1 in seen


@pytest.mark.parametrize("delay", [float("-inf"), -(2**40), -1e300])
def test_deadlines_long_past(loop, delay):
    seen = []
    loop.call_later(delay, seen.append, 1)
    loop.call_at(delay, seen.append, 2)
    run_turns(loop, 3)
    assert sorted(seen) == [1, 2]


@pytest.mark.parametrize("delay", [True, 0, Fraction(1, 1000), 0.001])
def test_kinds_of_numbers(loop, delay):
    seen = []
    if delay is True:
        delay = False
    loop.call_later(delay, seen.append, 1)
    loop.call_later(0.003, loop.stop)
    loop.run_forever()
    assert seen == [1]


def test_when_keeps_what_call_at_got(compare):
    def scenario(loop, reports):
        values = [5, 7.5, Fraction(3, 4), True]
        result = []
        for value in values:
            handle = loop.call_at(value, lambda: None)
            result.append((handle.when() == value, float(handle.when())))
            handle.cancel()
        return result

    compare(scenario)


def test_cancelled_timers_do_not_fire(loop):
    seen = []
    handles = [loop.call_later(0.002, seen.append, index) for index in range(10)]
    for handle in handles[::2]:
        handle.cancel()
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert sorted(seen) == [1, 3, 5, 7, 9]


def test_cancel_by_a_timer_of_the_same_turn(loop):
    seen = []
    now = loop.time()
    loop.call_at(now - 2, lambda: second.cancel())
    second = loop.call_at(now - 1, seen.append, "cancelled")
    loop.call_at(now, seen.append, "kept")
    run_turns(loop, 2)
    assert seen == ["kept"]


def test_cancel_after_firing_changes_nothing(loop):
    seen = []
    handle = loop.call_later(0, seen.append, 1)
    run_turns(loop, 2)
    handle.cancel()
    run_turns(loop, 2)
    assert seen == [1]
    assert handle.cancelled()


class Argument:
    pass


def test_cancelled_timers_let_go_of_their_arguments_at_once(loop):
    argument = Argument()
    alive = weakref.ref(argument)
    handle = loop.call_later(3600, lambda value: None, argument)
    del argument
    gc.collect()
    assert alive() is not None
    handle.cancel()
    gc.collect()
    assert alive() is None


def test_ten_thousand_cancelled_timers_are_forgotten(loop):
    """The heap does not keep dead handles until their deadline."""
    handles = [loop.call_later(3600 + i % 7, lambda: None) for i in range(scaled(10_000))]
    dead = [weakref.ref(handle) for handle in handles]
    for handle in handles:
        handle.cancel()
    del handle, handles
    run_turns(loop, 2)
    gc.collect()
    assert sum(ref() is not None for ref in dead) < 200


def test_cancelled_timer_does_not_hold_the_loop_awake(loop):
    loop.call_later(0.05, pytest.fail, "cancelled").cancel()
    keep = loop.call_later(0.005, loop.stop)
    loop.run_forever()
    assert loop.time() >= keep.when()


def test_timers_set_by_timers(loop):
    seen = []

    def step(left):
        seen.append(loop.time())
        if left:
            loop.call_later(0.001, step, left - 1)
        else:
            loop.stop()

    loop.call_later(0.001, step, 5)
    loop.run_forever()
    assert len(seen) == 6
    assert all(b - a >= 0.001 for a, b in itertools.pairwise(seen))


def test_a_timer_due_now_that_is_set_by_a_timer_waits_a_turn(loop):
    seen = []

    def timer():
        loop.call_later(0, seen.append, "nested")
        loop.call_soon(seen.append, "soon")
        seen.append("timer")

    loop.call_later(0, timer)
    run_turns(loop, 4)
    assert seen == ["timer", "soon", "nested"]


def test_a_nearer_timer_set_while_waiting_wins(loop):
    seen = []
    far = loop.call_later(30, seen.append, "far")
    loop.call_later(0.002, lambda: loop.call_later(0.002, loop.stop))
    start = time.monotonic()
    loop.run_forever()
    assert time.monotonic() - start < 5
    assert seen == []
    far.cancel()


def test_sleep_sort(run):
    async def main():
        seen = []

        async def one(value):
            await asyncio.sleep(value / 250)
            seen.append(value)

        await asyncio.gather(*(one(value) for value in (3, 1, 5, 2, 4)))
        return seen

    assert run(main()) == [1, 2, 3, 4, 5]


def test_sleep_zero_is_one_turn(run, loop):
    async def main():
        seen = []
        loop.call_soon(lambda: (seen.append(1), loop.call_soon(seen.append, 2)))
        await asyncio.sleep(0)
        assert seen == [1]
        await asyncio.sleep(0)
        assert seen == [1, 2]
        return await asyncio.sleep(0, "result")

    assert run(main()) == "result"


def test_short_sleeps_are_short(run, loop):
    async def main():
        start = loop.time()
        for _ in range(20):
            await asyncio.sleep(0.0002)
        return loop.time() - start

    assert 0.004 <= run(main()) < 0.2


def test_timeouts(run, loop):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await loop.create_future()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.create_future(), 0.005)
        async with asyncio.timeout(10) as scope:
            await asyncio.sleep(0)
        assert not scope.expired()

    run(main())


def test_many_timers_all_fire(loop):
    rng = random.Random(3)
    left = scaled(3000)
    late = []

    def fire(when):
        nonlocal left
        left -= 1
        late.append(loop.time() - when)
        if not left:
            loop.stop()

    for _ in range(left):
        when = loop.time() + rng.random() / 50
        loop.call_at(when, fire, when)
    loop.run_forever()
    assert left == 0
    assert min(late) > -1e-8


def test_pending_timers_survive_between_runs(loop):
    seen = []
    loop.call_later(0.004, seen.append, 1)
    run_turns(loop)
    assert seen == []
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert seen == [1]


def test_a_patched_clock_of_a_subclass_is_asked(loop_factory, reports):
    """Handles are stamped with the loop's own ``time()``, also when a subclass changes it."""
    base = type(loop_factory_loop := loop_factory())
    loop_factory_loop.close()

    class Shifted(base):
        def time(self):
            return super().time() + 1000

    loop = Shifted()
    try:
        before = time.monotonic() + 1000
        handle = loop.call_later(1, lambda: None)
        assert handle.when() >= before + 1
        handle.cancel()
        seen = []
        loop.call_later(0.002, seen.append, 1)
        loop.call_later(0.004, loop.stop)
        loop.run_forever()
        assert seen == [1]
    finally:
        loop.close()


def test_a_clock_set_on_the_instance_rules(loop):
    """Tests of other projects move time this way."""
    fired = []
    now = loop.time()
    handle = loop.call_at(now + 3600, fired.append, "an hour")
    with mock.patch.object(loop, "time", return_value=now + 3600):
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        assert fired == ["an hour"]
        assert handle.when() == now + 3600
        assert loop.time() == now + 3600
    assert now <= loop.time() < now + 3600
    loop.call_at(now + 3600, fired.append, "never")
    loop.run_until_complete(asyncio.sleep(0.001))
    assert fired == ["an hour"]


def test_call_later_calls_a_call_at_of_ones_own(loop):
    class Loop(type(loop)):
        made = ()

        def call_at(self, when, callback, *args, context=None):
            self.made += (when,)
            return super().call_at(when, callback, *args, context=context)

    loop.__class__ = Loop
    handle = loop.call_later(60, int)
    handle.cancel()
    assert loop.made == (handle.when(),)


def test_call_later_calls_a_call_at_that_was_set(loop):
    with mock.patch.object(loop, "call_at", wraps=loop.call_at) as call_at:
        handle = loop.call_later(60, int)
        handle.cancel()
    assert call_at.mock_calls == [mock.call(handle.when(), int, context=None)]
    assert loop.call_later(60, int).cancel() is None
