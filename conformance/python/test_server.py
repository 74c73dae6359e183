"""create_server and Server: listening, accepting, serving, closing, per Python version."""

import asyncio
import errno
import gc
import socket
import sys
import weakref

import pytest

from harness import (
    HOST,
    PY,
    Recorder,
    normal,
    outcome,
    recv_exactly,
    remembering,
    reset,
    serving,
    spin,
    until,
)


async def connected(loop, address):
    """A client's (transport, protocol)."""
    return await loop.create_connection(Recorder, *address[:2])


def test_kinds(run, loop):
    async def main():
        async with serving(Recorder) as (server, _):
            assert isinstance(server, asyncio.AbstractServer)
            assert server.get_loop() is loop
            assert server.is_serving()
            assert isinstance(server.sockets, tuple)
            assert all(type(sock) is asyncio.trsock.TransportSocket for sock in server.sockets)
            sock = server.sockets[0]
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) != 0
            assert normal(repr(server)).startswith("<")

    run(main())


def test_server_side_extra_info(run, loop):
    made, factory = remembering()

    async def main():
        async with serving(factory) as (_, address):
            client, protocol = await connected(loop, address)
            await until(lambda: made and made[0].transport)
            transport = made[0].transport
            assert isinstance(transport, asyncio.Transport)
            assert transport.get_extra_info("peername") == client.get_extra_info("sockname")
            assert transport.get_extra_info("sockname") == address
            sock = transport.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            client.close()
            await protocol.lost
            assert await made[0].lost is None

    run(main())


@pytest.mark.parametrize("asked", ["open", "reset", "closed"])
@pytest.mark.parametrize("host", [HOST, "::1", "a path"])
def test_what_is_known_of_an_accepted_connection(compare, host, asked, tmp_path):
    """Its addresses as it was accepted, whenever somebody asks for them first."""

    def scenario(loop, reports):
        made, factory = remembering()
        path = str(tmp_path / type(loop).__name__)

        async def main():
            if host == "a path":
                server = await loop.create_unix_server(factory, path)
                client = socket.socket(socket.AF_UNIX)
            else:
                server = await loop.create_server(factory, host, 0)
                client = socket.socket(server.sockets[0].family)
            client.connect(server.sockets[0].getsockname())
            ends = client.getpeername(), client.getsockname()
            await until(lambda: made and made[0].transport)
            transport = made[0].transport
            if asked == "reset":
                transport.pause_reading()
                reset(client)
            elif asked == "closed":
                transport.close()
                await made[0].lost
            names = [transport.get_extra_info(name) for name in ("sockname", "peername")]
            assert names == list(ends)
            assert transport.get_extra_info("peername") is names[1]
            sock = transport.get_extra_info("socket")
            assert sock is transport.get_extra_info("socket")
            told = [list(transport._extra), sock.fileno() < 0, normal(sock).split("laddr")[0]]
            transport.abort()
            await made[0].lost
            assert transport.get_extra_info("peername") is names[1]
            client.close()
            server.close()
            await server.wait_closed()
            return told

        return loop.run_until_complete(main())

    compare(scenario)


@pytest.mark.zloop_only("asyncio makes all that anybody could ask for")
@pytest.mark.thread_unsafe(reason="counts what the whole process has allocated")
def test_an_accepted_connection_is_few_objects(run, loop):
    """Addresses, and the dict for them, are made when somebody asks."""
    connected = []

    class Idle(asyncio.Protocol):
        def connection_made(self, transport):
            connected[-1] += 1

    async def taken_by(clients, address):
        gc.collect()
        connected.append(0)
        before = sys.getallocatedblocks()
        for client in clients:
            client.connect(address)
        await until(lambda: connected[-1] == len(clients))
        gc.collect()
        return (sys.getallocatedblocks() - before) / len(clients)

    async def main():
        server = await loop.create_server(Idle, HOST, 0)
        address = server.sockets[0].getsockname()
        clients = [socket.socket() for _ in range(200)]
        # The first ones pay for what all share.
        await taken_by(clients[:100], address)
        blocks = await taken_by(clients[100:], address)
        for client in clients:
            client.close()
        server.close()
        await server.wait_closed()
        return blocks

    # The transport, its native half, its context, its socket, the protocol; a server's weak reference since 3.13.
    assert run(main()) < 8


def test_the_factory_is_called_once_per_connection_in_order(run, loop):
    made, factory = remembering()

    async def main():
        async with serving(factory) as (_, address):
            clients = [await connected(loop, address) for _ in range(30)]
            for number, (client, _) in enumerate(clients):
                client.write(b"%03d" % number)
            await until(lambda: len(made) == 30)
            received = [await protocol.got(3) for protocol in made]
            assert received == [b"%03d" % number for number in range(30)]
            for client, protocol in clients:
                client.close()
                await protocol.lost

    run(main())


def test_many_connections_waiting_in_the_backlog(run, loop):
    """More than one accept per event: nobody is left waiting."""
    made, factory = remembering()

    async def main():
        async with serving(factory, backlog=100) as (_, address):
            socks = [socket.create_connection(address) for _ in range(60)]
            await until(lambda: len(made) == 60)
            for sock in socks:
                sock.close()
            for protocol in made:
                await protocol.lost

    run(main())


def test_start_serving_false(run, loop):
    async def main():
        server = await loop.create_server(Recorder, HOST, 0, start_serving=False)
        assert not server.is_serving()
        address = server.sockets[0].getsockname()
        with pytest.raises(ConnectionRefusedError):
            await connected(loop, address)
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        client, protocol = await connected(loop, address)
        client.close()
        await protocol.lost
        server.close()
        await spin(5)
        assert not server.is_serving()

    run(main())


def test_close_stops_listening(run, loop):
    async def main():
        async with serving(Recorder) as (server, address):
            server.close()
            assert not server.is_serving()
            assert server.sockets == ()
            server.close()
            with pytest.raises(ConnectionRefusedError):
                await connected(loop, address)

    run(main())


def test_starting_a_closed_server(compare):
    def scenario(loop, reports):
        server = loop.run_until_complete(loop.create_server(Recorder, HOST, 0))
        server.close()
        found = [outcome(lambda: loop.run_until_complete(server.start_serving()))[0]]
        found.append(outcome(lambda: loop.run_until_complete(server.serve_forever())))
        return [found[0], found[1][0]]

    compare(scenario)


def test_close_leaves_connections_alone(run, loop):
    made, factory = remembering()

    async def main():
        async with serving(factory) as (server, address):
            client, protocol = await connected(loop, address)
            await until(lambda: made)
            server.close()
            await spin(3)
            client.write(b"still")
            assert await made[0].got(5) == b"still"
            client.close()
            await made[0].lost
            await protocol.lost

    run(main())


def test_wait_closed_like_asyncio(compare):
    """What it waits for has changed over the versions."""

    def scenario(loop, reports):
        made, factory = remembering()

        async def main():
            found = []
            async with serving(factory) as (server, address):
                early = asyncio.ensure_future(server.wait_closed())
                await spin(3)
                found.append(early.done())
                client, protocol = await connected(loop, address)
                await until(lambda: made)
                server.close()
                late = asyncio.ensure_future(server.wait_closed())
                await spin(5)
                found += [early.done(), late.done()]
                client.close()
                await made[0].lost
                await protocol.lost
                await spin(5)
                found += [early.done(), late.done()]
                await server.wait_closed()
                early.cancel()
                await spin(2)
                return found

        return loop.run_until_complete(main())

    compare(scenario)


def test_async_with(run, loop):
    async def main():
        server = await loop.create_server(Recorder, HOST, 0)
        async with server as same:
            assert same is server and server.is_serving()
        assert not server.is_serving()

    run(main())


def test_serve_forever(run, loop):
    async def main():
        server = await loop.create_server(Recorder, HOST, 0, start_serving=False)
        address = server.sockets[0].getsockname()
        task = loop.create_task(server.serve_forever())
        await spin(2)
        assert server.is_serving()
        client, protocol = await connected(loop, address)
        with pytest.raises(RuntimeError, match="is already being awaited"):
            await server.serve_forever()
        client.close()
        await protocol.lost
        await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not server.is_serving()
        assert server.sockets == ()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()

    run(main())


def test_cancelling_serve_forever_with_an_open_connection(compare):
    """Whether it closes or waits for the clients is asyncio's business, per version."""

    def scenario(loop, reports):
        made, factory = remembering()

        async def main():
            server = await loop.create_server(factory, HOST, 0)
            task = loop.create_task(server.serve_forever())
            client, protocol = await connected(loop, server.sockets[0].getsockname())
            await until(lambda: made)
            task.cancel()
            await asyncio.wait([task], timeout=0.02)
            found = [task.done(), server.is_serving(), made[0].lost.done()]
            client.close()
            await protocol.lost
            await asyncio.wait([task])
            found.append(task.cancelled())
            await made[0].lost
            return found

        return loop.run_until_complete(main())

    compare(scenario)


def test_close_ends_serve_forever(run, loop):
    async def main():
        server = await loop.create_server(Recorder, HOST, 0)
        task = loop.create_task(server.serve_forever())
        await spin(2)
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


@pytest.mark.skipif(PY < (3, 13), reason="close_clients and abort_clients are new in Python 3.13")
@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_closing_the_clients(run, loop, how):
    made, factory = remembering()

    async def main():
        async with serving(factory) as (server, address):
            clients = [await connected(loop, address) for _ in range(3)]
            await until(lambda: len(made) == 3 and all(p.transport for p in made))
            made[0].transport.write(b"x" * 20_000_000)
            clients[0][0].pause_reading()
            server.close()
            getattr(server, how)()
            await spin(5)
            assert made[1].lost.done() and made[2].lost.done()
            assert made[0].lost.done() is (how == "abort_clients")
            clients[0][0].resume_reading()
            for client, protocol in clients:
                await protocol.lost
            for protocol in made:
                assert await protocol.lost is None
            await server.wait_closed()

    run(main())


@pytest.mark.skipif(PY < (3, 13), reason="close_clients and abort_clients are new in Python 3.13")
def test_closing_no_clients(run):
    async def main():
        async with serving(Recorder) as (server, _):
            server.close_clients()
            server.abort_clients()
            assert server.is_serving()

    run(main())


def test_a_dropped_server_keeps_listening(run, loop):
    """The loop holds the listening sockets; only close() ends it."""

    async def main():
        server = await loop.create_server(Recorder, HOST, 0)
        address = server.sockets[0].getsockname()
        alive = weakref.ref(server)
        del server
        gc.collect()
        client, protocol = await connected(loop, address)
        client.close()
        await protocol.lost
        alive().close()
        await spin(5)

    run(main())


def test_a_closed_server_is_freed(run, loop):
    async def main():
        server = await loop.create_server(Recorder, HOST, 0)
        client, protocol = await connected(loop, server.sockets[0].getsockname())
        client.close()
        await protocol.lost
        await spin(5)
        server.close()
        await server.wait_closed()
        alive = weakref.ref(server)
        del server, client, protocol
        await spin(3)
        gc.collect()
        assert alive() is None

    run(main())


def test_an_own_socket(run, loop):
    async def main():
        sock = socket.socket()
        sock.bind((HOST, 0))
        server = await loop.create_server(Recorder, sock=sock)
        client, protocol = await connected(loop, sock.getsockname())
        client.close()
        await protocol.lost
        server.close()
        await spin(5)
        assert sock.fileno() == -1

    run(main())


def test_two_addresses(run, loop):
    async def main():
        server = await loop.create_server(Recorder, [HOST, "::1"], 0)
        assert len(server.sockets) == 2
        for sock in server.sockets:
            client, protocol = await connected(loop, sock.getsockname())
            client.close()
            await protocol.lost
        server.close()
        await spin(5)

    run(main())


def test_an_address_in_use(run, loop):
    async def main():
        async with serving(Recorder) as (_, address):
            with pytest.raises(OSError) as caught:
                await loop.create_server(Recorder, *address)
            assert caught.value.errno == errno.EADDRINUSE
            assert "error while attempting to bind on address" in str(caught.value)

    run(main())


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT on this system")
def test_reuse_port(run, loop):
    async def main():
        async with serving(Recorder, reuse_port=True) as (_, address):
            other = await loop.create_server(Recorder, *address, reuse_port=True)
            other.close()
            await spin(3)

    run(main())


def test_a_client_that_is_gone_before_accept(run, loop):
    """Accepted sockets that were reset already do no harm."""
    from harness import reset

    made, factory = remembering()

    async def main():
        async with serving(factory) as (server, address):
            for _ in range(10):
                reset(socket.create_connection(address))
            await until(lambda: len(made) == 10)
            for protocol in made:
                await protocol.lost
            client, protocol = await connected(loop, address)
            client.close()
            await protocol.lost
            assert server.is_serving()

    run(main())


def test_data_sent_with_the_connection(run, loop):
    """Bytes and the end of the stream that are there when the connection is accepted."""
    made, factory = remembering()

    async def main():
        async with serving(factory) as (_, address):
            sock = socket.create_connection(address)
            sock.sendall(b"request")
            sock.shutdown(socket.SHUT_WR)
            await until(lambda: made and made[0].lost.done())
            assert made[0].names == ["made", "data", "eof", "lost"]
            assert bytes(made[0].data) == b"request"
            sock.close()

    run(main())


def test_start_server_with_a_plain_function(run):
    """A callback that is no coroutine is called directly."""
    seen = []

    def handler(reader, writer):
        seen.append(writer.get_extra_info("peername")[0])
        writer.close()

    async def main():
        server = await asyncio.start_server(handler, HOST, 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())
    assert seen == [HOST]


def test_receiving_large_uploads_on_several_connections(run, loop):
    made, factory = remembering()

    size = 1_500_000

    def upload(address, byte):
        with socket.create_connection(address) as sock:
            sock.sendall(byte * size)
            recv_exactly(sock, 1)

    async def main():
        async with serving(factory) as (_, address):
            uploads = [
                loop.run_in_executor(None, upload, address, byte) for byte in (b"a", b"b", b"c")
            ]
            await until(lambda: len(made) == 3)
            for protocol in made:
                data = await protocol.got(size)
                assert data == data[:1] * size
                protocol.transport.write(b"!")
            await asyncio.gather(*uploads)

    run(main())
