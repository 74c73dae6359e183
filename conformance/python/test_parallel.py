"""`zloop.run_parallel`: loops in threads that start, fail and end together."""

import asyncio
import contextlib
import contextvars
import gc
import os
import socket
import sys
import threading
import time
import warnings
import weakref

import pytest

from harness import HOST, run_script

pytestmark = pytest.mark.zloop_only("this is zloop's own interface")

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture
def parallel(loop_factory):
    """``run_parallel`` on the backend under test, without its warning of the GIL."""
    import zloop

    def run(main, loops=3, **options):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "this Python has a global", RuntimeWarning)
            return zloop.run_parallel(main, loops=loops, backend=loop_factory.backend, **options)

    return run


def others():
    return [thread for thread in threading.enumerate() if thread.name.startswith("zloop-")]


class Start:
    """Where mains wait until all of them run."""

    def __init__(self, count=3):
        self.missing = set(range(count))

    async def everybody(self, index):
        self.missing.discard(index)
        while self.missing:
            await asyncio.sleep(0.001)


def test_results_come_in_order(parallel, loop_factory):
    seen = {}

    async def main(index):
        # The first ends last.
        await asyncio.sleep(0.05 if index == 0 else 0)
        seen[index] = threading.current_thread(), asyncio.get_running_loop()
        return index * 10

    assert parallel(main) == [0, 10, 20]
    assert seen[0][0] is threading.current_thread()
    assert [seen[index][0].name for index in (1, 2)] == ["zloop-1", "zloop-2"]
    loops = {loop for _, loop in seen.values()}
    assert len(loops) == 3
    assert all(loop.is_closed() and loop.backend == loop_factory.backend for loop in loops)
    assert others() == []


def test_all_run_at_once(parallel):
    barrier = threading.Barrier(3)

    async def main(index):
        # Only if nobody waits for another to end can all be here.
        await asyncio.to_thread(barrier.wait, 10)

    parallel(main)


def test_one_loop_and_no_loop(parallel):
    async def main(index):
        return index

    assert parallel(main, loops=1) == [0]
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"^loops must be at least 1, not {wrong}$"):
            parallel(main, loops=wrong)


def test_the_default_is_what_can_run_at_once(loop_factory):
    import zloop

    async def main(index):
        return index

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = zloop.run_parallel(main, backend=loop_factory.backend)
    cores = getattr(os, "process_cpu_count", os.cpu_count)()
    assert results == list(range(1 if GIL else cores))


@pytest.mark.skipif(not GIL, reason="this Python has no GIL to warn of")
def test_a_gil_is_warned_of(loop_factory):
    import zloop

    async def main(index):
        pass

    with pytest.warns(RuntimeWarning, match="2 loops will share one core") as caught:
        zloop.run_parallel(main, loops=2, backend=loop_factory.backend)
    assert caught[0].filename == __file__


def test_the_first_failure_cancels_the_others(parallel):
    ended = []
    start = Start()

    async def main(index):
        try:
            await start.everybody(index)
            if index == 1:
                raise LookupError("mine")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # the others may take their time
            ended.append(index)
            raise

    began = time.monotonic()
    with pytest.raises(ExceptionGroup) as caught:
        parallel(main)
    assert time.monotonic() - began < 30
    assert caught.value.message == "unhandled errors in zloop.run_parallel()"
    assert [repr(error) for error in caught.value.exceptions] == ["LookupError('mine')"]
    assert sorted(ended) == [0, 2]
    assert others() == []


def test_all_failures_are_told(parallel):
    start = Start()

    async def main(index):
        try:
            await start.everybody(index)
            await asyncio.sleep(60 if index else 0)
        finally:
            raise ValueError(index)

    with pytest.raises(ExceptionGroup) as caught:
        parallel(main)
    assert sorted(error.args[0] for error in caught.value.exceptions) == [0, 1, 2]


def test_a_main_that_is_not_a_coroutine(parallel):
    def main(index):
        return index

    with pytest.raises(ExceptionGroup) as caught:
        parallel(main)
    assert {type(error) for error in caught.value.exceptions} == {TypeError}


@pytest.mark.parametrize("index", [0, 1])
def test_system_exit_is_raised_as_it_is(parallel, index):
    cancelled = []
    start = Start()

    async def main(me):
        try:
            await start.everybody(me)
            if me == index:
                raise SystemExit(7)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(me)
            raise

    with pytest.raises(SystemExit) as caught:
        parallel(main)
    assert caught.value.code == 7
    assert sorted(cancelled) == [me for me in range(3) if me != index]


def test_a_main_that_cancels_itself(parallel):
    async def main(index):
        if index == 2:
            asyncio.current_task().cancel()
        await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        parallel(main)


def test_inside_a_running_loop(parallel, loop):
    async def main(index):
        pass

    async def outer():
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            parallel(main)

    loop.run_until_complete(outer())


def test_context_and_debug(parallel):
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("the caller's")

    async def main(index):
        seen = variable.get()
        variable.set(index)
        return seen, asyncio.get_running_loop().get_debug()

    assert parallel(main, debug=True) == [("the caller's", True)] * 3
    assert variable.get() == "the caller's"


def test_an_unknown_backend_starts_nothing():
    import zloop

    started = []

    async def main(index):
        started.append(index)

    with pytest.raises(ValueError, match="nonsense"):
        zloop.run_parallel(main, loops=1, backend="nonsense")
    assert started == []


def test_a_thread_that_cannot_start(parallel, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "zloop-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)

    async def main(index):
        await asyncio.sleep(60)

    with pytest.raises(ExceptionGroup) as caught:
        parallel(main)
    assert [str(error) for error in caught.value.exceptions] == ["can't start new thread"]
    assert others() == []


def test_nothing_is_kept(parallel):
    class Error(Exception):
        pass

    kept = []

    async def main(index):
        error = Error()
        kept.append(weakref.ref(error))
        raise error

    with contextlib.suppress(ExceptionGroup):
        parallel(main)
    gc.collect()
    assert kept
    assert all(reference() is None for reference in kept)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="this system has no SO_REUSEPORT")
def test_a_server_on_every_loop(parallel):
    with socket.socket() as placeholder:
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        placeholder.bind((HOST, 0))
        port = placeholder.getsockname()[1]
        done = threading.Event()
        listening = threading.Barrier(4)
        served = [0, 0, 0]

        async def main(index):
            async def echo(reader, writer):
                served[index] += 1
                writer.write(await reader.readline())
                await writer.drain()
                writer.close()
                await writer.wait_closed()

            server = await asyncio.start_server(echo, HOST, port, reuse_port=True)
            async with server:
                await asyncio.to_thread(listening.wait, 20)
                await asyncio.to_thread(done.wait, 20)

        def clients():
            listening.wait(20)
            try:
                for number in range(60):
                    with socket.create_connection((HOST, port), timeout=10) as client:
                        line = b"%d\n" % number
                        client.sendall(line)
                        assert client.recv(100) == line
            finally:
                done.set()

        failures = []
        thread = threading.Thread(target=lambda: failures.append(catch(clients)))
        thread.start()
        parallel(main)
        thread.join()
        assert failures == [None]
        assert sum(served) == 60
        # The kernel spreads them; that one loop gets none of 60 has a chance of less than 1 in 10 ** 10.
        assert min(served) > 0


def catch(function):
    """What `function` raises."""
    try:
        function()
    except BaseException as error:
        return error
    return None


INTERRUPTED = """
import os, signal, threading, warnings
warnings.simplefilter("ignore")
QUICK = {quick}
running = []

async def main(index):
    if index == 0 and QUICK:
        return
    try:
        running.append(asyncio.get_running_loop())
        if len(running) == 3 - QUICK:
            threading.Timer(0.1, kill).start()
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.2 * (index == 1))  # the one that is waited for first ends last
        os.write(1, b"ended %d\\n" % index)  # whole lines, whatever the other threads write

def kill():
    os.kill(os.getpid(), signal.SIGINT)

try:
    zloop.run_parallel(main, loops=3, backend={backend!r})
except KeyboardInterrupt:
    print("interrupted", [loop.is_closed() for loop in running])
"""


@pytest.mark.parametrize("quick", [False, True], ids=["first-runs", "first-has-ended"])
def test_ctrl_c_ends_all(loop_factory, quick):
    code = INTERRUPTED.format(quick=quick, backend=loop_factory.backend)
    done = run_script(loop_factory, code)
    *ended, last = done.stdout.split("\n")[:-1]
    assert sorted(ended) == [f"ended {index}" for index in range(quick, 3)]
    assert last == f"interrupted {[True] * (3 - quick)}"


CLOSING = """
import os, signal, threading, time, warnings
warnings.simplefilter("ignore")
running = threading.Event()

async def main(index):
    if index == 0:
        loop = asyncio.get_running_loop()
        while not running.is_set():
            await asyncio.sleep(0.001)
        loop.run_in_executor(None, closing)  # closing the runner waits for it
        return
    try:
        running.set()
        await asyncio.sleep(15)
        os.write(1, b"slept\\n")
    finally:
        os.write(1, b"ended\\n")

def closing():
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)

try:
    zloop.run_parallel(main, loops=2, backend={backend!r})
except KeyboardInterrupt:
    names = [thread.name for thread in threading.enumerate()]
    print("interrupted", [name for name in names if name.startswith("zloop-")])
"""


def test_ctrl_c_while_the_first_loop_closes(loop_factory):
    done = run_script(loop_factory, CLOSING.format(backend=loop_factory.backend))
    assert done.stdout.splitlines() == ["ended", "interrupted []"]


def test_ctrl_c_while_a_thread_starts(parallel, monkeypatch):
    start = threading.Thread.start

    def interrupt(thread):
        if thread.name == "zloop-2":
            raise KeyboardInterrupt
        start(thread)
        if thread.name == "zloop-1" and late:
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupt)

    async def main(index):
        await asyncio.sleep(60)

    for late in (False, True):
        with pytest.raises(KeyboardInterrupt):
            parallel(main)
        assert others() == []
