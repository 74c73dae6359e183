"""The TCP transport: close, abort, resets, and what raises."""

import asyncio
import errno
import logging
import socket

import pytest

from harness import (
    FULL,
    Recorder,
    connect,
    errno_of,
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


# Closing


def test_close_then_lost_in_a_later_callback(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            transport.close()
            assert protocol.names == ["made"], "connection_lost must never be called by close()"
            assert transport.is_closing()
            transport.close()
            assert await protocol.lost is None
            transport.close()
            transport.abort()
            await spin(3)
            assert protocol.names == ["made", "lost"]

    run(main())


def test_abort_then_lost_in_a_later_callback(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            transport.write(b"x" * FULL)
            transport.abort()
            assert protocol.names[-1] != "lost"
            assert transport.get_write_buffer_size() == 0
            assert await protocol.lost is None
            transport.abort()
            await spin(3)
            assert protocol.names.count("lost") == 1

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize(
    "where",
    ["connection_made", "data_received", "eof_received", "pause_writing", "connection_lost"],
)
def test_closing_inside_a_callback(run, how, where):
    class Closing(Recorder):
        inside = False

        def __getattribute__(self, name):
            value = super().__getattribute__(name)
            if name != where:
                return value

            def call(*args):
                result = value(*args)
                self.inside = True
                getattr(self.transport, how)()
                self.inside = False
                return result

            return call

        def connection_lost(self, exc):
            assert not self.inside, "connection_lost was called inside " + where
            super().connection_lost(exc)

    async def main():
        near, far = tcp_pair()
        far.settimeout(10)
        protocol = Closing()
        transport, _ = await connect(near, protocol)
        if where == "data_received":
            far.send(b"x")
        if where == "eof_received":
            protocol.keep_open = True
            far.shutdown(socket.SHUT_WR)
        if where == "pause_writing":
            transport.write(b"x" * FULL)
            if how == "close":
                await asyncio.get_running_loop().run_in_executor(None, recv_exactly, far, FULL)
        if where == "connection_lost":
            transport.close()
        assert await protocol.lost is None
        await spin(3)
        assert protocol.names.count("lost") == 1
        far.close()

    run(main())


def test_close_waits_for_the_buffer(run, loop):
    data = pattern(FULL)

    async def main():
        async with piped() as (transport, protocol, peer):
            transport.write(data)
            transport.close()
            await spin(5)
            assert "lost" not in protocol.names
            assert await loop.run_in_executor(None, recv_exactly, peer, len(data) + 1) == data
            assert await protocol.lost is None

    run(main())


def test_close_stops_reading_at_once(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            transport.write(b"x" * FULL)
            transport.close()
            peer.send(b"too late")
            await asyncio.sleep(0.005)
            assert "data" not in protocol.names
            transport.abort()
            await protocol.lost
            assert "data" not in protocol.names

    run(main())


def test_abort_of_a_closing_transport_with_a_full_buffer(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            transport.write(b"x" * FULL)
            transport.close()
            await spin(3)
            transport.abort()
            assert await protocol.lost is None

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_the_peer_sees_the_end(run, how):
    async def main():
        async with piped() as (transport, protocol, peer):
            getattr(transport, how)()
            await protocol.lost
            assert peer.recv(10) == b""

    run(main())


def test_order_of_two_closes(compare):
    """connection_lost calls are queued in the order of the closes, behind earlier callbacks."""

    def scenario(loop, reports):
        seen = []

        class Protocol(Recorder):
            def connection_lost(self, exc):
                seen.append(self.name)
                super().connection_lost(exc)

        async def main():
            pairs = []
            for name in ("one", "two", "three"):
                near, far = tcp_pair()
                transport, protocol = await connect(near, Protocol())
                protocol.name = name
                pairs.append((transport, protocol, far))
            loop.call_soon(seen.append, "before")
            pairs[1][0].close()
            pairs[0][0].abort()
            loop.call_soon(seen.append, "between")
            pairs[2][0].close()
            loop.call_soon(seen.append, "after")
            for _, protocol, far in pairs:
                await protocol.lost
                far.close()

        loop.run_until_complete(main())
        return seen

    assert compare(scenario) == ["before", "two", "one", "between", "three", "after"]


def test_the_socket_is_closed_after_connection_lost(run):
    class Looking(Recorder):
        def connection_lost(self, exc):
            self.fileno = self.transport.get_extra_info("socket").fileno()
            super().connection_lost(exc)

    async def main():
        async with piped(Looking()) as (transport, protocol, peer):
            sock = transport.get_extra_info("socket")
            transport.close()
            await protocol.lost
            await spin(1)
            assert protocol.fileno >= 0 and sock.fileno() == -1

    run(main())


# Failing


@both_kinds
def test_reset_by_the_peer(run, sockets):
    async def main():
        async with piped(sockets=sockets) as (transport, protocol, peer):
            if sockets is unix_pair:
                transport.write(b"unread data makes the close a reset")
                await spin(2)
            reset(peer)
            exc = await protocol.lost
            assert errno_of(exc)[:2] == (ConnectionResetError, errno.ECONNRESET)
            assert protocol.names == ["made", "lost"]

    run(main())


def test_reset_while_writing(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            transport.write(b"x" * FULL)
            await spin(3)
            reset(peer)
            exc = await protocol.lost
            assert isinstance(exc, (ConnectionResetError, BrokenPipeError)) and exc.errno
            assert "eof" not in protocol.names

    run(main())


def test_reset_while_paused(run):
    """A transport that neither reads nor writes learns of it when it does one of them."""

    async def main():
        async with piped() as (transport, protocol, peer):
            transport.pause_reading()
            reset(peer)
            await asyncio.sleep(0.002)
            transport.resume_reading()
            assert isinstance(await protocol.lost, ConnectionResetError)

    run(main())


def test_writing_into_a_closed_peer(run):
    """The peer closed with our data unread; a later write fails."""

    async def main():
        protocol = Recorder()
        protocol.keep_open = True
        async with piped(protocol) as (transport, _, peer):
            peer.close()
            await protocol.eof
            for _ in range(100):
                if transport.is_closing():
                    break
                transport.write(b"x" * 1000)
                await asyncio.sleep(0.001)
            exc = await protocol.lost
            assert isinstance(exc, (BrokenPipeError, ConnectionResetError)) and exc.errno

    run(main())


def test_writes_after_connection_lost_are_dropped_with_a_warning(compare):
    def scenario(loop, reports):
        records = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: records.append(record.getMessage())
        logging.getLogger("asyncio").addHandler(handler)

        async def main():
            async with piped() as (transport, protocol, peer):
                transport.abort()
                await protocol.lost
                for _ in range(10):
                    assert transport.write(b"dropped") is None
                return [transport.get_write_buffer_size(), outcome(transport.write_eof)]

        try:
            return loop.run_until_complete(main()), records
        finally:
            logging.getLogger("asyncio").removeHandler(handler)

    _, records = compare(scenario)
    assert set(records) == {"socket.send() raised exception."}


@pytest.mark.zloop_only("asyncio of Python 3.12 fails in writelines on a lost connection")
def test_writelines_after_connection_lost_is_dropped(run):
    async def main():
        async with piped() as (transport, protocol, _):
            transport.abort()
            await protocol.lost
            transport.writelines([b"dropped"])
            assert transport.get_write_buffer_size() == 0

    run(main())


METHODS = [
    "connection_made",
    "data_received",
    "eof_received",
    "connection_lost",
    "pause_writing",
    "resume_writing",
]


def raising(method, exception):
    class Raising(Recorder):
        pass

    original = getattr(Recorder, method)

    def call(self, *args):
        original(self, *args)
        raise exception

    setattr(Raising, method, call)
    return Raising


@pytest.mark.parametrize("method", METHODS)
def test_a_protocol_method_that_raises(compare, method):
    """Reported with asyncio's words; what becomes of the transport is the same too."""

    def scenario(loop, reports):
        async def main():
            near, far = tcp_pair()
            protocol = raising(method, ZeroDivisionError("boom"))()
            found = []
            try:
                transport, _ = await connect(near, protocol)
            except ZeroDivisionError as exc:
                found.append(("raised", str(exc)))
                transport = protocol.transport
            transport.set_write_buffer_limits(1000, 500)
            far.send(b"x")
            if "writing" in method:
                transport.write(b"x" * FULL)
                await spin(2)
                if method == "resume_writing":
                    await loop.run_in_executor(None, recv_exactly, far, FULL)
            await spin(5)
            far.close()
            await asyncio.wait([protocol.lost], timeout=0.05)
            if not protocol.lost.done():
                transport.abort()
                found.append("had to be aborted")
            lost = await protocol.lost
            found.append((type(lost).__name__, str(lost)))
            found.append([name for name in protocol.names if name != "data"])
            return found

        found = loop.run_until_complete(main())
        told = []
        for context in reports.take(len(reports.contexts)):
            told.append((context["message"], repr(context["exception"]), sorted(context)))
            if "transport" in context:
                assert isinstance(context["transport"], asyncio.Transport)
        return found, [
            (m if "Exception in callback" not in m else "callback", e, k) for m, e, k in told
        ]

    found, told = compare(scenario)
    if method in ("data_received", "eof_received"):
        assert told[0][0] == f"Fatal error: protocol.{method}() call failed."
        assert found[-2] == ("ZeroDivisionError", "boom")
    if method in ("pause_writing", "resume_writing"):
        assert told[0][0] == f"protocol.{method}() failed"


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("method", METHODS)
def test_a_protocol_method_that_exits(loop, reports, method, exception):
    """It propagates out of the run, and the loop can be used further."""
    holder = []

    async def main():
        near, far = tcp_pair()
        protocol = raising(method, exception)()
        holder.append((protocol, far))
        transport, _ = await connect(near, protocol)
        transport.set_write_buffer_limits(1000, 500)
        if method == "data_received":
            far.send(b"x")
        elif method == "eof_received":
            far.shutdown(socket.SHUT_WR)
        elif method == "connection_lost":
            transport.abort()
        elif "writing" in method:
            transport.write(b"x" * FULL)
            await loop.run_in_executor(None, recv_exactly, far, FULL)
        await asyncio.sleep(10)

    task = loop.create_task(main())
    with pytest.raises(exception):
        loop.run_until_complete(task)
    protocol, far = holder[0]
    # A socket that stays readable would raise again at the next turn, so end it first.
    if method == "connection_lost":
        protocol.connection_lost = lambda exc: None
    if protocol.transport is not None:
        protocol.transport.abort()
    far.close()
    if not task.done():
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    assert loop.run_until_complete(asyncio.sleep(0, "usable")) == "usable"
    if method == "resume_writing":
        # asyncio goes on watching the socket although nothing is left to write.
        assert all("_write" in message for message in reports.messages())


def test_a_factory_that_raises_on_the_client(run, loop):
    def factory():
        raise ZeroDivisionError("no protocol")

    async def main():
        near, far = tcp_pair()
        near.setblocking(False)
        with pytest.raises(ZeroDivisionError):
            await loop.create_connection(factory, sock=near)
        near.close()
        far.close()

    run(main())


def test_nobody_else_gets_what_is_written_after_the_socket_was_closed(run):
    """The program closes the socket that it gave away; its number goes to a stranger, unless it is kept."""

    async def main():
        near, far = unix_pair()
        transport, protocol = await connect(near)
        near.close()
        stranger, peer = unix_pair()
        peer.setblocking(False)
        transport.write(b"secret")
        await asyncio.sleep(0.01)
        with pytest.raises(BlockingIOError):
            peer.recv(10)
        transport.abort()
        await protocol.lost
        assert near.fileno() == -1
        peer.setblocking(True)
        stranger.send(b"x")
        assert peer.recv(1) == b"x"
        for sock in (far, stranger, peer):
            sock.close()

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_files_made_of_the_socket_keep_it_open(run, how):
    async def main():
        near, far = unix_pair()
        near.setblocking(False)
        file = near.makefile("wb", buffering=0)
        transport, protocol = await connect(near)
        getattr(transport, how)()
        await protocol.lost
        file.write(b"x")
        assert far.recv(1) == b"x"
        file.close()
        assert far.recv(1) == b"" and near.fileno() == -1
        far.close()

    run(main())


@both_kinds
def test_the_socket_is_shut_down_behind_what_was_written(run, sockets):
    async def main():
        async with piped(sockets=sockets) as (transport, protocol, peer):
            transport.write(b"bye")
            transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
            assert recv_exactly(peer, 10) == b"bye"
            assert not transport.is_closing()
            assert transport.get_extra_info("no such thing") is None
            assert transport.get_extra_info("no such thing", 5) == 5
            assert (
                transport.get_extra_info(name="peername", default=5) == transport._extra["peername"]
            )

    run(main())
