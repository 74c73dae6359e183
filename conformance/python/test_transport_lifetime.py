"""Who keeps a stream transport alive: the loop while it reads or has bytes to send, else nobody but the program."""

import asyncio
import contextlib
import gc
import os
import socket
import threading
import time
import warnings

import pytest

from harness import (
    FILE_SIZE,
    FULL,
    Recorder,
    connect,
    open_files,
    outcome,
    pattern,
    run_turns,
    spin,
    tcp_pair,
    unix_pair,
    until,
)

both_kinds = pytest.mark.parametrize("sockets", [tcp_pair, unix_pair], ids=["tcp", "unix"])


@pytest.fixture
def collect(loop):
    """Collect garbage, which nothing else does; what was warned of so far."""
    gc.disable()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def collect() -> list[str]:
            gc.collect()
            texts = [str(warning.message) for warning in caught]
            caught.clear()
            return texts

        yield collect
    gc.enable()


class Forgetful(asyncio.Protocol):
    """Keeps no transport, and so makes none live longer; it writes down what it hears."""

    def __init__(self, written=b"", keep_open=True):
        self.heard = []
        self.data = b""
        self.written = written
        self.keep_open = keep_open

    def connection_made(self, transport):
        self.heard.append("made")
        self.write(transport)

    def write(self, transport):
        if self.written:
            transport.write(self.written)

    def data_received(self, data):
        self.data += data

    def eof_received(self):
        self.heard.append("eof")
        return self.keep_open

    def connection_lost(self, exc):
        self.heard.append("lost")


class Paused(Forgetful):
    def connection_made(self, transport):
        transport.pause_reading()
        super().connection_made(transport)


class PausedLater(Forgetful):
    def connection_made(self, transport):
        asyncio.get_running_loop().call_later(0.002, self.pause, transport)

    def pause(self, transport):
        transport.pause_reading()
        self.heard.append("made")
        self.write(transport)


async def forgotten(protocol, sockets=unix_pair, first=b"first"):
    """Make a transport and forget it: its socket, the number of that, and the other end, which has sent `first`."""
    near, far = sockets()
    far.setblocking(False)
    far.sendall(first)
    number = near.fileno()
    await connect(near, protocol)
    await until(lambda: "made" in protocol.heard)
    await spin(3)
    return near, number, far


async def receive(far, count) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(far, 1 << 18), 5)
        assert part, f"the stream ended after {len(data)} bytes"
        data += part
    return bytes(data)


async def is_gone(near, number, far) -> None:
    """The socket is closed, as its peer sees, and its number can be used again."""
    await until(lambda: near.fileno() == -1)
    with contextlib.suppress(ConnectionResetError):  # something was not read
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(far, 1), 5) == b""
    left, right = unix_pair()
    with left, right:
        again, other = (right, left) if right.fileno() == number else (left, right)
        if again.fileno() != number:
            again = socket.socket(fileno=os.dup2(again.fileno(), number))
        protocol = Forgetful(b"hello")
        transport, _ = await connect(again, protocol)
        other.sendall(b"again")
        assert other.recv(5) == b"hello"
        await until(lambda: protocol.data == b"again")
        transport.close()
        await until(lambda: "lost" in protocol.heard)


# Nobody needs it


@both_kinds
@pytest.mark.parametrize("written", [0, 10, FULL])
@pytest.mark.parametrize("kind", [Paused, PausedLater])
def test_a_paused_transport_is_collected_once_all_was_sent(run, collect, sockets, kind, written):
    async def main():
        # Nothing lies unread at its end: the kernel would reset the connection, and drop what it has not delivered.
        near, number, far = await forgotten(protocol := kind(pattern(written)), sockets, b"")
        with far:
            if written == FULL:
                assert collect() == [] and near.fileno() == number
            assert await receive(far, written) == pattern(written)
            await spin(3)
            (warned,) = collect()
            assert warned.startswith("unclosed transport")
            assert near.fileno() == -1
            assert protocol.heard == ["made"]
            await is_gone(near, number, far)

    run(main())


def test_a_paused_transport_waits_until_a_full_socket_takes_its_bytes(run, collect):
    filled = 0

    def full():
        nonlocal filled
        near, far = unix_pair()
        near.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += near.send(bytes(1 << 16))
        return near, far

    async def main():
        near, number, far = await forgotten(Paused(b"the last"), full)
        with far:
            assert collect() == [] and near.fileno() == number
            assert (await receive(far, filled + 8)).endswith(b"\0the last")
            await spin(3)
            (warned,) = collect()
            assert warned.startswith("unclosed transport")
            await is_gone(near, number, far)

    run(main())


@both_kinds
@pytest.mark.parametrize("written", [0, 10])
def test_behind_the_end_of_the_stream_it_is_collected(run, collect, sockets, written):
    async def main():
        near, number, far = await forgotten(protocol := Forgetful(pattern(written)), sockets)
        with far:
            far.shutdown(socket.SHUT_WR)
            await until(lambda: "eof" in protocol.heard)
            assert protocol.data == b"first"
            assert await receive(far, written) == pattern(written)
            await spin(3)
            (warned,) = collect()
            assert warned.startswith("unclosed transport")
            assert protocol.heard == ["made", "eof"]
            await is_gone(near, number, far)

    run(main())


def test_another_thread_collects_it_while_the_loop_sleeps(loop, run, collect):
    class Cycle(Paused):
        def write(self, transport):
            self.transport = transport

    def later():
        time.sleep(0.02)
        return collect()

    async def main():
        near, number, far = await forgotten(Cycle(), first=b"")
        with far:
            assert near.fileno() == number
            (warned,) = await loop.run_in_executor(None, later)
            assert warned.startswith("unclosed transport")
            await is_gone(near, number, far)

    run(main())


def test_a_handler_of_a_server_forgets_to_close(run, collect, tmp_path):
    async def handler(reader, writer):
        writer.write(await reader.readline())

    async def main():
        path = str(tmp_path / "socket")
        server = await asyncio.start_unix_server(handler, path)
        before = open_files()
        for _ in range(10):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.close()
            await writer.wait_closed()
        del reader, writer
        await asyncio.sleep(0.01)
        warned = collect()
        await spin(3)
        assert warned and all(text.startswith("unclosed") for text in warned)
        assert len(open_files()) == len(before)
        server.close()

    run(main())


# The loop or the program needs it


@both_kinds
def test_a_reading_transport_lives_by_itself(run, collect, sockets):
    async def main():
        near, number, far = await forgotten(protocol := Forgetful(keep_open=False), sockets)
        with far:
            for data in b"second", b"third":
                assert collect() == []
                far.send(data)
                await until(lambda data=data: protocol.data.endswith(data))
            far.shutdown(socket.SHUT_WR)
            await until(lambda: "lost" in protocol.heard)
            assert near.fileno() == -1 and collect() == []

    run(main())


@both_kinds
def test_a_resumed_transport_lives_by_itself_again(run, collect, sockets):
    async def main():
        near, far = sockets()
        transport, protocol = await connect(near, Paused(keep_open=False))
        with far:
            far.sendall(b"early")
            await asyncio.sleep(0.005)
            assert collect() == []
            transport.resume_reading()
            del transport
            assert collect() == []
            await until(lambda: protocol.data == b"early")
            assert collect() == []
            far.sendall(b"late")
            await until(lambda: protocol.data == b"earlylate")
            far.shutdown(socket.SHUT_WR)
            await until(lambda: "lost" in protocol.heard)
            assert near.fileno() == -1 and collect() == []

    run(main())


def test_a_closing_transport_sends_the_rest(run, collect):
    class Closing(Paused):
        def write(self, transport):
            super().write(transport)
            transport.close()

    async def main():
        near, number, far = await forgotten(protocol := Closing(pattern(FULL)))
        with far:
            assert collect() == []
            assert await receive(far, FULL) == pattern(FULL)
            await until(lambda: "lost" in protocol.heard)
            assert near.fileno() == -1

    run(main())


def test_a_file_is_sent_by_a_task_that_nobody_refers_to(loop, run, collect, file):
    class Sending(Forgetful):
        def connection_made(self, transport):
            sending = loop.sendfile(transport, file)
            task = loop.create_task(sending)
            task.add_done_callback(
                lambda task: (self.heard.append(task.result()), transport.close())
            )
            self.heard.append("made")

    async def main():
        _near, _number, far = await forgotten(protocol := Sending())
        with far:
            assert collect() == []
            assert await receive(far, FILE_SIZE) == pattern(FILE_SIZE)
            await until(lambda: "lost" in protocol.heard)
            assert protocol.heard == ["made", FILE_SIZE, "lost"]

    run(main())


async def pipe_end(loop, call):
    read_end, write_end = os.pipe()
    near, far = (read_end, write_end) if call == "connect_read_pipe" else (write_end, read_end)
    file = os.fdopen(near, "rb" if near == read_end else "wb", 0)
    transport, _ = await getattr(loop, call)(Recorder, file)
    return transport, os.fdopen(far, "wb" if near == read_end else "rb", 0)


async def stream_end(loop, call):
    near, far = unix_pair()
    transport, _ = await loop.create_connection(Recorder, sock=near)
    return transport, far


ENDINGS = [
    (stream_end, "", "close"),
    (stream_end, "", "abort"),
    (pipe_end, "connect_read_pipe", "close"),
    (pipe_end, "connect_write_pipe", "close"),
    (pipe_end, "connect_write_pipe", "abort"),
    (pipe_end, "connect_write_pipe", "write_eof"),
]


@pytest.mark.parametrize(("make", "call", "how"), ENDINGS)
def test_a_closed_loop_closes_no_transport(loop_factory, make, call, how):
    """It says so, and the file goes with the transport, though the loop's object lives on."""
    loop = loop_factory()
    transport, far = loop.run_until_complete(make(loop, call))
    number = transport.get_extra_info("socket" if make is stream_end else "pipe").fileno()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        getattr(transport, how)()
    assert transport.is_closing()
    with far, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport
        gc.collect()
        assert any("unclosed transport" in str(warning.message) for warning in caught)
        with pytest.raises(OSError):
            os.fstat(number)


@pytest.mark.parametrize(("make", "call", "how"), ENDINGS)
def test_debug_mode_refuses_to_end_a_transport_in_another_thread(debug_loop, make, call, how):
    errors = []

    async def main():
        transport, far = await make(debug_loop, call)
        ending = threading.Thread(target=lambda: errors.append(outcome(getattr(transport, how))))
        ending.start()
        await until(lambda: errors)
        ending.join()
        transport.abort() if hasattr(transport, "abort") else transport.close()
        far.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        debug_loop.run_until_complete(main())
        run_turns(debug_loop, 3)
        gc.collect()
    text = "Non-thread-safe operation invoked on an event loop other than the current one"
    assert errors == [("RuntimeError", text)]


@pytest.mark.zloop_only("asyncio's is half closed from then on")
@pytest.mark.parametrize(("make", "call", "how"), ENDINGS)
def test_a_refused_end_changes_nothing(debug_loop, make, call, how):
    async def main():
        transport, far = await make(debug_loop, call)
        with far:
            ended = debug_loop.run_in_executor(None, getattr(transport, how))
            with pytest.raises(RuntimeError):
                await ended
            assert not transport.is_closing()
            lost = transport.get_protocol().lost
            getattr(transport, how)()
            assert await lost is None

    debug_loop.run_until_complete(main())
