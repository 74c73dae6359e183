"""Debug mode: how it is switched, slow callbacks, thread checks, tracebacks of coroutines."""

import asyncio
import logging
import re
import sys
import threading
import time

import pytest

from harness import outcome, run_turns, unix_pair


@pytest.fixture
def warnings_log():
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger("asyncio").addHandler(handler)
    yield records
    logging.getLogger("asyncio").removeHandler(handler)


def test_switching(loop):
    loop.set_debug(True)
    assert loop.get_debug() is True
    loop.set_debug(False)
    assert loop.get_debug() is False


@pytest.mark.parametrize(
    ("env", "flags", "expected"),
    [
        ({"PYTHONASYNCIODEBUG": "1"}, "", "True"),
        ({"PYTHONASYNCIODEBUG": ""}, "", "False"),
        ({"PYTHONASYNCIODEBUG": "", "PYTHONDEVMODE": "1"}, "", "True"),
    ],
)
def test_environment(script, env, flags, expected):
    done = script("loop = new_event_loop(); print(bool(loop.get_debug())); loop.close()", env=env)
    assert done.stdout.strip() == expected


def test_slow_callbacks_are_logged(debug_loop, warnings_log):
    def slow():
        time.sleep(0.01)

    debug_loop.slow_callback_duration = 0.005
    debug_loop.call_soon(slow)
    run_turns(debug_loop)
    text = next(message for message in warnings_log if "slow" in message)
    assert re.fullmatch(
        r"Executing <Handle .*slow\(\) at .*test_debug_mode\.py:\d+ created at .*:\d+> took 0\.\d\d\d seconds",
        text,
    )


def test_slow_tasks_are_logged(debug_loop, warnings_log):
    async def slow():
        time.sleep(0.01)

    debug_loop.slow_callback_duration = 0.005
    debug_loop.run_until_complete(slow())
    text = next(message for message in warnings_log if "slow" in message)
    assert re.match(
        r"Executing <Task (pending|finished) .*slow\(\).* took 0\.\d\d\d seconds$", text
    )


def test_slow_timers_and_readers_are_logged(debug_loop, warnings_log):
    near, far = unix_pair()

    def slow_reader():
        debug_loop.remove_reader(near)
        time.sleep(0.01)

    debug_loop.slow_callback_duration = 0.005
    with near, far:
        far.send(b"x")
        debug_loop.add_reader(near, slow_reader)
        debug_loop.call_later(0, lambda: time.sleep(0.01))
        run_turns(debug_loop, 3)
    texts = [message for message in warnings_log if message.startswith("Executing <")]
    assert any("slow_reader" in text for text in texts)
    assert any("<TimerHandle when=" in text for text in texts)


def test_quick_callbacks_are_not_logged(debug_loop, warnings_log):
    assert debug_loop.slow_callback_duration == 0.1
    for _ in range(10):
        debug_loop.call_soon(lambda: None)
    run_turns(debug_loop)
    assert warnings_log == []


def test_cancelled_callbacks_are_not_logged(debug_loop, warnings_log):
    """Nothing of them ran, however short a time counts as slow."""
    debug_loop.slow_callback_duration = 0
    debug_loop.call_soon(len, "cancelled").cancel()
    debug_loop.call_soon(len, "executed")
    debug_loop.call_soon(debug_loop.stop)
    debug_loop.run_forever()
    texts = "".join(warnings_log)
    assert "executed" in texts
    assert "cancelled" not in texts


def test_nothing_is_timed_outside_debug_mode(loop, warnings_log):
    loop.set_debug(False)
    loop.slow_callback_duration = 0.001
    loop.call_soon(time.sleep, 0.005)
    run_turns(loop)
    assert warnings_log == []


THREAD_ERROR = (
    "RuntimeError",
    "Non-thread-safe operation invoked on an event loop other than the current one",
)


@pytest.mark.parametrize("call", ["call_soon", "call_later", "call_at", "call_soon_threadsafe"])
def test_calls_from_another_thread(debug_loop, call):
    delay = () if "soon" in call else (1,)
    results = []

    def work():
        results.append(outcome(lambda: getattr(debug_loop, call)(*delay, bool)))
        debug_loop.call_soon_threadsafe(debug_loop.stop)

    thread = threading.Thread(target=work)
    debug_loop.call_soon(thread.start)
    debug_loop.run_forever()
    thread.join()
    if call == "call_soon_threadsafe":
        assert isinstance(results[0], asyncio.Handle)
    else:
        assert results == [THREAD_ERROR]


@pytest.mark.parametrize("call", ["call_soon", "call_later", "call_at"])
def test_calls_to_a_loop_that_does_not_run(debug_loop, call):
    """Only a running loop knows its thread."""
    delay = () if "soon" in call else (1,)
    results = []
    thread = threading.Thread(
        target=lambda: results.append(getattr(debug_loop, call)(*delay, bool))
    )
    thread.start()
    thread.join()
    assert isinstance(results[0], asyncio.Handle)
    results[0].cancel()


def test_no_thread_check_outside_debug_mode(loop):
    loop.set_debug(False)
    results = []

    def work():
        results.append(outcome(lambda: loop.call_soon(bool)))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=work)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert isinstance(results[0], asyncio.Handle)


async def coroutine_function():
    """Something that must not be passed as a callback."""


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("call", ["call_soon", "call_later", "call_at", "call_soon_threadsafe"])
@pytest.mark.parametrize("what", ["function", "coroutine", "none", "number"])
def test_what_is_no_callback(compare, call, what, debug):
    def scenario(loop, reports):
        loop.set_debug(debug)
        delay = () if "soon" in call else (0,)
        coroutine = coroutine_function()
        thing = {"function": coroutine_function, "coroutine": coroutine, "none": None, "number": 5}[
            what
        ]
        result = outcome(lambda: getattr(loop, call)(*delay, thing))
        if isinstance(result, asyncio.Handle):
            result.cancel()
            result = "accepted"
        coroutine.close()
        return result

    result = compare(scenario)
    if debug:
        name = "call_at" if call == "call_later" else call
        assert result[0] == "TypeError" and name.split("_thr")[0] in result[1]


def test_coroutine_origins_are_tracked_while_running(debug_loop):
    async def main():
        return sys.get_coroutine_origin_tracking_depth()

    before = sys.get_coroutine_origin_tracking_depth()
    assert debug_loop.run_until_complete(main()) > 0
    assert sys.get_coroutine_origin_tracking_depth() == before
    debug_loop.set_debug(False)
    assert debug_loop.run_until_complete(main()) == before


def test_set_debug_while_running(loop):
    loop.set_debug(False)

    async def main():
        loop.set_debug(True)
        await asyncio.sleep(0)
        on = sys.get_coroutine_origin_tracking_depth()
        handle = loop.call_soon(bool)
        loop.set_debug(False)
        await asyncio.sleep(0)
        return on, handle._source_traceback, sys.get_coroutine_origin_tracking_depth()

    on, traceback, off = loop.run_until_complete(main())
    assert on > 0 and traceback and off == 0


def test_source_tracebacks_of_tasks_and_futures(debug_loop):
    async def main():
        await asyncio.sleep(0)

    coroutine = main()
    task = debug_loop.create_task(coroutine)
    future = debug_loop.create_future()
    for thing in (task, future):
        assert any("test_debug_mode.py" in frame.filename for frame in thing._source_traceback)
    debug_loop.run_until_complete(task)


def test_unclosed_transports_warn(loop):
    """A transport that is forgotten closes its socket with a ResourceWarning."""
    import gc
    import warnings

    near, far = unix_pair()
    near.setblocking(False)

    async def main():
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        return repr(transport)

    loop.run_until_complete(main())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.close()
        gc.collect()
    far.close()
    assert any("unclosed transport" in str(w.message) for w in caught)


def test_debug_mode_end_to_end(debug_loop):
    """An echo over TCP works the same with every check switched on."""

    async def echo(reader, writer):
        writer.write(await reader.read(100))
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping")
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return data

    assert debug_loop.run_until_complete(main()) == b"ping"
