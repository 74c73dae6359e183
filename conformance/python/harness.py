"""Shared tools of the Python conformance suite.

``LoopFactory`` makes a loop of the row under test, ``managed_loop`` finishes it
properly, ``Reports`` stands in for the loop's exception handler, ``Leaks`` counts
what a test leaves behind. Below those: small protocols, socket pairs and waits.
"""

from __future__ import annotations

import array
import asyncio
import collections
import contextlib
import gc
import os
import re
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from asyncio import transports
from collections.abc import Callable
from dataclasses import dataclass

import pytest

HOST = "127.0.0.1"
PY = sys.version_info[:2]
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@dataclass(frozen=True)
class LoopFactory:
    """One row of the suite: ``asyncio``, or ``zloop-`` and a backend's name."""

    name: str

    @property
    def is_zloop(self) -> bool:
        return self.name != "asyncio"

    @property
    def backend(self) -> str:
        return self.name.removeprefix("zloop-")

    def __call__(self) -> asyncio.AbstractEventLoop:
        if not self.is_zloop:
            return asyncio.SelectorEventLoop()
        import zloop

        return zloop.new_event_loop(backend=self.backend)

    @property
    def source(self) -> str:
        """The definition of ``new_event_loop`` for a script in another process."""
        if not self.is_zloop:
            return "import asyncio\nnew_event_loop = asyncio.SelectorEventLoop\n"
        return (
            "import asyncio, zloop\n"
            f"def new_event_loop(): return zloop.new_event_loop(backend={self.backend!r})\n"
        )


class Reports:
    """Records what a loop reports to its exception handler.

    A report that no test takes fails the test at teardown.
    """

    def __init__(self) -> None:
        self.contexts: list[dict] = []
        self.timed_out: BaseException | None = None

    def __call__(self, loop, context) -> None:
        if isinstance(context.get("exception"), pytest.fail.Exception):
            self.timed_out = context["exception"]  # the per-test timeout hit a callback
            loop.stop()
        self.contexts.append(context)

    def take(self, count: int = 1) -> list[dict]:
        """Remove and return the reports; there must be exactly ``count``."""
        taken, self.contexts = self.contexts, []
        assert len(taken) == count, f"expected {count} reports, got {taken}"
        return taken

    def one(self) -> dict:
        return self.take(1)[0]

    def messages(self) -> list[str]:
        """Remove the reports and return their messages."""
        taken, self.contexts = self.contexts, []
        return [context["message"] for context in taken]


@contextlib.contextmanager
def managed_loop(factory, reports):
    """A fresh loop that reports to ``reports`` and is finished and closed at the end."""
    loop = factory()
    loop.set_exception_handler(reports)
    try:
        yield loop
    finally:
        left = finish(loop)
    assert not left, f"tasks left pending: {left}"
    if reports.timed_out is not None:
        raise reports.timed_out


def finish(loop) -> list[str]:
    """Let what was closed finish, then close the loop; name the tasks left pending."""
    if loop.is_closed():
        return []
    left = pending(loop)
    if left:  # handlers of connections that end by themselves
        loop.run_until_complete(asyncio.wait(left, timeout=0.5))
        left = pending(loop)
    names = [repr(task) for task in left]
    for task in left:
        task.cancel()
    loop.run_until_complete(_wind_up(loop, left))
    sends = in_flight(loop)
    loop.close()
    assert not sends, f"{sends} sends are in flight after the last turn"
    assert not any(stats(loop).values()), f"a closed loop holds {stats(loop)}"
    return names


def stats(loop) -> dict[str, int]:
    """What a zloop loop holds; nothing of any other."""
    return loop._stats() if hasattr(loop, "_stats") else {}


def in_flight(loop) -> int:
    """Sends that the kernel has not answered."""
    return stats(loop).get("in_flight", 0)


def pending(loop) -> list[asyncio.Task]:
    return [task for task in asyncio.all_tasks(loop) if not task.done()]


async def _wind_up(loop, tasks) -> None:
    if tasks:
        await asyncio.wait(tasks)
    await asyncio.sleep(0.001)  # ends of streams that are under way are seen
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


class Leaks:
    """Compares what this process holds before and after a test: open files, threads, handles, transports."""

    def __init__(self) -> None:
        self.objects = loop_objects()
        self.files = open_files()
        self.threads = set(threading.enumerate())
        self.native = native_threads()

    def check(self) -> None:
        gc.collect()
        self._poll(lambda: not self._new_threads(), self._new_threads)
        self._poll(lambda: not self._new_files(), self._new_files)
        alive = self._new_objects()
        if alive and FREE_THREADED:
            # After a second thread has run, one collection leaves some cycles to the next, on asyncio too.
            gc.collect()
            alive = self._new_objects()
        assert not alive, f"still alive: {alive}"

    def _poll(self, fine, what) -> None:
        # A thread that was told to end, or a reaped child, needs a moment.
        deadline = time.monotonic() + 3
        while not fine() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert fine(), f"left behind: {what()}"

    def _new_objects(self):
        return dict(loop_objects() - self.objects)

    def _new_threads(self):
        extra = [t.name for t in threading.enumerate() if t not in self.threads]
        if not extra and native_threads() > self.native:
            extra = [f"{native_threads() - self.native} native threads"]
        return extra

    def _new_files(self):
        now = open_files()
        return {fd: name for fd, name in now.items() if self.files.get(fd) != name}


def loop_objects() -> collections.Counter[str]:
    """How many handles and transports there are, whoever holds them."""
    kinds = (asyncio.Handle, transports._FlowControlMixin)
    return collections.Counter(
        kind.__name__ for kind in map(type, gc.get_objects()) if issubclass(kind, kinds)
    )


def open_files() -> dict[int, str]:
    """The open descriptors of this process and what they point at."""
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    files = {}
    for name in os.listdir(folder):
        # The descriptor of the listing itself is gone by now.
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            try:
                files[int(name)] = os.readlink(f"{folder}/{name}")
            except OSError:
                files[int(name)] = "?"
    return files


def native_threads() -> int:
    """Threads the kernel knows of in this process; 0 where it cannot be asked."""
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0


def run_script(factory, code, *, check=True, timeout=20, env=None, args=()):
    """Run ``code`` in a new interpreter; it has ``asyncio`` and ``new_event_loop``."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", factory.source + code, *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
    )
    if check:
        assert done.returncode == 0, f"rc {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def scaled(count: int) -> int:
    """A tenth of ``count`` in debug mode, where every callback costs a traceback."""
    return count // 10 if os.environ.get("PYTHONASYNCIODEBUG") else count


# Waiting


async def value(result):
    await asyncio.sleep(0)
    return result


async def spin(turns: int = 1) -> None:
    """Let the loop make that many turns."""
    for _ in range(turns):
        await asyncio.sleep(0)


def run_turns(loop, turns: int = 1) -> None:
    """From outside the loop: run that many turns."""
    loop.run_until_complete(spin(turns))


async def until(condition, seconds: float = 5.0) -> None:
    """Wait for what gives no event; fails when it does not come about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the awaited condition did not come about"
        await asyncio.sleep(0.001)


# Sockets


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected blocking TCP sockets on the loopback interface, with small buffers."""
    with socket.create_server((HOST, 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    for sock in (left, right):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 1 << 17)
    return left, right


def unix_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


@contextlib.contextmanager
def taken(number: int, kind=socket.SOCK_STREAM):
    """Gives the number of a closed file to one end of a connection; the other end, which never blocks."""
    with contextlib.ExitStack() as stack:
        one, other = (stack.enter_context(end) for end in socket.socketpair(socket.AF_UNIX, kind))
        if other.fileno() == number:
            one, other = other, one
        elif one.fileno() != number:
            os.dup2(one.fileno(), number)
            stack.callback(os.close, number)
        other.setblocking(False)
        yield other


def reset(sock: socket.socket) -> None:
    """Close so that the peer gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


def recv_exactly(sock: socket.socket, count: int) -> bytes:
    """Read ``count`` bytes from a blocking socket, fewer only at the end of the stream."""
    parts, left = [], count
    while left:
        data = sock.recv(min(left, 1 << 20))
        if not data:
            break
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


def read_noting(sock: socket.socket, calls: list) -> None:
    """For `add_reader`: note what there is to read, or that there is nothing."""
    try:
        calls.append(sock.recv(10))
    except BlockingIOError:
        calls.append("nothing")


def pattern(size: int) -> bytes:
    """Bytes in which a lost, doubled or swapped piece shows."""
    return array.array("I", range(size // 4 + 1)).tobytes()[:size]


FULL = 2_000_000  # more than the buffers of ``tcp_pair`` take
FILE_SIZE = 3_000_017  # of the fixture ``file``


# Protocols


class Recorder(asyncio.Protocol):
    """Keeps every call as a tuple in ``events``; futures for what tests wait for."""

    def __init__(self, loop=None) -> None:
        loop = loop or asyncio.get_running_loop()
        self.loop = loop
        self.events: list[tuple] = []
        self.data = bytearray()
        self.transport = None
        self.made = loop.create_future()
        self.eof = loop.create_future()
        self.lost = loop.create_future()
        self.keep_open = False
        self._waits: list[tuple[int, asyncio.Future]] = []

    @property
    def names(self) -> list[str]:
        return [event[0] for event in self.events]

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.events.append(("made",))
        if not self.made.done():
            self.made.set_result(transport)

    def data_received(self, data) -> None:
        assert type(data) is bytes
        self.events.append(("data", data))
        self._store(data)

    def _store(self, data) -> None:
        self.data += data
        for count, future in self._waits:
            if len(self.data) >= count and not future.done():
                future.set_result(bytes(self.data))

    def eof_received(self):
        self.events.append(("eof",))
        if not self.eof.done():
            self.eof.set_result(None)
        return self.keep_open

    def connection_lost(self, exc) -> None:
        self.events.append(("lost", exc))
        assert not self.lost.done(), "connection_lost was called twice"
        self.lost.set_result(exc)

    def pause_writing(self) -> None:
        self.events.append(("pause",))

    def resume_writing(self) -> None:
        self.events.append(("resume",))

    async def got(self, count: int) -> bytes:
        """Wait until at least ``count`` bytes have come; return all of them."""
        if len(self.data) >= count:
            return bytes(self.data)
        future = self.loop.create_future()
        self._waits.append((count, future))
        return await future


def remembering(kind: type[Recorder] = Recorder) -> tuple[list[Recorder], Callable[[], Recorder]]:
    """A factory of recorders, and the list of those that it has made."""
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(kind())
        return made[-1]

    return made, factory


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    """The same for the buffered protocol, with a buffer of ``size`` bytes."""

    def __init__(self, loop=None, size: int = 1024) -> None:
        super().__init__(loop)
        self.buffer = bytearray(size)
        self.hints: list[int] = []

    data_received = None

    def get_buffer(self, sizehint):
        self.hints.append(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes) -> None:
        self.events.append(("updated", nbytes))
        self._store(self.buffer[:nbytes])


def deliver(protocol, data) -> None:
    """Hand bytes to a protocol of either kind, as a transport does."""
    if not isinstance(protocol, asyncio.BufferedProtocol):
        protocol.data_received(data)
        return
    while data:
        buffer = protocol.get_buffer(len(data))
        part = data[: len(buffer)]
        buffer[: len(part)] = part
        protocol.buffer_updated(len(part))
        data = data[len(part) :]


async def connect(sock, protocol=None, **options):
    """A transport over a connected socket; returns (transport, protocol)."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    protocol = protocol or Recorder(loop)
    return await loop.create_connection(lambda: protocol, sock=sock, **options)


@contextlib.asynccontextmanager
async def piped(protocol=None, sockets=tcp_pair):
    """(transport, protocol, peer): a transport and the blocking socket at its other end."""
    near, far = sockets()
    far.settimeout(10)
    transport, protocol = await connect(near, protocol)
    try:
        yield transport, protocol, far
    finally:
        far.close()
        # asyncio's abort() does not stand being called after the last byte of a close().
        if not protocol.lost.done():
            transport.abort()
        await spin(3)


@contextlib.asynccontextmanager
async def serving(factory, **options):
    """(server, address): a TCP server on a free port; its connections are aborted at the end."""
    loop = asyncio.get_running_loop()
    made = []

    def protocol_factory():
        protocol = factory()
        made.append(protocol)
        return protocol

    server = await loop.create_server(protocol_factory, HOST, 0, **options)
    try:
        yield server, server.sockets[0].getsockname()
    finally:
        server.close()
        for protocol in made:
            if getattr(protocol, "transport", None) is not None and not protocol.lost.done():
                protocol.transport.abort()
        await spin(3)


def normal(text) -> str:
    """A repr without what differs from run to run: addresses, descriptors, ports, classes' home."""
    text = re.sub(r"0x[0-9a-f]+", "0x", str(text))
    text = re.sub(r"fd=\d+", "fd=N", text)
    text = re.sub(r"when=[\d.]+", "when=T", text)
    text = re.sub(r"created at .*?:\d+", "created at HERE", text)
    return re.sub(r"\('127\.0\.0\.1', \d+\)", "(HOST, N)", text)


def kind_name(value) -> str:
    """A stable name of a parameter, for the ids of tests."""
    return f"{type(value).__name__}-{normal(value)}"[:40].replace(" at 0x", "")


def errno_of(exc) -> tuple:
    """What identifies an exception: class, errno, text."""
    return type(exc), getattr(exc, "errno", None), str(exc)


def outcome(call):
    """The value of ``call()``, or what identifies its exception."""
    try:
        return call()
    except Exception as exc:
        return type(exc).__name__, normal(exc)


# TLS


async def tls_pair(loop, certificates, **options):
    """A client's and a server's (transport, protocol), connected; the options are the client's."""
    near, far = tcp_pair()
    near.setblocking(False)
    far.setblocking(False)
    return await asyncio.gather(
        loop.create_connection(
            Recorder,
            sock=near,
            ssl=certificates.client(),
            server_hostname="localhost",
            **options,
        ),
        loop.connect_accepted_socket(Recorder, far, ssl=certificates.server()),
    )


@contextlib.asynccontextmanager
async def tls_server(handler, context, **options):
    """The port of a TLS stream server; its handlers are waited for at the end."""
    tasks = []

    async def tracked(reader, writer):
        tasks.append(asyncio.current_task())
        try:
            await handler(reader, writer)
        finally:
            await close_writer(writer)

    server = await asyncio.start_server(tracked, HOST, 0, ssl=context, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if tasks:
            await asyncio.wait(tasks)
        await spin(5)


async def close_writer(writer) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def echo(reader, writer) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def silent(reader, writer) -> None:
    """Reads to the end and says nothing."""
    await reader.read()
