"""run_forever, run_until_complete, stop, close, and what a loop leaves behind."""

import asyncio
import concurrent.futures
import gc
import socket
import ssl
import sys
import threading
import warnings
import weakref

import pytest

from harness import PY, outcome, run_turns, tls_pair, value


def test_results_and_exceptions(loop):
    async def fail():
        raise ZeroDivisionError("boom")

    assert loop.run_until_complete(value(5)) == 5
    with pytest.raises(ZeroDivisionError, match="boom"):
        loop.run_until_complete(fail())
    assert loop.run_until_complete(value(6)) == 6


def test_run_until_complete_takes_futures_tasks_and_awaitables(loop):
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "awaited"

    future = loop.create_future()
    loop.call_soon(future.set_result, 1)
    assert loop.run_until_complete(future) == 1
    assert loop.run_until_complete(future) == 1
    assert loop.run_until_complete(loop.create_task(value(2))) == 2
    assert loop.run_until_complete(Awaitable()) == "awaited"


def test_a_cancelled_main_task(loop):
    task = loop.create_task(asyncio.sleep(60))
    loop.call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_states(loop):
    seen = []
    assert not loop.is_running() and not loop.is_closed()

    def look():
        seen.append((loop.is_running(), loop.is_closed(), asyncio.get_running_loop() is loop))
        loop.stop()

    loop.call_soon(look)
    loop.run_forever()
    assert seen == [(True, False, True)]
    assert not loop.is_running()
    assert asyncio._get_running_loop() is None
    loop.close()
    assert loop.is_closed() and not loop.is_running()


def test_stop_lets_the_batch_finish(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(loop.stop)
    loop.call_soon(seen.append, 2)
    loop.call_soon(lambda: loop.call_soon(seen.append, 3))
    loop.run_forever()
    assert seen == [1, 2]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [1, 2, 3]


def test_stop_before_running_still_runs_one_turn(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(lambda: loop.call_soon(seen.append, 2))
    loop.stop()
    loop.run_forever()
    assert seen == [1]
    run_turns(loop)
    assert seen == [1, 2]


def test_stop_before_running_runs_timers_that_are_due(loop):
    seen = []
    loop.call_at(loop.time() - 1, seen.append, "due")
    later = loop.call_later(60, seen.append, "later")
    loop.stop()
    loop.run_forever()
    assert seen == ["due"]
    later.cancel()


def test_stop_twice_is_stop_once(loop):
    loop.call_soon(loop.stop)
    loop.call_soon(loop.stop)
    loop.run_forever()
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(lambda: (loop.stop(), seen.append(2)))
    loop.run_forever()
    assert seen == [1, 2]


def test_stop_from_a_timer_and_from_a_task(loop):
    loop.call_later(0.001, loop.stop)
    loop.run_forever()

    async def stop():
        loop.stop()
        await asyncio.sleep(0)
        return "later"

    task = loop.create_task(stop())
    loop.run_forever()
    assert not task.done()
    assert loop.run_until_complete(task) == "later"


def test_stop_while_run_until_complete(loop):
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match=r"^Event loop stopped before Future completed\.$"):
        loop.run_until_complete(future)
    loop.call_soon(future.set_result, "still fine")
    assert loop.run_until_complete(future) == "still fine"


def test_leftovers_of_run_until_complete(loop):
    """Callbacks that were queued when the future finished belong to the next run."""
    seen = []

    async def main():
        loop.call_soon(lambda: (seen.append(1), loop.call_soon(seen.append, 2)))

    loop.run_until_complete(main())
    first = list(seen)
    run_turns(loop, 3)
    assert first in ([], [1]) and seen == [1, 2]


def test_leftovers_exactly(compare):
    def scenario(loop, reports):
        seen = []

        def chain(number):
            seen.append(number)
            if number < 8:
                loop.call_soon(chain, number + 1)

        async def main():
            loop.call_soon(chain, 0)
            await asyncio.sleep(0)

        loop.run_until_complete(main())
        lengths = [len(seen)]
        for _ in range(4):
            loop.stop()
            loop.run_forever()
            lengths.append(len(seen))
        return lengths

    compare(scenario)


@pytest.mark.parametrize("how", ["run_until_complete", "run_forever"])
@pytest.mark.parametrize("which", ["same", "other"])
def test_nested_runs_are_refused(loop, loop_factory, which, how):
    other = loop_factory()
    inner = loop if which == "same" else other
    results = []

    def nested():
        if how == "run_forever":
            results.append(outcome(inner.run_forever))
        else:
            coroutine = value(1)
            results.append(outcome(lambda: inner.run_until_complete(coroutine)))
            coroutine.close()
        loop.stop()

    loop.call_soon(nested)
    loop.run_forever()
    other.close()
    text = {
        "same": "This event loop is already running",
        "other": "Cannot run the event loop while another loop is running",
    }
    assert results == [("RuntimeError", text[which])]
    assert not inner.is_running()


def test_running_in_a_second_thread_is_refused(loop):
    errors = []

    def work():
        coroutine = value(1)
        errors.append(outcome(lambda: loop.run_until_complete(coroutine)))
        coroutine.close()
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=work)
    loop.call_soon(thread.start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        loop.run_forever()
    thread.join()
    assert errors == [("RuntimeError", "This event loop is already running")]


def test_close_while_running_is_refused(loop):
    results = []
    loop.call_soon(lambda: (results.append(outcome(loop.close)), loop.stop()))
    loop.run_forever()
    assert results == [("RuntimeError", "Cannot close a running event loop")]
    assert not loop.is_closed()


def test_close_twice(loop_factory):
    loop = loop_factory()
    loop.close()
    loop.close()
    assert loop.is_closed()


def test_close_never_run(loop_factory):
    loop = loop_factory()
    assert not loop.is_closed()
    loop.close()


def test_close_drops_what_was_scheduled(loop_factory):
    class Argument:
        pass

    arguments = [Argument() for _ in range(3)]
    alive = [weakref.ref(argument) for argument in arguments]
    loop = loop_factory()
    loop.call_soon(pytest.fail, arguments[0])
    loop.call_later(0, pytest.fail, arguments[1])
    loop.call_soon_threadsafe(pytest.fail, arguments[2])
    del arguments
    loop.close()
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3


def test_close_drops_what_was_scheduled_whatever_an_executor_raises(loop_factory):
    class Failing(concurrent.futures.ThreadPoolExecutor):
        def shutdown(self, *args, **options):
            super().shutdown(*args, **options)
            raise ValueError("it failed")

    def callback():
        pytest.fail("it was to be dropped")

    alive = weakref.ref(callback)
    loop = loop_factory()
    loop.set_default_executor(Failing(1))
    loop.call_soon(callback)
    del callback
    with pytest.raises(ValueError, match="it failed"):
        loop.close()
    assert loop.is_closed()
    gc.collect()
    assert alive() is None


def test_a_closed_loop_refuses(loop_factory, compare):
    def scenario(loop, reports):
        loop.close()
        coroutine = value(1)
        calls = {
            "run_forever": loop.run_forever,
            "run_until_complete": lambda: loop.run_until_complete(coroutine),
            "call_soon": lambda: loop.call_soon(print),
            "call_soon_threadsafe": lambda: loop.call_soon_threadsafe(print),
            "call_later": lambda: loop.call_later(1, print),
            "call_at": lambda: loop.call_at(1, print),
            "create_task": lambda: loop.create_task(coroutine),
            "run_in_executor": lambda: loop.run_in_executor(None, print),
            "add_reader": lambda: loop.add_reader(0, print),
            "add_writer": lambda: loop.add_writer(0, print),
            "remove_reader": lambda: loop.remove_reader(0),
            "remove_writer": lambda: loop.remove_writer(0),
            "add_signal_handler": lambda: loop.add_signal_handler(10, print),
            "stop": loop.stop,
            "time": lambda: loop.time() > 0,
            "get_debug": lambda: bool(loop.get_debug()),
            "create_future": lambda: type(loop.create_future()).__name__,
            "close": loop.close,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            results = {name: outcome(call) for name, call in calls.items()}
        coroutine.close()
        return results

    results = compare(scenario)
    for name in ("run_forever", "call_soon", "call_later", "call_at", "call_soon_threadsafe"):
        assert results[name] == ("RuntimeError", "Event loop is closed")


def test_a_future_of_another_loop(loop, loop_factory):
    other = loop_factory()
    future = other.create_future()
    with pytest.raises(
        ValueError, match="The future belongs to a different loop than the one specified"
    ):
        loop.run_until_complete(future)
    other.close()


def test_what_run_until_complete_refuses(compare):
    def scenario(loop, reports):
        return [
            outcome(lambda thing=thing: loop.run_until_complete(thing))
            for thing in (None, 1, "x", print)
        ]

    results = compare(scenario)
    assert results[0][0] == "TypeError"


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("how", ["callback", "timer", "task", "threadsafe", "reader"])
def test_exits_propagate_and_the_loop_stays_usable(loop, exception, how):
    from harness import unix_pair

    near, far = unix_pair()
    seen = []

    def leave():
        loop.remove_reader(near)
        raise exception("leaving")

    async def leave_task():
        raise exception("leaving")

    far.send(b"x")
    task = None
    match how:
        case "callback":
            loop.call_soon(leave)
        case "timer":
            loop.call_later(0.001, leave)
        case "threadsafe":
            loop.call_soon_threadsafe(leave)
        case "reader":
            loop.add_reader(near, leave)
        case "task":
            task = loop.create_task(leave_task())
    if how != "reader":
        loop.call_soon(seen.append, "same batch")
    with pytest.raises(exception, match="leaving"):
        loop.run_forever()
    if task is not None:
        assert type(task.exception()) is exception
    near.close()
    far.close()
    assert not loop.is_running() and not loop.is_closed()
    assert asyncio._get_running_loop() is None
    assert loop.run_until_complete(value("usable")) == "usable"
    assert seen == ([] if how == "reader" else ["same batch"])


def test_callbacks_after_an_exit_are_kept_in_order(loop):
    seen = []

    def leave():
        raise KeyboardInterrupt

    loop.call_soon(seen.append, 1)
    loop.call_soon(leave)
    for number in (2, 3):
        loop.call_soon(seen.append, number)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert seen == [1]
    run_turns(loop)
    assert seen == [1, 2, 3]


def test_exit_while_run_until_complete(loop):
    """The main task is left alone; it can be finished later."""

    def leave():
        raise SystemExit(3)

    async def main():
        loop.call_soon(leave)
        await asyncio.sleep(0.002)
        return "done"

    task = loop.create_task(main())
    with pytest.raises(SystemExit):
        loop.run_until_complete(task)
    assert not task.done()
    assert loop.run_until_complete(task) == "done"


def test_other_base_exceptions_are_reported(loop, reports):
    class Odd(BaseException):
        pass

    def odd():
        raise Odd("odd")

    loop.call_soon(odd)
    run_turns(loop)
    assert isinstance(reports.one()["exception"], Odd)


def test_running_again_after_an_exception(loop):
    async def fail():
        raise ValueError

    for _ in range(3):
        with pytest.raises(ValueError):
            loop.run_until_complete(fail())
        assert loop.run_until_complete(value(1)) == 1


def test_runner(loop_factory):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        loop = runner.get_loop()
        assert runner.run(value(1)) == 1
        assert runner.run(asyncio.sleep(0.001, 2)) == 2
        assert type(loop) is type(runner.get_loop())
    assert loop.is_closed()


def test_runner_cleans_up(loop_factory):
    """Tasks are cancelled, generators closed, the executor shut down."""
    seen = []

    async def background():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def generator():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def main():
        keep.append(asyncio.create_task(background()))
        keep.append(generator())
        await keep[-1].__anext__()
        await asyncio.to_thread(int)
        return "result"

    keep = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == "result"
    assert sorted(seen) == ["cancelled", "closed"]


@pytest.mark.skipif(PY < (3, 12), reason="asyncio.run(loop_factory=) is new in Python 3.12")
def test_asyncio_run(loop_factory):
    async def main():
        return type(asyncio.get_running_loop())

    kind = asyncio.run(main(), loop_factory=loop_factory)
    probe = loop_factory()
    assert kind is type(probe)
    probe.close()


def test_set_event_loop(loop):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop(loop)
        try:
            assert asyncio.get_event_loop() is loop
        finally:
            asyncio.set_event_loop(None)


def test_the_running_loop_is_per_thread(loop):
    seen = []

    async def main():
        await loop.run_in_executor(None, lambda: seen.append(asyncio._get_running_loop()))
        assert asyncio.get_running_loop() is loop
        assert asyncio.get_event_loop() is loop

    loop.run_until_complete(main())
    assert seen == [None]


def test_exit_inside_shutdown_leaves_no_running_loop(loop):
    def leave():
        raise KeyboardInterrupt

    loop.call_soon(leave)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.sleep(0))
    run_turns(loop, 2)
    assert sys.get_asyncgen_hooks() == (None, None)


def test_each_run_takes_what_has_come_in(loop):
    """A run that has nothing to wait for still reads what the kernel holds for its transports."""
    here, there = socket.socketpair()
    received = []

    class Receiver(asyncio.Protocol):
        def data_received(self, data):
            received.append(data)

    transport, _ = loop.run_until_complete(loop.create_connection(Receiver, sock=here))
    done = loop.create_future()
    done.set_result(None)
    try:
        for number in range(20):
            there.send(b"%d" % number)
            loop.run_until_complete(done)
            assert received == [b"%d" % n for n in range(number + 1)]
    finally:
        transport.abort()
        there.close()
        loop.run_until_complete(asyncio.sleep(0))


def test_an_interrupted_write_takes_no_callback_with_it(loop, certificates):
    """Ctrl-C in the program's own code below a write, whenever that is sent: what was ready runs in the next run."""
    armed = False

    class Object(ssl.SSLObject):
        def write(self, data):
            nonlocal armed
            if armed:
                armed = False
                raise KeyboardInterrupt
            return super().write(data)

    def write():
        nonlocal armed
        armed = True
        near.write(b"hello")

    client = certificates.client()
    client.sslobject_class = Object
    certificates.client = lambda: client
    try:
        (near, _), (far, _) = loop.run_until_complete(tls_pair(loop, certificates))
    finally:
        del certificates.client
    calls = []
    loop.call_soon(write)
    for number in range(3):
        loop.call_soon(calls.append, number)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    run_turns(loop, 2)
    assert calls == [0, 1, 2]
    near.abort()
    far.abort()
    run_turns(loop, 3)
