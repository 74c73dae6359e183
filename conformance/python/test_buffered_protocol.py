"""BufferedProtocol: the kernel's bytes in the protocol's own buffer."""

import asyncio
import socket

import pytest

from harness import (
    BufferedRecorder,
    Recorder,
    pattern,
    piped,
    remembering,
    spin,
    tcp_pair,
    unix_pair,
    until,
)


@pytest.mark.parametrize("sockets", [tcp_pair, unix_pair], ids=["tcp", "unix"])
@pytest.mark.parametrize("size", [1, 7, 1024, 300_000])
def test_everything_arrives_in_order(run, loop, size, sockets):
    data = pattern(3000 if size < 1000 else 2_000_000)

    async def main():
        async with piped(BufferedRecorder(size=size), sockets) as (transport, protocol, peer):
            sending = loop.run_in_executor(None, peer.sendall, data)
            assert await protocol.got(len(data)) == data
            await sending
            assert all(0 < count <= size for name, count in protocol.events[1:])
            assert all(hint == -1 for hint in protocol.hints)
            peer.close()
            await protocol.lost
            assert protocol.names[-2:] == ["eof", "lost"]

    run(main())


def test_the_buffer_is_asked_for_only_when_data_is_there(run):
    async def main():
        async with piped(BufferedRecorder()) as (transport, protocol, peer):
            await asyncio.sleep(0.002)
            assert protocol.hints == []
            peer.send(b"x")
            await protocol.got(1)
            await asyncio.sleep(0.002)
            # Looking once more and finding nothing is allowed, holding a buffer is not.
            assert 1 <= len(protocol.hints) <= 2

    run(main())


@pytest.mark.parametrize("kind", ["bytearray", "memoryview", "slice", "array"])
def test_kinds_of_buffers(run, kind):
    import array

    class Protocol(BufferedRecorder):
        def get_buffer(self, sizehint):
            self.hints.append(sizehint)
            match kind:
                case "bytearray":
                    return self.buffer
                case "memoryview":
                    return memoryview(self.buffer)
                case "slice":
                    return memoryview(self.buffer)[:3]
                case "array":
                    self.buffer = array.array("b", bytes(10))
                    return self.buffer

        def _store(self, data):
            super()._store(bytes(data))

    async def main():
        async with piped(Protocol()) as (transport, protocol, peer):
            peer.send(b"hello world")
            assert await protocol.got(11) == b"hello world"

    run(main())


def test_a_fresh_buffer_each_time_is_not_kept(run):
    """No export is left: a bytearray can be resized inside buffer_updated."""

    class Protocol(BufferedRecorder):
        def get_buffer(self, sizehint):
            self.buffer = bytearray(64)
            return self.buffer

        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.buffer.extend(b"x" * 1000)
            self.buffer.clear()

    async def main():
        async with piped(Protocol()) as (transport, protocol, peer):
            for number in range(5):
                peer.send(b"%d" % number)
                await protocol.got(number + 1)

    run(main())


BAD_BUFFERS = {
    "raises": lambda: 1 // 0,
    "none": lambda: None,
    "number": lambda: 5,
    "text": lambda: "text",
    "read-only": lambda: b"immutable",
    "empty": lambda: bytearray(),
    "empty view": lambda: memoryview(bytearray(5))[:0],
}


@pytest.mark.parametrize("make", BAD_BUFFERS.values(), ids=BAD_BUFFERS)
def test_bad_buffers(compare, make):
    def scenario(loop, reports):
        class Protocol(BufferedRecorder):
            def get_buffer(self, sizehint):
                return make()

        async def main():
            async with piped(Protocol()) as (transport, protocol, peer):
                peer.send(b"x")
                exc = await protocol.lost
                return type(exc).__name__, protocol.names

        found = loop.run_until_complete(main())
        report = reports.one()
        assert report["transport"] is not None and report["protocol"] is not None
        return found, report["message"], type(report["exception"]).__name__, sorted(report)

    found, message, *_ = compare(scenario)
    assert message.startswith("Fatal ")
    assert found[1] == ["made", "lost"]


@pytest.mark.parametrize(
    "where", ["buffer_updated", "eof_received", "connection_made", "connection_lost"]
)
def test_methods_that_raise(compare, where):
    def scenario(loop, reports):
        class Protocol(BufferedRecorder):
            pass

        original = getattr(BufferedRecorder, where)

        def call(self, *args):
            original(self, *args)
            raise ZeroDivisionError("boom")

        setattr(Protocol, where, call)

        async def main():
            near, far = tcp_pair()
            near.setblocking(False)
            protocol = Protocol()
            told = None
            try:
                await loop.create_connection(lambda: protocol, sock=near)
            except ZeroDivisionError as exc:
                told = str(exc)
            far.send(b"x")
            await spin(4)
            far.close()
            exc = await protocol.lost
            return told, type(exc).__name__, protocol.names

        found = loop.run_until_complete(main())
        return found, [m if "callback" not in m else "callback" for m in reports.messages()]

    found, messages = compare(scenario)
    if where == "buffer_updated":
        assert messages == ["Fatal error: protocol.buffer_updated() call failed."]


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["get_buffer", "buffer_updated"])
def test_methods_that_exit(loop, where, exception):
    class Protocol(BufferedRecorder):
        pass

    def call(self, *args):
        raise exception

    setattr(Protocol, where, call)
    near, far = tcp_pair()
    near.setblocking(False)
    transport, protocol = loop.run_until_complete(
        loop.create_connection(lambda: Protocol(loop), sock=near)
    )
    far.send(b"x")
    task = loop.create_task(protocol.got(1))
    with pytest.raises(exception):
        loop.run_until_complete(task)
    task.cancel()
    transport.abort()
    loop.run_until_complete(protocol.lost)
    far.close()


def test_pause_inside_buffer_updated(run):
    class Protocol(BufferedRecorder):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.transport.pause_reading()

    async def main():
        async with piped(Protocol(size=10)) as (transport, protocol, peer):
            peer.send(pattern(55))
            while len(protocol.data) < 55:
                await until(lambda: not transport.is_reading())
                seen = len(protocol.data)
                await spin(3)
                assert len(protocol.data) == seen
                transport.resume_reading()
                await spin(2)
            assert bytes(protocol.data) == pattern(55)

    run(main())


def test_close_inside_get_buffer_and_buffer_updated(run):
    class Protocol(BufferedRecorder):
        where = None

        def get_buffer(self, sizehint):
            if self.where == "get_buffer":
                self.transport.close()
            return super().get_buffer(sizehint)

        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            if self.where == "buffer_updated":
                self.transport.close()

    async def main():
        for where in ("get_buffer", "buffer_updated"):
            protocol = Protocol()
            protocol.where = where
            async with piped(protocol) as (transport, _, peer):
                peer.send(b"x")
                assert await protocol.lost is None

    run(main())


def test_half_close(run):
    async def main():
        protocol = BufferedRecorder()
        protocol.keep_open = True
        async with piped(protocol) as (transport, _, peer):
            peer.send(b"x")
            peer.shutdown(socket.SHUT_WR)
            await protocol.eof
            transport.write(b"answer")
            await spin(2)
            assert peer.recv(10) == b"answer"
            assert protocol.names == ["made", "updated", "eof"]

    run(main())


def test_switching_between_both_kinds_mid_stream(run):
    """Nothing is lost, doubled or reordered at the seams."""

    async def main():
        async with piped() as (transport, protocol, peer):
            expected = b""
            protocols = []
            for number in range(10):
                protocol = BufferedRecorder(size=50) if number % 2 else Recorder()
                protocols.append(protocol)
                transport.set_protocol(protocol)
                piece = b"%d" % number * 120
                expected += piece
                peer.send(piece)
                await protocol.got(120)
            assert b"".join(bytes(p.data) for p in protocols) == expected
            assert {name for p in protocols for name in p.names} == {"data", "updated"}

    run(main())


@pytest.mark.parametrize("first_buffered", [True, False])
def test_switching_inside_the_callback(run, loop, first_buffered):
    """The protocol changes its successor in while data keeps coming."""
    data = pattern(1_000_000)

    class First(Recorder):
        def data_received(self, chunk):
            super().data_received(chunk)
            self.transport.set_protocol(self.second)

    class BufferedFirst(BufferedRecorder):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.transport.set_protocol(self.second)

    async def main():
        first = BufferedFirst() if first_buffered else First()
        second = first.second = Recorder() if first_buffered else BufferedRecorder()
        async with piped(first) as (transport, _, peer):
            sending = loop.run_in_executor(None, peer.sendall, data)
            await first.got(1)
            rest = len(data) - len(first.data)
            assert bytes(first.data) + await second.got(rest) == data
            await sending
            assert len([name for name in first.names if name in ("data", "updated")]) == 1

    run(main())


def test_pausing_switching_resuming(run):
    """What arrived during a pause goes to the protocol that is there when reading resumes."""

    async def main():
        async with piped() as (transport, first, peer):
            transport.pause_reading()
            peer.send(b"for the second")
            await asyncio.sleep(0.002)
            second = BufferedRecorder()
            transport.set_protocol(second)
            transport.resume_reading()
            assert await second.got(14) == b"for the second"
            assert first.names == ["made"]

    run(main())


def test_a_protocol_that_only_looks_buffered(run):
    """isinstance decides, as in asyncio, not the presence of methods."""

    class Odd(Recorder):
        def get_buffer(self, sizehint):
            raise AssertionError("not a BufferedProtocol")

        buffer_updated = get_buffer

    async def main():
        async with piped(Odd()) as (transport, protocol, peer):
            peer.send(b"x")
            assert await protocol.got(1) == b"x"

    run(main())


def test_server_side(run, loop):
    from harness import serving

    made, factory = remembering(BufferedRecorder)

    async def main():
        async with serving(factory) as (server, address):
            transport, _ = await loop.create_connection(Recorder, *address)
            transport.write(b"hello")
            await until(lambda: made)
            assert await made[0].got(5) == b"hello"
            transport.close()
            await made[0].lost

    run(main())


class Bare(asyncio.BaseProtocol):
    """Has the methods of a BufferedProtocol without being one."""

    def __init__(self):
        self.received, self.buffer = b"", bytearray(7)
        self.lost = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.received += self.buffer[:count]

    def connection_lost(self, exc):
        self.lost.set_result(exc)

    def eof_received(self):
        pass


@pytest.mark.zloop_only("asyncio asks for the class, and calls a data_received() that is not there")
def test_the_methods_suffice(run, loop):
    async def main():
        ours, peer = tcp_pair()
        with peer:
            _, protocol = await loop.create_connection(Bare, sock=ours)
            peer.sendall(pattern(100))
            peer.shutdown(socket.SHUT_WR)
            assert await protocol.lost is None
            assert protocol.received == pattern(100)

    run(main())
