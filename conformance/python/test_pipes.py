"""connect_read_pipe and connect_write_pipe."""

import asyncio
import os
import socket

import pytest

from harness import Recorder, outcome, pattern, recv_exactly, spin, until


async def read_pipe(loop):
    """(transport, protocol, writing end)"""
    read_end, write_end = os.pipe()
    transport, protocol = await loop.connect_read_pipe(Recorder, os.fdopen(read_end, "rb", 0))
    return transport, protocol, write_end


async def write_pipe(loop):
    """(transport, protocol, reading end)"""
    read_end, write_end = os.pipe()
    transport, protocol = await loop.connect_write_pipe(Recorder, os.fdopen(write_end, "wb", 0))
    return transport, protocol, read_end


def read_all(fd):
    with os.fdopen(fd, "rb") as file:
        return file.read()


def test_reading(run, loop):
    async def main():
        transport, protocol, write_end = await read_pipe(loop)
        assert isinstance(transport, asyncio.ReadTransport)
        assert transport.get_extra_info("pipe") is not None
        assert repr(transport)
        os.write(write_end, b"hello")
        assert await protocol.got(5) == b"hello"
        os.close(write_end)
        assert await protocol.lost is None
        assert protocol.names == ["made", "data", "eof", "lost"]

    run(main())


def test_a_lot_of_data_with_pauses(run, loop):
    data = pattern(2_000_000)

    def write(fd):
        with os.fdopen(fd, "wb") as file:
            file.write(data)

    async def main():
        transport, protocol, write_end = await read_pipe(loop)
        writing = loop.run_in_executor(None, write, write_end)
        while not protocol.lost.done():
            transport.pause_reading()
            await spin(2)
            seen = len(protocol.data)
            await spin(2)
            assert len(protocol.data) == seen
            transport.resume_reading()
            await asyncio.sleep(0.0002)
        await writing
        assert bytes(protocol.data) == data

    run(main())


def test_writing(run, loop):
    data = pattern(2_000_000)

    async def main():
        transport, protocol, read_end = await write_pipe(loop)
        assert isinstance(transport, asyncio.WriteTransport)
        reading = loop.run_in_executor(None, read_all, read_end)
        transport.write(data[:10])
        transport.write(bytearray(data[10:]))
        assert protocol.names[-1] == "pause"
        transport.write_eof()
        assert await reading == data
        assert await protocol.lost is None
        assert "resume" in protocol.names

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_closing(run, loop, how):
    async def main():
        transport, protocol, read_end = await write_pipe(loop)
        transport.write(b"last")
        getattr(transport, how)()
        assert "lost" not in protocol.names
        assert await protocol.lost is None
        assert read_all(read_end) == b"last"
        transport, protocol, write_end = await read_pipe(loop)
        transport.close()
        assert "lost" not in protocol.names
        assert await protocol.lost is None
        with pytest.raises(BrokenPipeError):
            os.write(write_end, b"x")
        os.close(write_end)

    run(main())


def test_the_reader_goes_away(run, loop):
    async def main():
        transport, protocol, read_end = await write_pipe(loop)
        os.close(read_end)
        assert await protocol.lost is None or isinstance(protocol.lost.result(), BrokenPipeError)
        assert transport.is_closing()

    run(main())


def test_the_reader_goes_away_with_data_unsent(run, loop):
    async def main():
        transport, protocol, read_end = await write_pipe(loop)
        transport.write(b"x" * 1_000_000)
        await spin(2)
        os.close(read_end)
        assert isinstance(await protocol.lost, BrokenPipeError)

    run(main())


def test_sockets_are_pipes_too(run, loop):
    async def main():
        near, far = socket.socketpair()
        transport, protocol = await loop.connect_write_pipe(Recorder, near)
        transport.write(b"through a socket")
        await spin(2)
        assert recv_exactly(far, 16) == b"through a socket"
        far.close()
        await protocol.lost

    run(main())


def test_streams_over_pipes(run, loop):
    """The usual way to read standard input."""

    async def main():
        read_end, write_end = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0)
        )
        os.write(write_end, b"line\nrest")
        assert await reader.readline() == b"line\n"
        os.close(write_end)
        assert await reader.read() == b"rest"
        transport.close()

    run(main())


def test_a_fifo(run, loop, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def main():
        read_end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        write_end = os.open(path, os.O_WRONLY)
        transport, protocol = await loop.connect_read_pipe(Recorder, os.fdopen(read_end, "rb", 0))
        os.write(write_end, b"fifo")
        assert await protocol.got(4) == b"fifo"
        os.close(write_end)
        await protocol.lost
        assert transport.is_closing()

    run(main())


def test_a_terminal(run, loop):
    import pty

    async def main():
        master, slave = pty.openpty()
        transport, protocol = await loop.connect_read_pipe(Recorder, os.fdopen(master, "rb", 0))
        os.write(slave, b"typed\n")
        await until(lambda: b"typed" in protocol.data)
        transport.close()
        await protocol.lost
        os.close(slave)

    run(main())


@pytest.mark.parametrize("call", ["connect_read_pipe", "connect_write_pipe"])
def test_what_is_refused(compare, call, tmp_path):
    def scenario(loop, reports):
        with open(tmp_path / "file", "w+") as file:
            return outcome(
                lambda: loop.run_until_complete(getattr(loop, call)(lambda: Recorder(loop), file))
            )

    assert compare(scenario)[0] == "ValueError"
