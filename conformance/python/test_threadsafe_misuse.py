"""What asyncio allows in the loop's own thread alone, done in another: most of it works there outside debug mode."""

import asyncio
import contextlib
import os
import socket
import threading
import time

import pytest

from harness import (
    FREE_THREADED,
    FULL,
    Recorder,
    connect,
    outcome,
    pattern,
    piped,
    recv_exactly,
    scaled,
    spin,
    tls_pair,
    unix_pair,
)

ASLEEP = 0.05  # after so many seconds the loop waits in the kernel


@pytest.fixture
def elsewhere(loop):
    """Await ``elsewhere(work)``: run ``work()`` in another thread while the loop sleeps."""
    loop.set_debug(False)

    def work_and_wake(work):
        time.sleep(ASLEEP)
        try:
            return work()
        finally:
            loop.call_soon_threadsafe(bool)  # asyncio's close() does not wake the loop

    return lambda work: loop.run_in_executor(None, work_and_wake, work)


def test_a_large_write_while_the_loop_sleeps(run, elsewhere):
    data = pattern(FULL)

    async def main():
        async with piped() as (transport, protocol, peer):

            def work():
                transport.write(data)
                return recv_exactly(peer, len(data))

            assert await elsewhere(work) == data
            while "resume" not in protocol.names:
                await asyncio.sleep(0.001)
            assert protocol.names == ["made", "pause", "resume"]
            transport.close()
            assert await protocol.lost is None

    run(main())


@pytest.mark.parametrize("size", [5, FULL], ids=["small", "large"])
@pytest.mark.parametrize("how", ["close", "write_eof"])
def test_the_end_while_the_loop_sleeps(run, elsewhere, how, size):
    data = pattern(size)

    async def main():
        async with piped() as (transport, protocol, peer):

            def work():
                transport.write(data)
                getattr(transport, how)()

            def read():
                return recv_exactly(peer, size + 1)

            _, got = await asyncio.gather(elsewhere(work), asyncio.to_thread(read))
            assert got == data
            transport.close()
            assert await protocol.lost is None

    run(main())


@pytest.mark.parametrize("ends", [False, True], ids=["open", "closed"])
def test_a_pipe_is_written_while_the_loop_sleeps(run, loop, elsewhere, ends):
    data = pattern(1_000_000)

    async def main():
        read_end, write_end = os.pipe()
        transport, protocol = await loop.connect_write_pipe(
            lambda: Recorder(loop), os.fdopen(write_end, "wb", 0)
        )

        def work():
            transport.write(data)
            if ends:
                transport.close()
            with os.fdopen(read_end, "rb", closefd=False) as file:
                return file.read(len(data))

        assert await elsewhere(work) == data
        await spin(3)
        transport.close()
        assert await protocol.lost is None
        os.close(read_end)
        assert protocol.names == ["made", "pause", "resume", "lost"]

    run(main())


def test_tls_is_written_while_the_loop_sleeps(run, loop, elsewhere, certificates, engine):
    data = pattern(FULL)

    async def main():
        (transport, protocol), (_, peer) = await tls_pair(loop, certificates)

        def work():
            transport.write(data)
            transport.write(b"bye")

        await elsewhere(work)
        assert await peer.got(FULL + 3) == data + b"bye"
        transport.close()
        await protocol.lost
        await peer.lost

    run(main())


@pytest.mark.parametrize("call", ["add_reader", "add_writer"])
def test_watching_while_the_loop_sleeps(run, loop, loop_factory, elsewhere, call):
    """zloop's backends belong to the thread that waits in them."""

    async def main():
        near, far = socket.socketpair()
        with near, far:
            result = await elsewhere(lambda: outcome(lambda: getattr(loop, call)(near, bool)))
            if loop_factory.is_zloop:
                assert result[0] == "RuntimeError"
                assert result[1].startswith("Non-thread-safe operation invoked")
            else:
                assert result is None
            remove = getattr(loop, call.replace("add", "remove"))
            assert remove(near) is not loop_factory.is_zloop

    run(main())


@pytest.mark.parametrize("both", [False, True], ids=["one-direction", "of-two"])
def test_watching_ends_while_the_loop_sleeps(run, loop, elsewhere, both):
    """What is not watched any more does not wake the loop, and what still is does."""

    async def main():
        calls = []
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            if both:
                with contextlib.suppress(BlockingIOError):
                    while near.send(bytes(4096)):
                        pass
                loop.add_writer(near, calls.append, "writer")
            loop.add_reader(near, calls.append, "reader")
            assert await elsewhere(lambda: loop.remove_reader(near))
            far.send(b"x")
            used = time.thread_time()
            await asyncio.sleep(0.2)
            assert time.thread_time() - used < 0.1
            assert calls == []
            if both:
                recv_exactly(far, 4096)
                far.close()
                await asyncio.sleep(0.01)
                assert set(calls) == {"writer"}
                assert loop.remove_writer(near)

    run(main())


@pytest.mark.skipif(not FREE_THREADED, reason="with a GIL the threads take turns")
def test_two_threads_are_the_first_to_write(run, loop):
    """The backend has to know of a transport before either of them sends."""
    loop.set_debug(False)
    offered, taken, over = [], [], threading.Event()

    def write(transport, data):
        transport.write(data)
        transport.get_write_buffer_size()  # what was written leaves now

    def other_thread():
        while not over.is_set():
            if offered:
                taken.append(offered.pop())
                write(taken[0], b"b")

    class Offering(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            offered.append(transport)
            while not taken:
                pass
            write(transport, b"a")

    async def main():
        enough = time.monotonic() + 5  # where other programs have the cores, fewer will do
        for _ in range(scaled(10_000)):
            if time.monotonic() > enough:
                break
            near, far = unix_pair()
            with far:
                far.settimeout(10)
                transport, protocol = await connect(near, Offering(loop))
                assert sorted(recv_exactly(far, 2)) == [*b"ab"]
                assert not protocol.lost.done()
                transport.abort()
                await protocol.lost
            taken.clear()

    other = threading.Thread(target=other_thread)
    other.start()
    try:
        run(main())
    finally:
        over.set()
        other.join()
