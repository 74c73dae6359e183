"""loop.sendfile, and where it and loop.sock_sendfile are alike."""

import asyncio
import os
from asyncio import unix_events
from unittest import mock

import pytest

from harness import (
    FILE_SIZE,
    FULL,
    BufferedRecorder,
    Recorder,
    connect,
    outcome,
    pattern,
    piped,
    recv_exactly,
    reset,
    spin,
    tcp_pair,
    tls_pair,
)


@pytest.mark.parametrize(
    ("offset", "count"),
    [
        (0, None),
        (1000, None),
        (0, 5000),
        (123_457, 1_000_000),
        (FILE_SIZE, None),
        (FILE_SIZE - 1, 100),
    ],
)
def test_sendfile(run, loop, file, offset, count):
    expected = pattern(FILE_SIZE)[offset:][:count]

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
            reading = loop.run_in_executor(
                None, recv_exactly, peer, len(head) + FILE_SIZE + len(tail)
            )
            transport.write(head)
            assert await loop.sendfile(transport, file) == FILE_SIZE
            transport.write(tail)
            assert await reading == head + pattern(FILE_SIZE) + tail

    run(main())


def test_reading_goes_on_afterwards(run, loop, file):
    async def main():
        async with piped() as (transport, protocol, peer):
            reading = loop.run_in_executor(None, recv_exactly, peer, FILE_SIZE)
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
            reading = loop.run_in_executor(None, recv_exactly, peer, FILE_SIZE)
            assert await loop.sendfile(transport, file) == FILE_SIZE
            assert await reading == pattern(FILE_SIZE)

    run(main())


def test_over_tls(run, loop, file, certificates):
    """The kernel cannot encrypt: the fallback, or an error if there may be none."""

    async def main():
        (transport, protocol), (_, peer) = await tls_pair(loop, certificates)
        with pytest.raises((asyncio.SendfileNotAvailableError, RuntimeError)):
            await loop.sendfile(transport, file, fallback=False)
        assert await loop.sendfile(transport, file) == FILE_SIZE
        assert await peer.got(FILE_SIZE) == pattern(FILE_SIZE)
        transport.close()
        await protocol.lost
        await peer.lost

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


def test_a_slice_at_a_time(run, loop, loop_factory, file, monkeypatch):
    """A peer that takes all it can get keeps nobody else from running, and what it gets is right."""
    if loop_factory.is_zloop:
        monkeypatch.setattr("zloop._sendfile._SLICE", 1000)
    turns = 0

    def count():
        nonlocal turns
        turns += 1
        loop.call_soon(count)

    async def main():
        async with piped() as (transport, protocol, peer):
            loop.call_soon(count)
            for offset, size in ((0, 50_001), (FILE_SIZE - 50_001, None), (3, 50_000)):
                before = turns
                assert await loop.sendfile(transport, file, offset, size) == (size or 50_001)
                assert turns - before >= (48 if loop_factory.is_zloop else 1)
                expected = pattern(FILE_SIZE)[offset:][:size]
                assert recv_exactly(peer, len(expected)) == expected
                assert file.tell() == offset + len(expected)

    run(main())


def test_room_is_for_what_was_written_before(run, loop, file):
    async def main():
        async with piped() as (transport, protocol, peer):
            head = pattern(FULL)[::-1]
            transport.write(head)
            # What the kernel has is read here, so that it would take a piece of the file now.
            got = peer.recv(transport.get_write_buffer_size() and 1 << 20)
            left = len(head) - len(got) + 5000
            reading = loop.run_in_executor(None, recv_exactly, peer, left)
            assert await loop.sendfile(transport, file, 0, 5000) == 5000
            assert got + await reading == head + pattern(5000)

    run(main())


def test_where_the_file_stands_afterwards(compare, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    (tmp_path / "empty").write_bytes(b"")

    def scenario(loop, reports):
        async def main():
            found = []
            async with piped() as (transport, protocol, peer):
                for name in ("file", "empty"):
                    for arguments in ((0, None), (4, 3), (4, 100), (10, None), (25, None), (25, 3)):
                        for send, to in (
                            (loop.sendfile, transport),
                            (loop.sock_sendfile, peer),
                        ):
                            with open(tmp_path / name, "rb") as file:
                                file.seek(2)
                                peer.setblocking(False)
                                found.append((await send(to, file, *arguments), file.tell()))
                                peer.settimeout(10)
                await protocol.got(10 + 3 + 6)
                return found, bytes(protocol.data), recv_exactly(peer, 10 + 3 + 6)

        return loop.run_until_complete(main())

    found, *got = compare(scenario)
    assert found[0] == (10, 10)
    assert got == [b"0123456789456456789"] * 2


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero", "/proc/self/stat", "pipe", "folder"])
def test_files_of_other_kinds(compare, tmp_path, name, fallback):
    if not os.path.exists(name) and name.startswith("/"):
        pytest.skip(f"no {name} here")

    def make():
        if name != "pipe":
            return os.open(tmp_path if name == "folder" else name, os.O_RDONLY)
        fd, other = os.pipe()
        os.write(other, bytes(40))
        os.close(other)
        return fd

    def scenario(loop, reports):
        async def attempt(coroutine):
            try:
                return await asyncio.wait_for(coroutine, 5)
            except Exception as exc:
                return type(exc).__name__, str(exc)

        async def main():
            found = []
            async with piped() as (transport, protocol, peer):
                peer.setblocking(False)
                for arguments in ((0, None), (0, 10), (5, 10)):
                    for send, to in ((loop.sendfile, transport), (loop.sock_sendfile, peer)):
                        if name == "/dev/zero" and arguments[1] is None:
                            continue  # it has no end
                        fd = make()
                        file = mock.Mock(
                            ["fileno", "readinto"],
                            fileno=lambda fd=fd: fd,
                            readinto=lambda view, fd=fd: os.readv(fd, [view]),
                        )
                        found.append(await attempt(send(to, file, *arguments, fallback=fallback)))
                        os.close(fd)
                peer.settimeout(10)
                await asyncio.sleep(0.01)
                return found, len(protocol.data)

        return loop.run_until_complete(main())

    compare(scenario)


@pytest.mark.parametrize("fallback", [True, False])
def test_without_the_system_call(compare, tmp_path, fallback):
    """A program may hide `os.sendfile`, or put something else there: that is what is used, or nothing."""
    (tmp_path / "file").write_bytes(b"0123456789")

    def scenario(loop, reports):
        async def attempt(coroutine):
            try:
                return await coroutine
            except Exception as exc:
                return type(exc).__name__, str(exc)

        async def main():
            async with piped() as (transport, protocol, peer):
                with (
                    open(tmp_path / "file", "rb") as file,
                    mock.patch.object(unix_events, "os", mock.Mock(spec=["fstat", "lseek"])),
                ):
                    found = [await attempt(loop.sendfile(transport, file, fallback=fallback))]
                    peer.setblocking(False)
                    file.seek(0)  # before 3.14, asyncio's fallback begins where the file stands
                    found.append(await attempt(loop.sock_sendfile(peer, file, fallback=fallback)))
                peer.settimeout(10)
                if fallback:
                    found += [await protocol.got(10), recv_exactly(peer, 10)]
            return found

        return loop.run_until_complete(main())

    found = compare(scenario)
    assert found[0] == (
        10 if fallback else ("SendfileNotAvailableError", "os.sendfile() is not available")
    )


def test_nothing_is_written_meanwhile(compare, tmp_path):
    (tmp_path / "file").write_bytes(bytes(FILE_SIZE))

    def scenario(loop, reports):
        async def main():
            with open(tmp_path / "file", "rb") as file:
                async with piped() as (transport, protocol, peer):
                    task = loop.create_task(loop.sendfile(transport, file))
                    await spin(3)
                    reading = transport.is_reading()
                    found = [
                        outcome(lambda: transport.write(b"x")),
                        outcome(lambda: transport.writelines([b"x"])),
                        transport.get_write_buffer_size(),
                        reading,
                        transport.is_closing(),
                        task.done(),
                    ]
                    got = await loop.run_in_executor(None, recv_exactly, peer, FILE_SIZE)
                    found += [await task, got == bytes(FILE_SIZE), transport.is_reading()]
                    transport.write(b"x")
                    found.append(await loop.run_in_executor(None, recv_exactly, peer, 1))
                    return found

        return loop.run_until_complete(main())

    found = compare(scenario)
    assert found[0] == ("RuntimeError", "unable to write; sendfile is in progress")
    assert found[-1] == b"x"


def test_one_file_at_a_time(run, loop, loop_factory, file):
    if not loop_factory.is_zloop:
        pytest.skip("asyncio forgets the transport (KeyError), so that the first one never ends")

    async def main():
        async with piped() as (transport, protocol, peer):
            task = loop.create_task(loop.sendfile(transport, file))
            await spin(3)
            with pytest.raises(RuntimeError, match="Empty waiter is already set"):
                await loop.sendfile(transport, file)
            reading = loop.run_in_executor(None, recv_exactly, peer, FILE_SIZE)
            assert await task == FILE_SIZE
            assert await reading == pattern(FILE_SIZE)
            assert transport.is_reading()

    run(main())


def test_many_at_once_behind_what_each_has_written(run, loop, file):
    """Heads that wait to be sent together leave first, each before its own file."""

    async def one(number):
        near, far = tcp_pair()
        with far:
            far.settimeout(20)
            transport, protocol = await connect(near)
            started.append(number)
            while len(started) < 8:
                await asyncio.sleep(0)
            head = bytes([number]) * (1 + 500 * number)
            transport.write(head)
            sending = loop.create_task(loop.sendfile(transport, file, number, 500_000))
            got = await loop.run_in_executor(None, recv_exactly, far, len(head) + 500_000)
            assert got == head + pattern(FILE_SIZE)[number:][:500_000]
            assert await sending == 500_000
            transport.close()
            await protocol.lost

    started = []

    async def main():
        await asyncio.gather(*map(one, range(8)))

    run(main())


def test_a_reset_in_the_middle(compare, tmp_path):
    (tmp_path / "file").write_bytes(bytes(FILE_SIZE))

    def scenario(loop, reports):
        async def main():
            with open(tmp_path / "file", "rb") as file:
                async with piped() as (transport, protocol, peer):
                    task = loop.create_task(loop.sendfile(transport, file))
                    await spin(3)
                    assert not task.done()
                    peer.recv(1000)
                    reset(peer)
                    with pytest.raises(ConnectionError):
                        await asyncio.wait_for(task, 5)
                    found = 0 < file.tell() < FILE_SIZE
                    # Whether the sender has taken the error from the socket already is the kernel's business.
                    await protocol.lost
            return found

        return loop.run_until_complete(main())

    assert compare(scenario)


def test_another_protocol_in_the_middle(run, loop, file):
    async def main():
        async with piped() as (transport, protocol, peer):
            task = loop.create_task(loop.sendfile(transport, file))
            await spin(3)
            other = Recorder()
            transport.set_protocol(other)
            reading = loop.run_in_executor(None, recv_exactly, peer, FILE_SIZE)
            assert await task == FILE_SIZE
            assert await reading == pattern(FILE_SIZE)
            assert transport.get_protocol() is other
            peer.send(b"answer")
            assert await other.got(6) == b"answer"
            assert not protocol.data
            transport.set_protocol(protocol)

    run(main())


@pytest.mark.parametrize("plain", [True, False])
def test_what_a_cancelled_one_leaves_behind(run, loop, loop_factory, file, plain):
    """The bytes that left are a beginning of the file, and the connection goes on behind them."""

    async def main():
        near, far = tcp_pair()
        transport, protocol = (None, None) if plain else await connect(near)
        near.setblocking(False)
        with near, far:
            far.settimeout(10)
            send = loop.sock_sendfile(near, file) if plain else loop.sendfile(transport, file)
            task = loop.create_task(send)
            await spin(5)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await spin(2)
            position = file.tell()
            reading = loop.run_in_executor(None, recv_exactly, far, 2 * FILE_SIZE)
            if plain:
                with pytest.raises(KeyError):
                    loop._selector.get_key(near)
                await loop.sock_sendall(near, b"tail")
                near.close()
            else:
                assert transport.is_reading()
                transport.write(b"tail")
                transport.close()
                await protocol.lost
            got = await reading
            sent = len(got) - 4
            assert 0 < sent < FILE_SIZE
            assert got == pattern(FILE_SIZE)[:sent] + b"tail"
            # asyncio leaves the file where it was.
            assert position == (sent if loop_factory.is_zloop else 0)

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_closing_in_the_middle(run, loop, loop_factory, file, how):
    if not loop_factory.is_zloop:
        pytest.skip("asyncio reports InvalidStateError, and its sender waits for ever")

    async def main():
        async with piped() as (transport, protocol, peer):
            task = loop.create_task(loop.sendfile(transport, file))
            await spin(3)
            getattr(transport, how)()
            assert await protocol.lost is None
            with pytest.raises(ConnectionError, match="Connection is closed by peer"):
                await task
            assert 0 < file.tell() < FILE_SIZE

    run(main())


def test_a_file_closed_in_the_middle(run, loop, loop_factory, tmp_path):
    """Its number may be another file's by then, so nothing is sent from that."""
    if not loop_factory.is_zloop:
        pytest.skip("asyncio goes on with the number, whatever it stands for")
    (tmp_path / "file").write_bytes(pattern(FILE_SIZE))

    async def main():
        async with piped() as (transport, protocol, peer):
            with open(tmp_path / "file", "rb") as file:
                number = file.fileno()
                task = loop.create_task(loop.sendfile(transport, file))
                await spin(3)
            reading = loop.run_in_executor(None, recv_exactly, peer, FILE_SIZE)
            (tmp_path / "other").write_bytes(bytes([255]) * FILE_SIZE)
            with open(tmp_path / "other", "rb") as other:
                assert other.fileno() == number
                with pytest.raises(ValueError, match="closed file"):
                    await task
                assert other.tell() == 0
            transport.close()
            await protocol.lost
            sent = await reading
            assert pattern(FILE_SIZE).startswith(sent)

    run(main())
