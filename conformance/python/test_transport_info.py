"""The TCP transport: what it tells of itself, changing protocols, lifetime."""

import asyncio
import gc
import socket
import weakref

import pytest

from harness import (
    FULL,
    HOST,
    Recorder,
    connect,
    normal,
    piped,
    serving,
    spin,
    tcp_pair,
    until,
)

# What a transport tells


def test_extra_info(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            sock = transport.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket)
            assert (sock.family, sock.type & socket.SOCK_STREAM) == (
                socket.AF_INET,
                socket.SOCK_STREAM,
            )
            assert transport.get_extra_info("peername") == peer.getsockname()
            assert transport.get_extra_info("sockname") == peer.getpeername()
            assert sock.getsockname() == peer.getpeername()
            assert transport.get_extra_info("nonsense") is None
            assert transport.get_extra_info("nonsense", 5) == 5
            for name in ("ssl_object", "sslcontext", "peercert", "cipher", "pipe", "subprocess"):
                assert transport.get_extra_info(name) is None

    run(main())


def test_the_transport_socket_works(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            assert sock.fileno() > 0
            assert sock.getpeername() == peer.getsockname()
            assert sock.proto in (0, socket.IPPROTO_TCP)
            assert sock.gettimeout() == 0
            with sock.dup() as twin:
                assert twin.getsockname() == sock.getsockname()
            with pytest.raises(ValueError):
                sock.setblocking(True)
            transport.abort()
            await protocol.lost
            with pytest.raises(ConnectionResetError):
                peer.recv(1)

    run(main())


def test_extra_info_survives_closing(compare):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                transport.close()
                await protocol.lost
                await spin(2)
                return [normal(transport.get_extra_info(name)) for name in ("peername", "sockname")]

        return loop.run_until_complete(main())

    compare(scenario)


def test_nodelay_is_set_on_both_sides(run, loop):
    async def main():
        async with serving(Recorder) as (server, address):
            client, _ = await loop.create_connection(Recorder, *address)
            sock = client.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            client.abort()

    class Looking(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            sock = transport.get_extra_info("socket")
            nodelay.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    nodelay = []

    async def server_side():
        async with serving(Looking) as (server, address):
            client, protocol = await loop.create_connection(Recorder, *address)
            await until(lambda: nodelay)
            client.close()
            await protocol.lost

    run(main())
    run(server_side())
    assert nodelay[0] != 0


@pytest.mark.zloop_only("asyncio leaves out sockets that were made without naming a protocol")
def test_nodelay_is_set_on_sockets_of_the_program(run, loop):
    async def main():
        listening = socket.socket()
        listening.bind((HOST, 0))
        accepted = []
        server = await loop.create_server(
            lambda: accepted.append(Recorder()) or accepted[-1], sock=listening
        )
        own = socket.socket()
        own.connect(listening.getsockname())
        transport, protocol = await loop.create_connection(Recorder, sock=own)
        await until(lambda: accepted and accepted[0].transport is not None)
        for end in (transport, accepted[0].transport):
            sock = end.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        transport.close()
        await protocol.lost
        await accepted[0].lost
        server.close()
        await server.wait_closed()

    run(main())


def test_repr(compare):
    """Of an open, paused, writing, closing and closed transport."""
    import re

    def scenario(loop, reports):
        async def main():
            texts = []
            async with piped() as (transport, protocol, peer):
                texts.append(repr(transport))
                transport.pause_reading()
                texts.append(repr(transport))
                transport.write(b"x" * FULL)
                texts.append(repr(transport))
                transport.close()
                texts.append(repr(transport))
                transport.abort()
                texts.append(repr(transport))
                await protocol.lost
                await spin(1)
                texts.append(repr(transport))
            return [
                re.sub(r"^<\w+", "<Transport", re.sub(r"bufsize=\d+", "bufsize=N", normal(t)))
                for t in texts
            ]

        return loop.run_until_complete(main())

    texts = compare(scenario)
    assert all("fd=" in text for text in texts)
    assert "closed" in texts[-1]


def test_arbitrary_attributes_and_weak_references(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            transport.anything = 5
            assert transport.anything == 5
            assert weakref.ref(transport)() is transport
            assert {transport: 1}[transport] == 1

    run(main())


def test_set_protocol(run):
    async def main():
        async with piped() as (transport, first, peer):
            peer.send(b"one")
            await first.got(3)
            second = Recorder()
            transport.set_protocol(second)
            assert transport.get_protocol() is second
            peer.send(b"two")
            assert await second.got(3) == b"two"
            peer.close()
            await second.lost
            assert first.names == ["made", "data"]
            assert second.names == ["data", "eof", "lost"]

    run(main())


def test_set_protocol_inside_data_received(run):
    class Switching(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.set_protocol(self.second)

    async def main():
        first = Switching()
        first.second = Recorder()
        async with piped(first) as (transport, _, peer):
            peer.send(b"one")
            await first.got(3)
            peer.send(b"two")
            assert await first.second.got(3) == b"two"
            transport.close()
            await first.second.lost
            assert first.names == ["made", "data"]

    run(main())


# Lifetime


def test_a_closed_transport_is_freed(run):
    async def main():
        near, far = tcp_pair()
        transport, protocol = await connect(near)
        far.close()
        await protocol.lost
        alive = [weakref.ref(transport), weakref.ref(protocol)]
        del transport, protocol
        await spin(3)
        gc.collect()
        assert [ref() for ref in alive] == [None, None]

    run(main())


def test_hundreds_of_connections_leave_nothing(run, loop):
    async def main():
        async with serving(Recorder) as (server, address):
            alive = []
            for _ in range(100):
                transport, protocol = await loop.create_connection(Recorder, *address)
                transport.write(b"x")
                transport.close()
                await protocol.lost
                alive += [weakref.ref(transport), weakref.ref(protocol)]
            del transport, protocol
            await spin(5)
            gc.collect()
            assert sum(ref() is not None for ref in alive) == 0

    run(main())


def test_an_open_transport_that_nobody_holds_lives_on(run):
    """The loop holds it as long as it reads."""

    async def main():
        near, far = tcp_pair()
        near.setblocking(False)
        protocol = Recorder()
        await connect(near, protocol)
        protocol.transport = None
        protocol.made = None
        gc.collect()
        far.send(b"still served")
        assert await protocol.got(12) == b"still served"
        far.close()
        await protocol.lost

    run(main())


def test_closing_the_loop_with_open_transports(loop_factory):
    """The sockets are closed, with a warning each; nothing crashes."""
    import warnings

    loop = loop_factory()
    near, far = tcp_pair()
    near.setblocking(False)
    transport, protocol = loop.run_until_complete(
        loop.create_connection(lambda: Recorder(loop), sock=near)
    )
    loop.close()
    assert repr(transport)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        protocol.transport = protocol.made = None
        del transport, near
        gc.collect()
    far.close()
    assert any(issubclass(w.category, ResourceWarning) for w in caught)
