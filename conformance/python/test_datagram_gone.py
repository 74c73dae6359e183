"""Datagram transports whose socket is gone: the number of its fd may be another file's, which is left alone."""

import asyncio
import contextlib
import os
import socket

import pytest

from harness import spin, taken, until
from test_datagram import Datagrams
from test_datagram_edges import stuffed, unix  # noqa: F401 (a fixture)

pytestmark = pytest.mark.thread_unsafe(reason="others could get the number of a closed file")


def drain(sock) -> list[bytes]:
    """What has come, for a socket that never blocks."""
    got = []
    with contextlib.suppress(BlockingIOError):
        while True:
            got.append(sock.recv(100))
    return got


async def own(loop, protocol=Datagrams, *, connected=True):
    """A transport for a socket of the program's, its protocol, the socket, its number and its peer."""
    far = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    far.bind("far")
    far.setblocking(False)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind("near")
    if connected:
        sock.connect("far")
    transport, protocol = await loop.create_datagram_endpoint(protocol, sock=sock)
    protocol.sock = sock
    return transport, protocol, sock.fileno(), far


@pytest.mark.parametrize("how", ["close", "detach"])
@pytest.mark.parametrize("to", [None, "far"])
def test_nothing_is_sent(run, loop, unix, how, to):  # noqa: F811
    async def main():
        transport, protocol, number, far = await own(loop, connected=to is None)
        transport.sendto(b"before", to)
        getattr(protocol.sock, how)()
        with far, taken(number) as stranger:
            transport.sendto(b"secret", to)
            transport.sendto(memoryview(b"secret"), to)
            assert [str(exc) for exc in protocol.errors] == ["[Errno 9] Bad file descriptor"] * 2
            assert (drain(stranger), drain(far)) == ([], [b"before"])
            transport.abort()
            assert await protocol.lost is None

    run(main())


def test_nothing_is_received(run, loop, unix):  # noqa: F811
    """Closed while there is more, and another file has data."""

    async def main():
        class Closing(Datagrams):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                number = self.sock.fileno()
                self.sock.close()
                self.stranger = stack.enter_context(taken(number, socket.SOCK_DGRAM))
                self.stranger.send(b"another's")

        with contextlib.ExitStack() as stack:
            transport, protocol, number, far = await own(loop, Closing)
            stack.enter_context(far)
            for _ in range(3):
                far.sendto(b"first", "near")
            await until(lambda: protocol.received)
            await spin(5)
            assert protocol.received == [(b"first", "far")]
            assert os.read(number, 100) == b"another's"
            transport.abort()
            await protocol.lost
        assert protocol.errors == []

    run(main())


def test_silence_when_it_was_idle(run, loop, unix):  # noqa: F811
    async def main():
        transport, protocol, _, far = await own(loop)
        await spin(3)
        protocol.sock.close()
        with far:
            with contextlib.suppress(
                ConnectionRefusedError
            ):  # where the kernel has closed it by now
                far.sendto(b"late", "near")
            await asyncio.sleep(0.01)
        await spin(3)
        transport.close()
        await protocol.lost
        assert protocol.events == ["made", "lost"]

    run(main())


@pytest.mark.zloop_only("asyncio's selector stumbles over the file that is not there")
@pytest.mark.parametrize("direction", ["reader", "writer"])
def test_others_who_watch_the_number_stay(run, loop, unix, direction):  # noqa: F811
    """A transport that finds its socket gone takes nothing out of the loop but its own."""

    async def main():
        transport, protocol, number, far = await own(loop)
        await spin(3)
        protocol.sock.close()
        called = []
        with far, taken(number) as stranger:
            getattr(loop, f"_add_{direction}")(number, called.append, 1)
            stranger.send(b"data")
            await until(lambda: len(called) > 2)
            transport.sendto(b"lost")
            await spin(3)
            found = len(called)
            await until(lambda: len(called) > found + 2)
            assert getattr(loop, f"_remove_{direction}")(number)
            transport.abort()
            await protocol.lost
        assert len(protocol.errors) == 1

    run(main())


def test_sending_behind_the_end_of_a_full_transport(run, loop, unix):  # noqa: F811
    async def main():
        far, transport, protocol, _ = await stuffed(loop)
        number = transport.get_extra_info("socket").fileno()
        transport.close()
        with far:
            while not protocol.lost.done():
                drain(far)
                await spin()
            drain(far)
            with taken(number) as stranger:
                with contextlib.suppress(AttributeError):  # asyncio's
                    transport.sendto(b"secret")
                assert (drain(stranger), drain(far)) == ([], [])

    run(main())


@pytest.mark.zloop_only(
    "asyncio leaves its writer behind, which stumbles over what the transport lost"
)
@pytest.mark.parametrize("end", ["abort", "odd address", "connection_lost"])
def test_no_writer_is_left_by_a_full_transport(run, loop, reports, unix, end):  # noqa: F811
    async def main():
        transport, protocol, number, far = await own(loop, connected=False)

        def stuff():
            for _ in range(1000):
                transport.sendto(b"kept", "far")

        stuff()
        if end == "abort":
            transport.abort()
            transport.sendto(b"late", "far")
        elif end == "odd address":
            transport.sendto(b"late", ("no", "path"))
        else:
            protocol.connection_lost = lambda exc: (stuff(), protocol.lost.set_result(exc))
            transport.close()
        while not protocol.lost.done():
            drain(far)
            await spin()
        stuff()
        assert not transport._buffer
        drain(far)
        assert loop._watched(number) == 0
        with far, taken(number) as stranger:
            assert not loop._remove_writer(number)
            loop._add_reader(number, os.read, number, 100)
            stranger.send(b"x")
            await spin(5)
            assert loop._remove_reader(number)
        assert len(reports.messages()) == (end == "odd address")
        protocol.lost.exception()

    run(main())
