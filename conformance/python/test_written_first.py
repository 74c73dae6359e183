"""A program that reaches for the file behind a transport: what it wrote to the transport before leaves first."""

import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import time
import weakref

import pytest

from harness import (
    Recorder,
    deliver,
    normal,
    piped,
    recv_exactly,
    spin,
    tcp_pair,
    tls_pair,
    unix_pair,
    until,
)


@pytest.mark.parametrize("sockets", [tcp_pair, unix_pair])
def test_a_shutdown_comes_behind_what_was_written(run, sockets):
    async def main():
        async with piped(sockets=sockets) as (transport, protocol, peer):
            sock = transport.get_extra_info("socket")
            await spin(2)
            transport.write(b"header;")
            transport.writelines([b"more;", b"yet more;"])
            sock.shutdown(socket.SHUT_WR)
            await spin(2)
            assert recv_exactly(peer, 21) == b"header;more;yet more;"
            assert peer.recv(1) == b""

    run(main())


@pytest.mark.parametrize("way", ["number", "duplicate", "private", "asked late"])
def test_what_is_sent_past_the_transport_comes_behind(run, way):
    async def main():
        async with piped() as (transport, protocol, peer):
            sock = transport.get_extra_info("socket")
            await spin(2)
            transport.write(b"header;")
            if way == "number":
                os.write(sock.fileno(), b"body;")
            elif way == "duplicate":
                with sock.dup() as twin:
                    twin.send(b"body;")
            elif way == "private":
                sock._sock.send(b"body;")
            else:
                os.write(transport.get_extra_info("socket").fileno(), b"body;")
            transport.write(b"end;")
            await spin(2)
            assert recv_exactly(peer, 16) == b"header;body;end;"

    run(main())


def test_among_many_writers(run):
    """In a turn of many callbacks, where data is held back longer."""

    async def main():
        async with piped() as (transport, protocol, peer):
            sock = transport.get_extra_info("socket")
            await spin(2)

            def write_and_send(number):
                transport.write(b"%02d;" % number)
                os.write(sock.fileno(), b"--;")

            for number in range(40):
                asyncio.get_running_loop().call_soon(write_and_send, number)
            await spin(2)
            expected = b"".join(b"%02d;--;" % number for number in range(40))
            assert recv_exactly(peer, len(expected)) == expected

    run(main())


def test_a_shutdown_under_tls_comes_behind_what_was_written(run, loop, certificates):
    async def main():
        (client, protocol), (server, other) = await tls_pair(loop, certificates)
        sock = client.get_extra_info("socket")
        assert sock is client.get_extra_info("socket")
        await spin(2)
        client.write(b"header;")
        sock.shutdown(socket.SHUT_WR)
        await other.lost
        assert other.data == b"header;"
        client.abort()
        await protocol.lost

    run(main())


def test_it_is_one_object_while_the_transport_lives_and_afterwards(compare):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                sock = transport.get_extra_info("socket")
                seen = [normal(repr(sock)), sock is transport.get_extra_info("socket", 5)]
                transport.close()
                await protocol.lost
                await spin(2)
                seen += [sock is transport.get_extra_info("socket"), sock.fileno(), repr(sock)]
                return seen

        return loop.run_until_complete(main())

    compare(scenario)


def test_it_is_shown_to_who_asks_first_when_all_is_over(compare):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                number = transport._sock_fd
                transport.close()
                await protocol.lost
                await spin(2)
                with pytest.raises(OSError):
                    os.fstat(number)
                sock = transport.get_extra_info("socket")
                assert isinstance(sock, asyncio.trsock.TransportSocket)
                with pytest.raises(OSError):
                    sock.shutdown(socket.SHUT_WR)
                return [repr(sock), sock.family, sock.type, sock.proto, sock.fileno()]

        return loop.run_until_complete(main())

    compare(scenario)


def test_it_outlives_a_transport_that_was_collected(run):
    async def main():
        async with piped(sockets=unix_pair) as (transport, protocol, peer):
            sock = transport.get_extra_info("socket")
            transport.write(b"last;")
            transport.close()
            await protocol.lost
            await spin(2)
            gone = weakref.ref(transport)
            protocol.transport = protocol.made = protocol.events = transport = None
            await spin(2)
            gc.collect()
            assert sock.fileno() == -1
            assert recv_exactly(peer, 5) == b"last;"
            return gone

    gone = run(main())
    gc.collect()
    assert gone() is None


def test_a_thread_may_ask_while_the_loop_writes(run, loop):
    async def main():
        async with piped() as (transport, protocol, peer):
            sock = transport.get_extra_info("socket")
            number = sock.fileno()
            asked = [loop.run_in_executor(None, sock.fileno) for _ in range(20)]
            for _ in range(200):
                transport.write(b"x" * 10)
                await asyncio.sleep(0)
            assert set(await asyncio.gather(*asked)) == {number}
            assert recv_exactly(peer, 2000) == b"x" * 2000

    run(main())


@contextlib.asynccontextmanager
async def writing_to_pipe():
    """(transport, protocol, fd): a write transport and the pipe's other end."""
    reading, writing = os.pipe()
    loop, file = asyncio.get_running_loop(), os.fdopen(writing, "wb", 0)
    transport, protocol = await loop.connect_write_pipe(Recorder, file)
    await spin(2)
    try:
        yield transport, protocol, reading
    finally:
        transport.abort()
        await spin(3)
        os.close(reading)


def test_who_asks_for_the_pipe_writes_behind_the_transport(run):
    async def main():
        async with writing_to_pipe() as (transport, _, reading):
            transport.write(b"header;")
            file = transport.get_extra_info("pipe")
            os.write(file.fileno(), b"body;")
            transport.write(b"end;")
            await spin(2)
            assert os.read(reading, 100) == b"header;body;end;"
            assert transport.get_extra_info(name="pipe") is file
            assert transport.get_extra_info("socket") is None
            assert transport.get_extra_info("nonsense", 5) == 5
            assert transport.get_extra_info("nonsense", default=6) == 6

    run(main())


def test_a_child_that_inherits_the_pipe_writes_behind_the_transport(run):
    async def main():
        async with writing_to_pipe() as (transport, _, reading):
            for _ in range(3):
                transport.write(b"header;")
                child = subprocess.Popen(
                    ["/bin/sh", "-c", "printf 'body;'"], stdout=transport.get_extra_info("pipe")
                )
                assert child.wait() == 0
            await spin(2)
            assert os.read(reading, 100) == b"header;body;" * 3

    run(main())


def test_asking_for_a_pipe_whose_reader_is_gone(compare):
    def scenario(loop, reports):
        async def main():
            reading, writing = os.pipe()
            protocol = Recorder(loop)
            transport, _ = await loop.connect_write_pipe(
                lambda: protocol, os.fdopen(writing, "wb", 0)
            )
            await spin(2)
            os.close(reading)
            transport.write(b"nobody")
            file = transport.get_extra_info("pipe")
            seen = [transport.is_closing(), file.closed]
            await protocol.lost
            await spin(2)
            return [*seen, file.closed, transport.get_extra_info("pipe") is file]

        return loop.run_until_complete(main())

    compare(scenario)


@pytest.mark.thread_unsafe(reason="measures time")
def test_asking_costs_nothing_for_those_who_wrote_besides(run, loop):
    """A callback that reaches for the socket of each of many clients must not look at all of them each time."""

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            made = [await stack.enter_async_context(piped(sockets=unix_pair)) for _ in range(200)]
            transports = [transport for transport, _, _ in made]
            shown = transports[0].get_extra_info("socket")
            await spin(2)

            def ask(writers) -> float:
                for transport in writers:
                    transport.write(b"x")
                start = time.perf_counter()
                for _ in range(100):
                    shown.family  # noqa: B018
                return time.perf_counter() - start

            async def best(writers) -> float:
                times = []
                for _ in range(7):
                    loop.call_soon(lambda: times.append(ask(writers)))
                    await spin(2)
                return min(times)

            alone, in_a_crowd = await best(transports[:1]), await best(transports)
            assert in_a_crowd < 4 * alone
            for _, _, peer in made[1:]:
                assert recv_exactly(peer, 7) == b"x" * 7

    run(main())


def test_asking_again_and_again_fills_no_list(run, loop, loop_factory, certificates):
    async def main():
        async with writing_to_pipe() as (pipe, _, reading):
            (client, protocol), (server, other) = await tls_pair(loop, certificates)
            sock = client.get_extra_info("socket")
            await spin(2)
            listed = []
            for _ in range(20):
                pipe.write(b"p")
                client.write(b"t")
                assert sock.fileno() > 0
                if loop_factory.is_zloop:
                    listed.append(loop._stats()["dirty"])
                    loop._send_written()
                    listed.append(loop._stats()["dirty"])
            assert max(listed, default=0) <= 3  # the pipe, the session, the stream
            await until(lambda: other.data == b"t" * 20)
            assert os.read(reading, 100) == b"p" * 20
            client.abort()
            await protocol.lost
            await other.lost

    run(main())


class Between(asyncio.Protocol):
    """A protocol of the program's between a transport and a TLS session."""

    def __init__(self, inner):
        self.inner = inner

    def data_received(self, data):
        deliver(self.inner, data)

    def connection_lost(self, exc):
        self.inner.connection_lost(exc)


@pytest.mark.parametrize("way", ["twice", "hidden"])
def test_whatever_is_between_the_session_and_the_socket(run, loop, certificates, way):
    """TLS in TLS, and a session behind a protocol of the program's."""

    async def main():
        (client, protocol), (server, other) = await tls_pair(loop, certificates)
        sock = client.get_extra_info("socket")
        outer = client, server
        if way == "twice":
            protocol, other = Recorder(loop), Recorder(loop)
            client, server = await asyncio.gather(
                loop.start_tls(
                    client, protocol, certificates.client(), server_hostname="localhost"
                ),
                loop.start_tls(server, other, certificates.server(), server_side=True),
            )
        else:
            below = client._ssl_protocol._transport
            below.set_protocol(Between(below.get_protocol()))
        await spin(2)
        client.write(b"header;")
        sock.shutdown(socket.SHUT_WR)
        await until(lambda: other.data == b"header;")
        for transport in (client, server, *outer):
            transport.abort()
        await protocol.lost
        await other.lost
        await spin(3)

    run(main())
