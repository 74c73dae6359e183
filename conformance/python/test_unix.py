"""Unix domain sockets: servers, connections, their files."""

import asyncio
import errno
import os
import socket
import stat
import sys

import pytest

from harness import FULL, PY, Recorder, outcome, pattern, remembering, spin, unix_pair, until


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A short path: the system allows about a hundred bytes."""
    monkeypatch.chdir(tmp_path)
    return "socket"


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


def test_streams(run, path):
    async def main():
        server = await asyncio.start_unix_server(echo, path)
        reader, writer = await asyncio.open_unix_connection(path)
        data = pattern(FULL)
        sending = asyncio.ensure_future(send(writer, data))
        assert await reader.readexactly(FULL) == data
        await sending
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await until(lambda: len(asyncio.all_tasks()) == 1)

    async def send(writer, data):
        writer.write(data)
        await writer.drain()

    run(main())


def test_transports(run, loop, path):
    made, factory = remembering()

    async def main():
        server = await loop.create_unix_server(factory, path)
        assert isinstance(server, asyncio.AbstractServer)
        assert server.sockets[0].family == socket.AF_UNIX
        transport, protocol = await loop.create_unix_connection(Recorder, path)
        await until(lambda: made and made[0].transport)
        assert transport.get_extra_info("peername") == path
        assert transport.get_extra_info("sockname") == ""
        assert made[0].transport.get_extra_info("sockname") == path
        assert transport.get_extra_info("socket").family == socket.AF_UNIX
        transport.write(b"hello")
        assert await made[0].got(5) == b"hello"
        transport.close()
        assert await made[0].lost is None
        assert await protocol.lost is None
        server.close()
        await server.wait_closed()

    run(main())


def test_paths_of_other_kinds(run, loop, path, tmp_path):
    async def main():
        for kind in (tmp_path / "p", str(tmp_path / "s").encode(), str(tmp_path / "t")):
            server = await loop.create_unix_server(Recorder, kind)
            transport, protocol = await loop.create_unix_connection(Recorder, kind)
            transport.close()
            await protocol.lost
            server.close()
            await spin(5)

    run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names exist on Linux only")
def test_abstract_names(run, loop):
    name = f"\0zloop-conformance-{os.getpid()}"

    async def main():
        server = await loop.create_unix_server(Recorder, name)
        transport, protocol = await loop.create_unix_connection(Recorder, name)
        assert transport.get_extra_info("peername") == name.encode()
        transport.close()
        await protocol.lost
        server.close()
        await spin(5)

    run(main())


def test_a_stale_socket_file_is_replaced(run, loop, path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    assert stat.S_ISSOCK(os.stat(path).st_mode)

    async def main():
        server = await loop.create_unix_server(Recorder, path)
        transport, protocol = await loop.create_unix_connection(Recorder, path)
        transport.close()
        await protocol.lost
        server.close()
        await spin(5)

    run(main())


def test_what_becomes_of_the_file(compare, path):
    """Removed at close since Python 3.13."""

    def scenario(loop, reports):
        async def main():
            found = []
            options = [{}, {"cleanup_socket": False}] if PY >= (3, 13) else [{}]
            for option in options:
                server = await loop.create_unix_server(Recorder, path, **option)
                found.append(os.path.exists(path))
                server.close()
                await spin(5)
                found.append(os.path.exists(path))
            if os.path.exists(path):
                os.unlink(path)
            return found

        return loop.run_until_complete(main())

    assert compare(scenario)[0] is True


def test_an_ordinary_file_is_in_the_way(run, loop, path):
    with open(path, "w") as file:
        file.write("precious")

    async def main():
        with pytest.raises(OSError) as caught:
            await loop.create_unix_server(Recorder, path)
        assert caught.value.errno == errno.EADDRINUSE
        assert "is already in use" in str(caught.value)

    run(main())
    with open(path) as file:
        assert file.read() == "precious"


def test_nobody_listens(run, loop, path):
    async def main():
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_connection(Recorder, path)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            with pytest.raises(ConnectionRefusedError):
                await loop.create_unix_connection(Recorder, path)

    run(main())


def test_own_sockets(run, loop, path):
    async def main():
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        server = await loop.create_unix_server(Recorder, sock=listener)
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        transport, protocol = await loop.create_unix_connection(Recorder, sock=client)
        transport.close()
        await protocol.lost
        server.close()
        await spin(5)

    run(main())


def test_peer_credentials_and_descriptors_pass_through(run, loop):
    """The raw socket is reachable for what streams do not cover."""
    if not hasattr(socket, "SO_PEERCRED"):
        pytest.skip("no SO_PEERCRED on this system")

    async def main():
        near, far = unix_pair()
        near.setblocking(False)
        transport, protocol = await loop.create_unix_connection(Recorder, sock=near)
        sock = transport.get_extra_info("socket")
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert int.from_bytes(credentials[:4], sys.byteorder) == os.getpid()
        far.close()
        await protocol.lost

    run(main())


BAD = {
    "path and sock": lambda loop, sock: loop.create_unix_server(Recorder, "x", sock=sock),
    "neither": lambda loop, sock: loop.create_unix_server(Recorder),
    "server: no unix socket": lambda loop, sock: loop.create_unix_server(Recorder, sock=sock),
    "connection: path and sock": lambda loop, sock: loop.create_unix_connection(
        Recorder, "x", sock=sock
    ),
    "connection: neither": lambda loop, sock: loop.create_unix_connection(Recorder),
    "connection: no unix socket": lambda loop, sock: loop.create_unix_connection(
        Recorder, sock=sock
    ),
    "connection: name without ssl": lambda loop, sock: loop.create_unix_connection(
        Recorder, "x", server_hostname="y"
    ),
    "server: ssl=True": lambda loop, sock: loop.create_unix_server(Recorder, "x", ssl=True),
    "server: long path": lambda loop, sock: loop.create_unix_server(Recorder, "x" * 300),
    "connection: long path": lambda loop, sock: loop.create_unix_connection(Recorder, "x" * 300),
    "server: no such folder": lambda loop, sock: loop.create_unix_server(
        Recorder, "no/such/folder"
    ),
    "connection: ssl without name": lambda loop, sock: loop.create_unix_connection(
        Recorder, "x", ssl=True
    ),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_what_is_refused(compare, error_log, path, make):
    def scenario(loop, reports):
        with socket.socket() as sock:
            return outcome(lambda: loop.run_until_complete(make(loop, sock)))

    assert compare(scenario)[0] in ("ValueError", "TypeError", "OSError", "FileNotFoundError")
    assert all("stale UNIX socket" in text for text in error_log.take())
