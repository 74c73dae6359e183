"""Turns of many callbacks that write: what they wrote leaves in order, and nobody who asks is kept waiting."""

import asyncio
import contextlib
import contextvars
import gc
import socket
import sys
import time
import weakref

import pytest

from harness import Recorder, pattern, piped, read_noting, recv_exactly, spin, unix_pair

# More callbacks and transports than zloop waits for.
CROWD = 40


@contextlib.asynccontextmanager
async def crowd(factory=Recorder):
    """Many transports, each with the blocking socket at its other end."""
    async with contextlib.AsyncExitStack() as stack:
        pipes = [await stack.enter_async_context(piped(factory(), unix_pair)) for _ in range(CROWD)]
        yield [(transport, peer) for transport, _, peer in pipes]


def is_there(peer: socket.socket) -> bool:
    """Whether something can be received at once."""
    try:
        return bool(peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


def received(pairs, expected):
    return [recv_exactly(peer, len(data)) for (_, peer), data in zip(pairs, expected, strict=True)]


def fill(transport) -> int:
    """Fill a transport's socket behind its back; how many bytes that took."""
    filled = 0
    with transport.get_extra_info("socket").dup() as sock:
        sock.setblocking(False)
        for size in (1000, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    filled += sock.send(bytes(size))
    return filled


def last_four(pairs, filled):
    time.sleep(0.05)  # the loop waits by now
    for _, peer in pairs:
        peer.settimeout(5)
    return [
        recv_exactly(peer, size + 4)[-4:] for (_, peer), size in zip(pairs, filled, strict=True)
    ]


def test_all_of_them_find_their_sockets_full(run, loop):
    """What they wrote leaves when there is room, though nothing else wakes the loop."""

    async def main():
        async with crowd() as pairs:
            filled = [fill(transport) for transport, _ in pairs]
            await asyncio.sleep(0.001)
            read = loop.run_in_executor(None, last_four, pairs, filled)
            for transport, _ in pairs:
                loop.call_soon(transport.write, b"END!")
            assert await read == [b"END!"] * len(pairs)

    run(main())


def test_all_of_them_are_served(run, loop):
    async def main():
        async with crowd() as pairs:
            for turn in range(3):
                for number, (transport, _) in enumerate(pairs):
                    for part in (b"<", b"%d:%d" % (turn, number), b">"):
                        loop.call_soon(transport.write, part)
                expected = [b"<%d:%d>" % (turn, number) for number in range(CROWD)]
                assert await loop.run_in_executor(None, received, pairs, expected) == expected

    run(main())


def test_the_data_of_one_callback_leaves_in_the_order_of_writing(run, loop):
    """A peer that hears of the last one finds the others' data, too."""

    async def main():
        async with crowd() as pairs:
            reader, writer = socket.socketpair()
            with reader, writer:
                reader.setblocking(False)
                last, peer = pairs[-1]
                for transport, _ in pairs:
                    loop.call_soon(transport.write, b"x")
                got = await loop.run_in_executor(None, recv_exactly, peer, 1)
                assert got == b"x"
                assert all(is_there(other) for _, other in pairs[:-1])

    run(main())


@pytest.mark.parametrize("ask", ["get_write_buffer_size", "write_eof", "close"])
def test_whoever_asks_in_the_same_turn_has_the_data_sent(run, loop, ask):
    async def main():
        async with crowd() as pairs:
            seen = []

            def look():
                transport, peer = pairs[0]
                getattr(transport, ask)()
                seen.append(is_there(peer))

            for transport, _ in pairs[:4]:
                loop.call_soon(transport.write, b"data")
            loop.call_soon(look)
            for _ in range(CROWD):
                loop.call_soon(int)
            await spin(2)
            assert seen == [True]

    run(main())


def test_a_second_write_pauses_nobody_for_whom_there_is_room(run, loop):
    async def main():
        async with crowd() as pairs:
            transport, peer = pairs[0]
            transport.set_write_buffer_limits(high=10)
            events = transport.get_protocol().events
            for other, _ in pairs:
                loop.call_soon(other.write, b"12345")
            loop.call_soon(transport.write, b"12345678")
            await spin(2)
            assert recv_exactly(peer, 13) == b"1234512345678"
            assert [name for name, *_ in events] == ["made"]

    run(main())


@pytest.mark.parametrize("size", [10, 4096, 4097, 100_000], ids=str)
@pytest.mark.parametrize("ending", [None, "close", "write_eof"])
def test_all_protocols_answer_what_they_get(run, loop, size, ending):
    """In one turn, and some of them end the connection with it."""

    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.write(data)
            self.transport.write(pattern(size - len(data)))
            if ending:
                getattr(self.transport, ending)()

    async def main():
        async with crowd(Protocol) as pairs:
            for turn in range(1 if ending else 3):
                asked = [b"%d:%d" % (turn, number) for number in range(CROWD)]
                for (_, peer), question in zip(pairs, asked, strict=True):
                    peer.sendall(question)
                expected = [question + pattern(size - len(question)) for question in asked]
                assert await loop.run_in_executor(None, received, pairs, expected) == expected
            if ending:
                ends = await loop.run_in_executor(None, lambda: [p.recv(1) for _, p in pairs])
                assert ends == [b""] * CROWD

    run(main())


def test_who_answers_last_finds_that_the_others_have_left(run, loop):
    """All of them answer in one turn, also those whose sockets are full."""

    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.write(b"END!")
            answered.append(self.transport)
            if len(answered) == CROWD:
                sizes.update((t, t.get_write_buffer_size()) for t in answered)

    async def main():
        async with crowd(Protocol) as pairs:
            filled = [fill(pair[0]) if number % 2 else 0 for number, pair in enumerate(pairs)]
            for _, peer in pairs:
                peer.sendall(b"x")
            while not sizes:
                await asyncio.sleep(0)
            assert [sizes[transport] for transport, _ in pairs] == [4 if n else 0 for n in filled]
            read = loop.run_in_executor(None, last_four, pairs, filled)
            assert await read == [b"END!"] * CROWD

    answered, sizes = [], {}
    run(main())


# Above the usual high mark, below what zloop holds back for others.
LARGE = 100_000


def test_large_data_of_all_of_them_leaves(run, loop):
    """Heads and bodies, in the order of writing, though some go before others."""

    async def main():
        async with crowd() as pairs:
            for size in (LARGE, 200_000, 1_000_000):
                expected = [b"<%d>" % number + pattern(size) for number in range(CROWD)]
                for (transport, _), data in zip(pairs, expected, strict=True):
                    loop.call_soon(transport.write, data[:10])
                    loop.call_soon(transport.writelines, [data[10:50_000], data[50_000:]])
                assert await loop.run_in_executor(None, received, pairs, expected) == expected
                assert {name for t, _ in pairs for name in names(t)} <= {"made", "pause", "resume"}
            assert not any(transport.get_write_buffer_size() for transport, _ in pairs)

    run(main())


def names(transport):
    return transport.get_protocol().names


def test_large_data_that_finds_room_pauses_nobody(run, loop):
    """As many as leave together, and more; whether they have left can be seen when the turn is over."""

    async def main():
        async with crowd() as pairs:
            for transport, _ in pairs:
                loop.call_soon(transport.write, bytes(LARGE))
            await spin(2)
            assert all(names(transport) == ["made"] for transport, _ in pairs)
            assert all(is_there(peer) for _, peer in pairs)

    run(main())


@pytest.mark.parametrize("high", [1000, 64 * 1024, 2**20])
def test_large_data_that_finds_none_pauses_the_writer(run, loop, high):
    """In its context; inside `write()` if its mark is a low one, on asyncio always."""
    variable = contextvars.ContextVar("variable", default="creator")

    class Protocol(Recorder):
        def pause_writing(self):
            super().pause_writing()
            told.append(("pause", variable.get()))

        def resume_writing(self):
            super().resume_writing()
            told.append(("resume", variable.get()))

    def write(transport):
        variable.set("writer")
        transport.write(bytes(LARGE))
        inside.append(bool(told))

    async def main():
        async with crowd() as others, piped(Protocol(), unix_pair) as (transport, _, peer):
            transport.set_write_buffer_limits(high)
            fill(transport)
            for other, _ in others:
                loop.call_soon(other.write, b"x")
            loop.call_soon(write, transport)
            await spin(2)
            assert told == calls[:1]
            if high < 64 * 1024:
                assert inside == [True]
            await until_read(peer, transport)
            assert told == calls

    told, inside = [], []
    resumed = "creator" if sys.version_info >= (3, 15) else "writer"
    calls = [("pause", "writer"), ("resume", resumed)] if high < LARGE else []
    run(main())


async def until_read(peer, transport):
    """Receive until the transport has nothing left, and has said so."""
    peer.setblocking(False)
    while transport.get_write_buffer_size():
        with contextlib.suppress(BlockingIOError):
            while peer.recv(1 << 20):
                pass
        await asyncio.sleep(0.001)
    await spin(2)


def test_what_was_held_back_keeps_no_context(run, loop):
    """A connection at rest is small, and what its last writer's variables refer to is not its business."""
    variable = contextvars.ContextVar("variable")

    class Thing:
        pass

    def write(transport):
        thing = Thing()
        things.append(weakref.ref(thing))
        variable.set(thing)
        transport.write(bytes(LARGE))

    async def main():
        async with crowd() as pairs:
            for transport, _ in pairs:
                loop.call_soon(write, transport)
            await spin(2)
            gc.collect()
            assert len(things) == CROWD
            assert not any(thing() for thing in things)

    things = []
    run(main())


def test_exceptions_and_the_end_of_the_run_lose_nothing(loop):
    class Leave(SystemExit):
        pass

    def leave():
        raise Leave

    async def start(stack):
        return await stack.enter_async_context(crowd())

    async def stop(stack):
        await stack.aclose()

    stack = contextlib.AsyncExitStack()
    pairs = loop.run_until_complete(start(stack))
    for ending in (loop.stop, leave):
        for index, (transport, _) in enumerate(pairs):
            if index == 7:
                loop.call_soon(ending)
            loop.call_soon(transport.write, b"data")
        with contextlib.suppress(Leave):
            loop.run_forever()
        first = pairs[:7] if ending is leave else pairs
        assert all(is_there(peer) for _, peer in first)
        loop.run_until_complete(asyncio.sleep(0))
        for _, peer in pairs:
            assert recv_exactly(peer, 4) == b"data"
    loop.run_until_complete(stop(stack))


@pytest.mark.parametrize("is_read_between_the_runs", [False, True])
def test_a_run_that_ends_leaves_no_second_call_behind(run, loop, is_read_between_the_runs):
    """What comes while the last turn's data leaves is reported to the next run, once, if it is there by then."""
    calls = []

    async def main():
        async with crowd() as pairs:
            await asyncio.sleep(0.001)
            for transport, _ in pairs:
                loop.call_soon(transport.write, b"x")
            loop.call_soon(far.send, b"new")
            loop.call_soon(loop.stop)
            await stopped

    near, far = unix_pair()
    with near, far:
        near.setblocking(False)
        loop.add_reader(near, read_noting, near, calls)
        stopped = loop.create_future()
        task = loop.create_task(main())
        loop.run_forever()
        if is_read_between_the_runs and not calls:
            calls.append(near.recv(10))
        stopped.set_result(None)
        run(task)
        loop.remove_reader(near)
    assert calls == [b"new"]
