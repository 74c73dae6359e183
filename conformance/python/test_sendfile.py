"""loop.sendfile and loop.sock_sendfile."""

import asyncio
import socket

import pytest

from harness import (
    HOST,
    BufferedRecorder,
    Recorder,
    outcome,
    pattern,
    piped,
    recv_exactly,
    spin,
    unix_pair,
    until,
)

SIZE = 3_000_017


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pattern(SIZE))
    with open(path, "rb") as file:
        yield file


@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, None), (1000, None), (0, 5000), (123_457, 1_000_000), (SIZE, None), (SIZE - 1, 100)],
)
def test_sendfile(run, loop, file, offset, count):
    expected = pattern(SIZE)[offset:][:count]

    async def main():
        async with piped() as (transport, protocol, peer):
            reading = loop.run_in_executor(None, recv_exactly, peer, len(expected))
            assert await loop.sendfile(transport, file, offset, count) == len(expected)
            assert await reading == expected
            assert not expected or file.tell() == offset + len(expected)

    run(main())


@pytest.mark.parametrize("size", [4, 1_000_000])
def test_order_with_writes_before_and_after(run, loop, file, size):
    async def main():
        async with piped() as (transport, protocol, peer):
            head, tail = pattern(size), b"tail"
            reading = loop.run_in_executor(None, recv_exactly, peer, len(head) + SIZE + len(tail))
            transport.write(head)
            assert await loop.sendfile(transport, file) == SIZE
            transport.write(tail)
            assert await reading == head + pattern(SIZE) + tail

    run(main())


def test_reading_goes_on_afterwards(run, loop, file):
    async def main():
        async with piped() as (transport, protocol, peer):
            reading = loop.run_in_executor(None, recv_exactly, peer, SIZE)
            await loop.sendfile(transport, file)
            await reading
            assert transport.is_reading()
            peer.send(b"answer")
            assert await protocol.got(6) == b"answer"
            transport.pause_reading()
            await loop.sendfile(transport, file, 0, 10)
            assert not transport.is_reading()

    run(main())


def test_an_empty_file(run, loop, tmp_path):
    (tmp_path / "empty").write_bytes(b"")

    async def main():
        async with piped() as (transport, protocol, peer):
            with open(tmp_path / "empty", "rb") as empty:
                assert await loop.sendfile(transport, empty) == 0

    run(main())


def test_the_peer_goes_away(run, loop, file):
    async def main():
        async with piped() as (transport, protocol, peer):
            peer.close()
            with pytest.raises(OSError):
                for _ in range(100):
                    await loop.sendfile(transport, file)
            await protocol.lost

    run(main())


def test_a_buffered_protocol(run, loop, file):
    async def main():
        async with piped(BufferedRecorder()) as (transport, protocol, peer):
            reading = loop.run_in_executor(None, recv_exactly, peer, SIZE)
            assert await loop.sendfile(transport, file) == SIZE
            assert await reading == pattern(SIZE)

    run(main())


def test_over_tls(run, loop, file, certificates):
    """The kernel cannot encrypt: the fallback, or an error if there may be none."""
    made = []

    def factory():
        made.append(Recorder())
        return made[-1]

    async def main():
        server = await loop.create_server(factory, HOST, 0, ssl=certificates.server())
        address = server.sockets[0].getsockname()
        transport, protocol = await loop.create_connection(
            Recorder, *address, ssl=certificates.client()
        )
        with pytest.raises((asyncio.SendfileNotAvailableError, RuntimeError)):
            await loop.sendfile(transport, file, fallback=False)
        assert await loop.sendfile(transport, file) == SIZE
        await until(lambda: made)
        assert await made[0].got(SIZE) == pattern(SIZE)
        transport.close()
        await protocol.lost
        await made[0].lost
        server.close()
        await spin(5)

    run(main())


def test_something_without_a_descriptor(run, loop):
    import io

    async def main():
        async with piped() as (transport, protocol, peer):
            data = pattern(100_000)
            reading = loop.run_in_executor(None, recv_exactly, peer, len(data))
            assert await loop.sendfile(transport, io.BytesIO(data)) == len(data)
            assert await reading == data
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await loop.sendfile(transport, io.BytesIO(data), fallback=False)

    run(main())


def test_cancelling(run, loop, file):
    async def main():
        async with piped() as (transport, protocol, peer):
            task = loop.create_task(loop.sendfile(transport, file))
            await asyncio.sleep(0.003)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            transport.abort()
            await protocol.lost

    run(main())


def test_what_sendfile_refuses(compare, tmp_path):
    (tmp_path / "file").write_text("text")

    def scenario(loop, reports):
        async def attempt(coroutine):
            try:
                return await coroutine
            except Exception as exc:
                return type(exc).__name__, str(exc).split("<")[0]

        async def main():
            found = []
            with open(tmp_path / "file", "rb") as file, open(tmp_path / "file") as text:
                async with piped() as (transport, protocol, peer):
                    for args in (
                        (text,),
                        (file, -1),
                        (file, 0, -5),
                        (file, 0, 0),
                        (file, 1.5),
                        (file, 0, "x"),
                    ):
                        found.append(await attempt(loop.sendfile(transport, *args)))
                    transport.close()
                    found.append(await attempt(loop.sendfile(transport, file)))
                    await protocol.lost
                found.append(await attempt(loop.sendfile(asyncio.Transport(), file)))
            return found

        return loop.run_until_complete(main())

    found = compare(scenario)
    assert found[0][0] == found[1][0] == "ValueError"


def test_sock_sendfile(run, loop, file):
    async def main():
        near, far = unix_pair()
        near.setblocking(False)
        with near, far:
            reading = loop.run_in_executor(None, recv_exactly, far, SIZE - 500)
            assert await loop.sock_sendfile(near, file, 500) == SIZE - 500
            assert await reading == pattern(SIZE)[500:]

    run(main())


def test_sock_sendfile_refuses(compare, tmp_path):
    (tmp_path / "file").write_bytes(b"x")

    def scenario(loop, reports):
        found = []
        with open(tmp_path / "file", "rb") as file, socket.socket() as blocking:
            found.append(
                outcome(lambda: loop.run_until_complete(loop.sock_sendfile(blocking, file)))
            )
            with socket.socket(type=socket.SOCK_DGRAM) as datagram:
                datagram.setblocking(False)
                found.append(
                    outcome(lambda: loop.run_until_complete(loop.sock_sendfile(datagram, file)))
                )
        return found

    loop_result = compare(scenario)
    assert loop_result[1][0] == "ValueError"
