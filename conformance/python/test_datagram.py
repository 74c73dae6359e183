"""create_datagram_endpoint: UDP and Unix datagrams."""

import asyncio
import errno
import socket
import sys

import pytest

from harness import HOST, PY, normal, outcome, spin, until


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.events = []
        self.received = []
        self.errors = []
        self.transport = None
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def datagram_received(self, data, addr):
        self.events.append("datagram")
        self.received.append((data, addr))

    def error_received(self, exc):
        self.events.append("error")
        self.errors.append(exc)

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")


async def endpoints(loop, **options):
    """A server's and a client's (transport, protocol)."""
    server = await loop.create_datagram_endpoint(Datagrams, local_addr=(HOST, 0))
    address = server[0].get_extra_info("sockname")
    client = await loop.create_datagram_endpoint(Datagrams, remote_addr=address, **options)
    return server, client


async def close(*pairs):
    for transport, protocol in pairs:
        transport.close()
        assert await protocol.lost is None


def test_there_and_back(run, loop):
    async def main():
        server, client = await endpoints(loop)
        client[0].sendto(b"ping")
        await until(lambda: server[1].received)
        data, address = server[1].received[0]
        assert data == b"ping" and address == client[0].get_extra_info("sockname")
        server[0].sendto(b"pong", address)
        await until(lambda: client[1].received)
        assert client[1].received == [(b"pong", server[0].get_extra_info("sockname"))]
        assert server[1].events == ["made", "datagram"]
        await close(server, client)
        assert server[1].events[-1] == "lost"

    run(main())


def test_kinds_and_extra_info(run, loop):
    async def main():
        server, client = await endpoints(loop)
        for transport, _ in (server, client):
            # In Python 3.11 asyncio forgot that base.
            assert PY < (3, 12) or isinstance(transport, asyncio.DatagramTransport)
            assert type(transport.get_extra_info("socket")) is asyncio.trsock.TransportSocket
            assert transport.get_write_buffer_size() == 0
            assert not transport.is_closing()
            assert repr(transport)
        assert client[0].get_extra_info("peername") == server[0].get_extra_info("sockname")
        assert server[0].get_extra_info("peername") is None
        await close(server, client)
        assert client[0].is_closing()

    run(main())


def test_boundaries_are_kept(run, loop):
    sizes = [1, 100, 1472, 9000, 60_000]
    if PY >= (3, 13):
        sizes.insert(0, 0)  # until Python 3.12 empty datagrams were dropped

    async def main():
        server, client = await endpoints(loop)
        for size in sizes:
            client[0].sendto(b"x" * size)
            await until(lambda size=size: len(server[1].received) > sizes.index(size))
        assert [len(data) for data, _ in server[1].received] == sizes
        await close(server, client)

    run(main())


def test_many_datagrams_in_order(run, loop):
    async def main():
        server, client = await endpoints(loop)
        for number in range(300):
            client[0].sendto(b"%d" % number)
            if number % 20 == 19:
                await until(lambda number=number: len(server[1].received) == number + 1)
        assert [data for data, _ in server[1].received] == [b"%d" % number for number in range(300)]
        await close(server, client)

    run(main())


def test_kinds_of_buffers(run, loop):
    async def main():
        server, client = await endpoints(loop)
        buffer = bytearray(b"bytearray")
        client[0].sendto(buffer)
        buffer[:] = b"\xff" * 9
        client[0].sendto(memoryview(b"memoryview"))
        await until(lambda: len(server[1].received) == 2)
        assert [data for data, _ in server[1].received] == [b"bytearray", b"memoryview"]
        await close(server, client)

    run(main())


def test_a_refusing_peer(run, loop):
    """error_received, and the transport stays open."""

    async def main():
        server, client = await endpoints(loop)
        await close(server)
        await spin(2)
        client[0].sendto(b"anyone?")
        await until(lambda: client[1].errors)
        assert isinstance(client[1].errors[0], ConnectionRefusedError)
        assert not client[0].is_closing() and "lost" not in client[1].events
        client[0].sendto(b"still?")
        await until(lambda: len(client[1].errors) >= 2)
        await close(client)

    run(main())


def test_errors_of_sending(run, loop):
    """Too large a datagram is told by error_received; the transport stays open."""

    async def main():
        server, client = await endpoints(loop)
        client[0].sendto(b"x" * 70_000)
        await spin(3)
        assert client[1].errors[0].errno == errno.EMSGSIZE
        client[0].sendto(b"fine")
        await until(lambda: server[1].received)
        await close(server, client)

    run(main())


def test_addresses_of_a_connected_endpoint(compare):
    def scenario(loop, reports):
        async def main():
            server, client = await endpoints(loop)
            address = server[0].get_extra_info("sockname")
            found = [
                outcome(lambda: client[0].sendto(b"x", address)),
                outcome(lambda: client[0].sendto(b"x", (HOST, 1))),
                outcome(lambda: client[0].sendto("text")),
                outcome(lambda: client[0].sendto(5)),
                outcome(lambda: server[0].sendto(b"x")),
                outcome(lambda: server[0].sendto(b"x", (HOST, 70_000))),
            ]
            await spin(3)
            found.append([type(exc).__name__ for exc in server[1].errors])
            for transport, protocol in (server, client):
                transport.abort()
                await protocol.lost
            reports.messages()
            return [normal(item) for item in found]

        return loop.run_until_complete(main())

    compare(scenario)


def test_closing(run, loop):
    async def main():
        server, client = await endpoints(loop)
        client[0].close()
        assert "lost" not in client[1].events, "connection_lost is never called by close()"
        client[0].close()
        assert await client[1].lost is None
        client[0].sendto(b"dropped")
        server[0].abort()
        assert await server[1].lost is None
        assert client[1].events == ["made", "lost"]

    run(main())


@pytest.mark.parametrize("method", ["connection_made", "datagram_received", "error_received"])
def test_methods_that_raise(compare, method):
    def scenario(loop, reports):
        class Raising(Datagrams):
            pass

        def call(self, *args):
            getattr(Datagrams, method)(self, *args)
            raise ZeroDivisionError("boom")

        setattr(Raising, method, call)

        async def main():
            told = None
            server = await loop.create_datagram_endpoint(Datagrams, local_addr=(HOST, 0))
            address = server[0].get_extra_info("sockname")
            holder = []

            def factory():
                holder.append(Raising())
                return holder[-1]

            try:
                await loop.create_datagram_endpoint(factory, remote_addr=address)
            except ZeroDivisionError as exc:
                told = str(exc)
            protocol = holder[0]
            if method == "datagram_received":
                server[0].sendto(b"x", protocol.transport.get_extra_info("sockname"))
                await until(lambda: protocol.received)
            elif method == "error_received":
                await close(server)
                protocol.transport.sendto(b"x")
                await until(lambda: protocol.errors)
            await asyncio.sleep(0.002)
            state = protocol.transport.is_closing()
            protocol.transport.abort()
            if not server[1].lost.done():
                await close(server)
            await asyncio.sleep(0.002)
            return told, state, protocol.events

        found = loop.run_until_complete(main())
        return found, [m if "callback" not in m else "callback" for m in reports.messages()]

    compare(scenario)


def test_own_sockets(run, loop):
    async def main():
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.bind((HOST, 0))
        sock.setblocking(False)
        transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=sock)
        transport.sendto(b"to myself", sock.getsockname())
        await until(lambda: protocol.received)
        await close((transport, protocol))
        assert sock.fileno() == -1

    run(main())


def test_unix_datagrams(run, loop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def main():
        server = await loop.create_datagram_endpoint(
            Datagrams, local_addr="server", family=socket.AF_UNIX
        )
        client = await loop.create_datagram_endpoint(
            Datagrams, local_addr="client", remote_addr="server", family=socket.AF_UNIX
        )
        client[0].sendto(b"hello")
        await until(lambda: server[1].received)
        assert server[1].received == [(b"hello", "client")]
        server[0].sendto(b"answer", "client")
        await until(lambda: client[1].received)
        await close(server, client)

    run(main())


def test_options(run, loop):
    async def main():
        transport, protocol = await loop.create_datagram_endpoint(
            Datagrams, local_addr=(HOST, 0), allow_broadcast=True, family=socket.AF_INET
        )
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) != 0
        await close((transport, protocol))
        if hasattr(socket, "SO_REUSEPORT") and sys.platform == "linux":
            transport, protocol = await loop.create_datagram_endpoint(
                Datagrams, local_addr=(HOST, 0), reuse_port=True
            )
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) != 0
            await close((transport, protocol))

    run(main())


def test_v6(run, loop):
    async def main():
        server = await loop.create_datagram_endpoint(Datagrams, local_addr=("::1", 0))
        address = server[0].get_extra_info("sockname")
        client = await loop.create_datagram_endpoint(Datagrams, remote_addr=address[:2])
        client[0].sendto(b"six")
        await until(lambda: server[1].received)
        assert len(server[1].received[0][1]) == 4
        await close(server, client)

    run(main())


BAD = {
    "nothing": {},
    "no family": {"local_addr": "x"},
    "sock and address": {"sock": True, "local_addr": (HOST, 0)},
    "families differ": {"local_addr": (HOST, 0), "remote_addr": ("::1", 5)},
    "stream socket": {"stream": True},
    "port": {"local_addr": (HOST, 70_000)},
    "odd address": {"local_addr": (HOST,)},
    "unix tuple": {"local_addr": (HOST, 0), "family": socket.AF_UNIX},
}


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("options", BAD.values(), ids=BAD)
def test_what_is_refused(compare, options):
    def scenario(loop, reports):
        given = dict(options)
        kind = socket.SOCK_STREAM if given.pop("stream", False) else socket.SOCK_DGRAM
        with socket.socket(type=kind) as sock:
            sock.setblocking(False)
            if "sock" in given or "stream" in options:
                given["sock"] = sock
            return outcome(
                lambda: loop.run_until_complete(loop.create_datagram_endpoint(Datagrams, **given))
            )

    assert compare(scenario)[0] in ("ValueError", "TypeError", "AssertionError", "OverflowError")
