"""connect_read_pipe and connect_write_pipe."""

import asyncio
import contextlib
import os
import pty
import socket
import sys
import tty

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
    async def main():
        master, slave = pty.openpty()
        transport, protocol = await loop.connect_read_pipe(Recorder, os.fdopen(master, "rb", 0))
        os.write(slave, b"typed\n")
        await until(lambda: b"typed" in protocol.data)
        transport.close()
        await protocol.lost
        os.close(slave)

    run(main())


def packet_ends(kind):
    """(a file to write to, its other end, a function that takes a packet there)"""
    if kind == "pipe":
        read_end, write_end = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
        far = os.fdopen(read_end, "rb", 0)
        return os.fdopen(write_end, "wb", 0), far, lambda: os.read(read_end, 65536)
    near, far = socket.socketpair(socket.AF_UNIX, getattr(socket, kind))
    far.setblocking(False)
    return near, far, lambda: far.recv(65536)


def packets(take):
    """All packets that wait."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while packet := take():
            found.append(packet)
    return found


# macOS has no Unix sockets of packets in order, and packet pipes are Linux's.
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux has it")
PACKET_FILES = [
    "SOCK_DGRAM",
    pytest.param("SOCK_SEQPACKET", marks=linux_only),
    pytest.param("pipe", marks=linux_only),
]


@pytest.mark.parametrize("kind", PACKET_FILES)
def test_each_write_is_a_packet(run, loop, kind):
    async def main():
        near, far, take = packet_ends(kind)
        with far:
            transport, protocol = await loop.connect_write_pipe(Recorder, near)
            for packet in (b"one", b"", b"two", b"three"):
                transport.write(packet)
            assert packets(take) == [b"one", b"two", b"three"]
            transport.writelines([b"four"])
            transport.close()
            await protocol.lost
            assert take() == b"four"

    run(main())


@pytest.mark.zloop_only(
    "asyncio joins what waits for room, and what is too long for the kernel is lost"
)
@pytest.mark.parametrize("kind", PACKET_FILES)
def test_packets_that_wait_for_room_stay_apart(run, loop, kind):
    sent = [b"%d " % number + bytes(1000) for number in range(2000)]

    async def main():
        near, far, take = packet_ends(kind)
        with far:
            transport, protocol = await loop.connect_write_pipe(Recorder, near)
            for packet in sent:
                transport.write(packet)
            assert transport.get_write_buffer_size() > 0
            transport.close()
            found = []
            while len(found) < len(sent):
                found += packets(take)
                await asyncio.sleep(0)
            assert found == sent
            await protocol.lost
            assert protocol.names == ["made", "pause", "resume", "lost"]

    run(main())


def test_a_packet_that_is_too_long(compare):
    def scenario(loop, reports):
        async def main():
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            transport, protocol = await loop.connect_write_pipe(Recorder, near)
            transport.write(b"first")
            transport.write(bytes(10_000_000))
            transport.write(b"last")
            error = await protocol.lost
            with far:
                return far.recv(100), error.errno, protocol.names

        return loop.run_until_complete(main())

    assert compare(scenario)[0] == b"first"


def test_a_terminal_is_written_to_at_once(run, loop):
    """What the program prints to it by other ways comes behind."""

    async def main():
        master, slave = pty.openpty()
        tty.setraw(slave)
        transport, protocol = await loop.connect_write_pipe(Recorder, os.fdopen(slave, "wb", 0))
        transport.write(b"first ")
        os.write(slave, b"second")
        with os.fdopen(master, "rb") as terminal:
            # The kernel may hand over one after the other.
            assert terminal.read(12) == b"first second"
            transport.close()
            await protocol.lost

    run(main())


@pytest.mark.parametrize("call", ["connect_read_pipe", "connect_write_pipe"])
def test_what_is_refused(compare, call, tmp_path):
    def scenario(loop, reports):
        with open(tmp_path / "file", "w+") as file:
            return outcome(
                lambda: loop.run_until_complete(getattr(loop, call)(lambda: Recorder(loop), file))
            )

    assert compare(scenario)[0] == "ValueError"
