"""The TCP transport: what write takes, when it leaves, and in which order."""

import contextvars
import socket

import pytest

from harness import (
    FULL,
    Recorder,
    kind_name,
    outcome,
    pattern,
    piped,
    recv_exactly,
    reset,
    spin,
    tcp_pair,
    unix_pair,
)

both_kinds = pytest.mark.parametrize("sockets", [tcp_pair, unix_pair], ids=["tcp", "unix"])


def test_kinds_of_buffers(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            import array

            pieces = [
                b"bytes",
                bytearray(b"bytearray"),
                memoryview(b"memoryview"),
                b"",
                bytearray(),
            ]
            for piece in pieces:
                transport.write(piece)
            transport.write(memoryview(b"0123456789")[2:8:1])

            class Bytes(bytes):
                pass

            transport.write(Bytes(b"subclass"))
            transport.write(memoryview(array.array("b", b"array")))
            await spin(2)
            expected = b"bytesbytearraymemoryview234567subclassarray"
            assert recv_exactly(peer, len(expected)) == expected

    run(main())


every_mutable_kind = pytest.mark.parametrize("kind", ["bytearray", "memoryview", "writelines"])


async def change_after_write(loop, kind, size):
    """What was in the buffer at the call is what goes out, whatever happens to it later."""
    data = pattern(size)
    async with piped() as (transport, _, peer):
        buffer = bytearray(data)
        if kind == "bytearray":
            transport.write(buffer)
        elif kind == "memoryview":
            transport.write(memoryview(buffer))
        else:
            transport.writelines([memoryview(buffer)[: size // 2], buffer[size // 2 :]])
        buffer[:] = b"\xff" * size
        if kind == "bytearray":
            buffer.clear()  # no export of it is kept
        assert await loop.run_in_executor(None, recv_exactly, peer, size) == data


@every_mutable_kind
@pytest.mark.parametrize("size", [10, 60_000])
def test_buffers_may_be_changed_after_write(run, loop, kind, size):
    run(change_after_write(loop, kind, size))


@pytest.mark.zloop_only("asyncio 3.12 and newer refer to the rest of a large mutable buffer")
@every_mutable_kind
def test_large_buffers_may_be_changed_after_write(run, loop, kind):
    run(change_after_write(loop, kind, FULL))


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_large_buffers_keep_their_place(run, loop, kind):
    """Behind what was written before, whether it has left, waits for the callback's end or for room in the socket."""

    async def main():
        async with piped() as (transport, protocol, peer):
            sent = bytearray()
            for before in (0, 10, 70_000, FULL, 0):
                for data in (pattern(before), pattern(100_000), b"|", pattern(FULL), b"end"):
                    transport.write(kind(bytearray(data)))
                    sent += data
            assert protocol.names == ["made", "pause"]
            assert await loop.run_in_executor(None, recv_exactly, peer, len(sent)) == sent
            await spin(3)
            assert protocol.names == ["made", "pause", "resume"]

    run(main())


ON_A_CONNECTION_WITHOUT_USE = {
    "ended": lambda transport, peer: transport.write_eof(),
    "closed": lambda transport, peer: transport.close(),
    "aborted": lambda transport, peer: transport.abort(),
    "reset": lambda transport, peer: reset(peer),
}


@pytest.mark.parametrize("state", ON_A_CONNECTION_WITHOUT_USE)
@pytest.mark.parametrize("released", [False, True])
def test_large_buffers_for_nobody(compare, state, released):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                ON_A_CONNECTION_WITHOUT_USE[state](transport, peer)
                view = memoryview(bytearray(100_000))
                if released:
                    view.release()
                found = [outcome(lambda: transport.write(view)) for _ in range(2)]
                sizes = transport.get_write_buffer_size()
                if state != "ended":
                    found.append(type(await protocol.lost))
                return found, sizes, protocol.names

        return loop.run_until_complete(main())

    compare(scenario)


def test_multidimensional_and_wide_buffers(compare):
    def scenario(loop, reports):
        import array

        async def main():
            async with piped() as (transport, protocol, peer):
                wide = memoryview(array.array("I", [1, 2, 3]))
                results = [outcome(lambda: transport.write(wide))]
                await spin(2)
                peer.setblocking(False)
                results.append(outcome(lambda: peer.recv(100)))
                return results

        return loop.run_until_complete(main())

    compare(scenario)


@pytest.mark.parametrize("thing", [None, "text", 5, [b"x"], object()], ids=kind_name)
def test_what_write_refuses(compare, thing):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                found = [outcome(lambda: transport.write(thing))]
                transport.write(b"fine")
                await spin(2)
                found.append(peer.recv(10))
                return found

        return loop.run_until_complete(main())

    found = compare(scenario)
    assert found[0][0] == "TypeError" and found[1] == b"fine"


@pytest.mark.parametrize("thing", [None, 5, ["text"], [None], b"bytes", [b"ok", 5]], ids=kind_name)
def test_what_writelines_refuses(compare, thing):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                return outcome(lambda: transport.writelines(thing))[0:1]

        try:
            return loop.run_until_complete(main())
        except TypeError as exc:
            return type(exc)

    compare(scenario)


def test_small_writes_leave_at_once(run):
    """Seen by the peer within a turn, with nothing left in the buffer."""

    async def main():
        async with piped() as (transport, protocol, peer):
            transport.write(b"a")
            transport.write(b"b")
            assert transport.get_write_buffer_size() == 0
            await spin(1)
            peer.setblocking(False)
            assert peer.recv(10) == b"ab"

    run(main())


def test_writes_from_data_received(run):
    class Echo(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.write(data[:1])
            self.transport.write(data[1:])

    async def main():
        async with piped(Echo()) as (transport, protocol, peer):
            peer.send(b"echo this")
            await protocol.got(9)
            await spin(1)
            assert recv_exactly(peer, 9) == b"echo this"

    run(main())


def test_writes_from_connection_made(run):
    class Greeter(Recorder):
        def connection_made(self, transport):
            transport.write(b"welcome")
            super().connection_made(transport)

    async def main():
        async with piped(Greeter()) as (transport, protocol, peer):
            await spin(1)
            assert peer.recv(20) == b"welcome"

    run(main())


def test_write_interleaved_with_direct_sends_keeps_order(run):
    """get_write_buffer_size() == 0 means that the bytes are with the kernel."""

    async def main():
        async with piped() as (transport, protocol, peer):
            transport.write(b"first,")
            assert transport.get_write_buffer_size() == 0
            sock = socket.fromfd(
                transport.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM
            )
            sock.send(b"second")
            sock.close()
            assert recv_exactly(peer, 12) == b"first,second"

    run(main())


def test_writes_without_a_running_loop_turn(loop):
    """Written between two runs, sent by the next one at the latest."""
    near, far = tcp_pair()
    near.setblocking(False)
    transport, protocol = loop.run_until_complete(
        loop.create_connection(lambda: Recorder(loop), sock=near)
    )
    transport.write(b"between")
    loop.run_until_complete(spin(2))
    assert recv_exactly(far, 7) == b"between"
    transport.close()
    loop.run_until_complete(protocol.lost)
    far.close()


def test_the_last_write_before_the_loop_stops_is_sent(loop):
    """As with asyncio: what was written is on its way when the run ends."""
    near, far = tcp_pair()
    near.setblocking(False)

    async def main():
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        transport.write(b"last words")
        return transport, protocol

    transport, protocol = loop.run_until_complete(main())
    far.settimeout(2)
    assert recv_exactly(far, 10) == b"last words"
    transport.close()
    loop.run_until_complete(protocol.lost)
    far.close()


def test_a_write_is_seen_by_blocking_code_of_the_same_callback(loop, run):
    """A callback that writes and then waits for the answer in a blocking way still works."""

    async def main():
        async with piped() as (transport, protocol, peer):
            transport.write(b"now")
            await loop.run_in_executor(None, recv_exactly, peer, 3)

    run(main())


VARIABLE = contextvars.ContextVar("VARIABLE")


class Farewell:
    """Does something when it goes."""

    def __init__(self, act):
        self.act = act

    def __del__(self):
        self.act()


def last_kept_by_a_context(loop, act):
    """It goes when the loop is done with the context of a callback, behind the callback."""
    loop.call_soon(lambda: VARIABLE.set(Farewell(act)))


def last_kept_by_a_timer(loop, act):
    """It goes when the loop takes cancelled timers out, before it waits."""

    def callback():
        context = contextvars.Context()
        context.run(VARIABLE.set, Farewell(act))
        loop.call_later(1000, pytest.fail, context=context).cancel()
        # asyncio holds on to the last one until it has waited.
        loop.call_later(2000, pytest.fail).cancel()

    loop.call_soon(callback)


@pytest.mark.parametrize("how", ["at once", "in a callback", "in a timer"])
@pytest.mark.parametrize("last_kept", [last_kept_by_a_context, last_kept_by_a_timer])
def test_the_last_words_of_an_object_just_before_the_loop_waits(run, loop, last_kept, how):
    async def main():
        async with piped() as (transport, _, peer):
            acts = {
                "at once": lambda: transport.write(b"bye"),
                "in a callback": lambda: loop.call_soon(transport.write, b"bye"),
                "in a timer": lambda: loop.call_later(0.001, transport.write, b"bye"),
            }
            await spin(3)
            peer.settimeout(2)
            last_kept(loop, acts[how])
            # No timer of ours wakes the loop.
            assert await loop.run_in_executor(None, recv_exactly, peer, 3) == b"bye"

    # Callbacks share a context where the one around them is empty.
    contextvars.Context().run(run, main())
