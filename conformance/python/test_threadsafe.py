"""What other threads may do: call_soon_threadsafe, futures across threads, moving a loop."""

import asyncio
import concurrent.futures
import contextvars
import os
import signal
import sys
import threading
import time

import pytest

from harness import outcome, run_turns, scaled, until


def start(target, *args):
    thread = threading.Thread(target=target, args=args)
    thread.start()
    return thread


def test_a_hundred_threads_lose_nothing_and_keep_their_order(loop):
    threads, calls = 100, scaled(200)
    seen = {index: [] for index in range(threads)}
    left = threads * calls

    def callback(index, number):
        nonlocal left
        seen[index].append(number)
        left -= 1
        if not left:
            loop.stop()

    def work(index):
        for number in range(calls):
            loop.call_soon_threadsafe(callback, index, number)

    workers = [start(work, index) for index in range(threads)]
    loop.run_forever()
    for worker in workers:
        worker.join()
    assert all(numbers == list(range(calls)) for numbers in seen.values())


def test_eight_threads_call_at_full_speed(loop):
    """`make stress` makes a million calls in each thread."""
    threads, calls = 8, int(os.environ.get("ZLOOP_TEST_CALLS") or scaled(5000))
    seen = [0] * threads
    misplaced = []

    def callback(index, number):
        if number != seen[index]:
            misplaced.append((index, number, seen[index]))
        seen[index] += 1

    def work(index):
        for number in range(calls):
            loop.call_soon_threadsafe(callback, index, number)

    def wait():
        for worker in workers:
            worker.join()
        loop.call_soon_threadsafe(loop.stop)

    workers = [start(work, index) for index in range(threads)]
    waiter = start(wait)
    loop.run_forever()
    waiter.join()
    assert seen == [calls] * threads
    assert not misplaced, misplaced[:10]


def test_calls_made_before_the_loop_runs(loop):
    seen = []
    workers = [start(loop.call_soon_threadsafe, seen.append, index) for index in range(20)]
    for worker in workers:
        worker.join()
    run_turns(loop)
    assert sorted(seen) == list(range(20))


def test_an_idle_loop_wakes_at_once(loop):
    delays = []

    def work():
        for _ in range(20):
            time.sleep(0.002)  # the loop is asleep by now
            done = threading.Event()
            before = time.monotonic()
            loop.call_soon_threadsafe(
                lambda: (delays.append(time.monotonic() - before), done.set())
            )
            done.wait(10)
        loop.call_soon_threadsafe(loop.stop)

    far = loop.call_later(60, pytest.fail)
    worker = start(work)
    loop.run_forever()
    worker.join()
    far.cancel()
    assert sorted(delays)[10] < 0.02, delays


def test_ping_pong_between_threads_never_stalls(loop):
    """Each wake races with the loop going to sleep; a lost one hangs the test."""
    rounds = scaled(3000)
    turn = threading.Semaphore(0)
    count = 0

    def on_loop():
        nonlocal count
        count += 1
        turn.release()

    def work():
        for _ in range(rounds):
            loop.call_soon_threadsafe(on_loop)
            turn.acquire()
        loop.call_soon_threadsafe(loop.stop)

    worker = start(work)
    loop.run_forever()
    worker.join()
    assert count == rounds


def test_order_between_soon_and_threadsafe_of_another_thread(loop):
    """What another thread queued before a turn runs in that turn."""
    seen = []
    worker = start(lambda: [loop.call_soon_threadsafe(seen.append, i) for i in range(5)])
    worker.join()
    loop.call_soon(seen.append, "own")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [0, 1, 2, 3, 4, "own"]


def test_cancel_from_the_calling_thread(loop):
    handles = []

    def work():
        handle = loop.call_soon_threadsafe(pytest.fail, "cancelled")
        handle.cancel()
        handles.append(handle)

    start(work).join()
    run_turns(loop, 2)
    assert handles[0].cancelled()
    assert isinstance(handles[0], asyncio.Handle)


def test_cancel_from_many_threads_while_the_loop_runs(loop):
    """Cancelled means cancelled: whatever returned from cancel() before running never runs."""
    ran = [0]
    stop = threading.Event()

    def work():
        while not stop.is_set():
            handle = loop.call_soon_threadsafe(lambda: ran.__setitem__(0, ran[0] + 1))
            handle.cancel()
            assert handle.cancelled()

    workers = [start(work) for _ in range(4)]
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    stop.set()
    for worker in workers:
        worker.join()
    run_turns(loop, 2)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="before 3.14 cancel() does not wait")
def test_what_was_cancelled_by_other_threads_has_run_or_never_does(loop):
    """A storm: each thread schedules and cancels, and looks at once whether it was in time."""
    calls = scaled(3000)
    cells = [[], [], [], []]

    def work(mine):
        for number in range(calls):
            ran = []
            handle = loop.call_soon_threadsafe(ran.append, number)
            if number % 3:
                time.sleep(0)
            handle.cancel()
            mine.append((ran, len(ran)))

    def wait():
        for worker in workers:
            worker.join()
        loop.call_soon_threadsafe(loop.stop)

    workers = [start(work, mine) for mine in cells]
    waiter = start(wait)
    loop.run_forever()
    waiter.join()
    run_turns(loop, 2)
    assert [len(mine) for mine in cells] == [calls] * 4
    assert not [entry for mine in cells for entry in mine if len(entry[0]) != entry[1]]


def test_the_callers_context_is_taken(loop):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    def work():
        variable.set("thread")
        loop.call_soon_threadsafe(lambda: seen.append(variable.get()))
        context = contextvars.copy_context()
        context.run(variable.set, "given")
        loop.call_soon_threadsafe(lambda: seen.append(variable.get()), context=context)

    variable.set("main")
    start(work).join()
    run_turns(loop)
    assert seen == ["thread", "given"]


def test_closed_loop_refuses(loop_factory):
    loop = loop_factory()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_soon_threadsafe(lambda: None)


def test_closing_under_fire(loop_factory):
    """Threads call while the loop closes: a callback, or RuntimeError, nothing else."""
    loop = loop_factory()
    errors = []

    def work():
        try:
            while True:
                loop.call_soon_threadsafe(lambda: None)
        except RuntimeError as exc:
            errors.append(str(exc))
        except BaseException as exc:
            errors.append(exc)

    workers = [start(work) for _ in range(4)]
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    loop.close()
    for worker in workers:
        worker.join()
    assert errors == ["Event loop is closed"] * 4


def test_run_coroutine_threadsafe(loop):
    async def add(a, b):
        await asyncio.sleep(0.001)
        return a + b

    async def fail():
        raise ZeroDivisionError("boom")

    results = []

    def work():
        results.append(asyncio.run_coroutine_threadsafe(add(1, 2), loop).result(10))
        try:
            asyncio.run_coroutine_threadsafe(fail(), loop).result(10)
        except ZeroDivisionError as exc:
            results.append(str(exc))
        future = asyncio.run_coroutine_threadsafe(asyncio.sleep(60), loop)
        future.cancel()
        results.append(future.cancelled())
        loop.call_soon_threadsafe(loop.call_soon, loop.stop)

    worker = start(work)
    loop.run_forever()
    worker.join()
    assert results == [3, "boom", True]
    run_turns(loop, 3)


def test_wrap_future_and_executor_results_wake_the_loop(loop, run):
    async def main():
        source = concurrent.futures.Future()
        worker = start(lambda: (time.sleep(0.005), source.set_result("done")))
        result = await asyncio.wrap_future(source)
        worker.join()
        return result, await loop.run_in_executor(None, threading.get_ident)

    result, ident = run(main())
    assert result == "done" and ident != threading.get_ident()


def test_run_in_another_thread_than_the_creator(loop):
    idents = []

    async def main():
        idents.append(threading.get_ident())
        await asyncio.sleep(0.001)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        data = await reader.readexactly(5)
        writer.close()
        await writer.wait_closed()
        return data

    async def serve():
        async def echo(reader, writer):
            writer.write(await reader.readexactly(5))
            writer.close()

        return await asyncio.start_server(echo, "127.0.0.1", 0)

    server = loop.run_until_complete(serve())
    results = []
    worker = start(lambda: results.append(loop.run_until_complete(main())))
    worker.join()
    assert results == [b"hello"] and idents == [worker.ident]
    server.close()
    loop.run_until_complete(main_again())


async def main_again():
    """And back in the first thread."""
    await asyncio.sleep(0.001)


def test_loops_in_many_threads_at_once(loop_factory):
    results = []

    async def main(number):
        await asyncio.sleep(0.001 * (number % 3))
        return number

    def work(number):
        loop = loop_factory()
        try:
            results.append(loop.run_until_complete(main(number)))
        finally:
            loop.close()

    workers = [start(work, number) for number in range(12)]
    for worker in workers:
        worker.join()
    assert sorted(results) == list(range(12))


def test_stop_from_another_thread(loop):
    worker = start(lambda: (time.sleep(0.01), loop.call_soon_threadsafe(loop.stop)))
    loop.run_forever()
    worker.join()


def test_a_python_signal_handler_may_call_soon_threadsafe(loop):
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda *a: loop.call_soon_threadsafe(finish))

    def finish():
        seen.append("signal")
        loop.stop()

    try:
        far = loop.call_later(60, pytest.fail)
        worker = start(lambda: (time.sleep(0.02), signal.pthread_kill(main, signal.SIGUSR1)))
        main = threading.get_ident()
        loop.run_forever()
        far.cancel()
        worker.join()
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert seen == ["signal"]


def test_threads_and_timers_together(loop, run):
    """Wakes do not make timers late, timers do not swallow wakes."""
    count = 0

    def bump():
        nonlocal count
        count += 1

    def work():
        for _ in range(50):
            loop.call_soon_threadsafe(bump)
            time.sleep(0.0005)

    async def main():
        worker = start(work)
        start_time = loop.time()
        await asyncio.sleep(0.02)
        assert loop.time() - start_time >= 0.02
        await until(lambda: count == 50)
        worker.join()

    run(main())


def test_big_objects_cross_over(loop):
    """Arguments live until the callback ran, even if the calling thread is gone."""
    seen = []
    start(lambda: loop.call_soon_threadsafe(seen.append, bytearray(1 << 20))).join()
    run_turns(loop)
    assert len(seen[0]) == 1 << 20


@pytest.mark.zloop_only("asyncio looks whether a loop runs in one step, and takes it in another")
def test_one_of_several_threads_gets_the_loop(loop, monkeypatch):
    monkeypatch.setattr(loop, "_check_running", lambda: None)  # as if both had looked at once
    results = []

    def intrude():
        time.sleep(0.05)  # the loop sleeps by now
        results.append(outcome(loop.run_forever))
        results.append(loop.is_running())
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=intrude)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert results == [("RuntimeError", "This event loop is already running"), True]
    assert not loop.is_running()
