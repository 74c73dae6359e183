"""Times single operations of an event loop. Prints one JSON object a line, one for each operation:
its name, microseconds per operation and the clock that measured them.

What only computes is timed in CPU seconds of this process, which a busy machine disturbs least;
what waits for a thread or another process is timed by the wall.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from typing import Any, cast

from loops import LoopFactory, loop_factory, settle_allocator

# How many handles, timers or tasks are outstanding at once.
BATCH = 1000
IDLE_CONNECTIONS = 250

Operation = Callable[[int], Coroutine[Any, Any, None]]
operations: dict[str, tuple[Operation, str]] = {}


def operation(name: str, clock: str = "cpu") -> Callable[[Operation], Operation]:
    """Register a coroutine function that carries out an operation at least `count` times."""

    def register(function: Operation) -> Operation:
        operations[name] = (function, clock)
        return function

    return register


def nothing(*_: object) -> None:
    """Do nothing, with any arguments."""


# A burst with a given number of arguments, spelled out: `*arguments` would measure unpacking.
BURSTS = """
def burst_{count}(call_soon):
    callback = lambda {names}: None
    for _ in range({batch}):
        call_soon({arguments})
"""


def call_soon_with(arguments: int) -> Operation:
    """Make the operation of scheduling a function with so many arguments, and of running it."""
    names = ["a", "b", "c"][:arguments]
    code = BURSTS.format(
        count=arguments,
        names=", ".join(names),
        batch=BATCH,
        arguments=", ".join(["callback", *map(str, range(arguments))]),
    )
    namespace: dict[str, Callable[[object], None]] = {}
    exec(code, namespace)
    burst = namespace[f"burst_{arguments}"]

    async def run(count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count // BATCH):
            done = loop.create_future()
            burst(loop.call_soon)
            loop.call_soon(done.set_result, None)
            await done

    return run


for number in range(4):
    plural = "" if number == 1 else "s"
    operation(f"call_soon, {number} argument{plural}")(call_soon_with(number))


async def chain(count: int) -> None:
    """Let a callback schedule itself `count` times."""
    loop = asyncio.get_running_loop()
    call_soon = loop.call_soon
    done = loop.create_future()
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            call_soon(step)
        else:
            done.set_result(None)

    call_soon(step)
    await done


operation("call_soon chain")(chain)


@operation(f"call_soon chain, {IDLE_CONNECTIONS} idle connections")
async def chain_with_idle_connections(count: int) -> None:
    if not idle:
        await open_idle()
    await chain(count)


idle: list[tuple[socket.socket, asyncio.Transport]] = []


async def open_idle() -> None:
    """Open connections on which nothing happens."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=IDLE_CONNECTIONS) as listener:
        for _ in range(IDLE_CONNECTIONS):
            far = socket.create_connection(listener.getsockname())
            near, _ = listener.accept()
            near.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
            idle.append((far, transport))


def close_idle() -> None:
    """Close what `open_idle` opened."""
    for far, transport in idle:
        transport.close()
        far.close()
    idle.clear()


@operation("call_later(0)")
async def call_later_zero(count: int) -> None:
    loop = asyncio.get_running_loop()
    call_later = loop.call_later
    for _ in range(count // BATCH):
        done = loop.create_future()
        for _ in range(BATCH):
            call_later(0, nothing)
        call_later(0, done.set_result, None)
        await done


@operation("call_later and cancel")
async def schedule_and_cancel(count: int) -> None:
    call_later = asyncio.get_running_loop().call_later
    for _ in range(count // BATCH):
        for _ in range(BATCH):
            call_later(100, nothing).cancel()
        await asyncio.sleep(0)


@operation("timers due at once, out of order")
async def due_batch(count: int) -> None:
    loop = asyncio.get_running_loop()
    call_at = loop.call_at
    offsets = [(index * 617 % BATCH) * 1e-6 for index in range(BATCH)]
    for _ in range(count // BATCH):
        done = loop.create_future()
        start = loop.time() - BATCH * 1e-6
        for offset in offsets:
            call_at(start + offset, nothing)
        call_at(start + BATCH * 1e-6, done.set_result, None)
        await done


@operation("call_soon_threadsafe, own thread")
async def threadsafe_own(count: int) -> None:
    loop = asyncio.get_running_loop()
    call_soon_threadsafe = loop.call_soon_threadsafe
    for _ in range(count // BATCH):
        done = loop.create_future()
        for _ in range(BATCH):
            call_soon_threadsafe(nothing)
        call_soon_threadsafe(done.set_result, None)
        await done


@operation("call_soon_threadsafe, other thread", clock="wall")
async def threadsafe_other(count: int) -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def post() -> None:
        for _ in range(count):
            loop.call_soon_threadsafe(nothing)
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=post)
    thread.start()
    await done
    thread.join()


@operation("sleep(0)")
async def sleep_zero(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@operation("create and await a task")
async def task(count: int) -> None:
    async def work() -> None:
        pass

    for _ in range(count):
        await asyncio.create_task(work())


@operation("gather, per task of 100")
async def gather(count: int) -> None:
    async def work() -> None:
        await asyncio.sleep(0)

    for _ in range(count // 100):
        await asyncio.gather(*[work() for _ in range(100)])


@operation("create_future")
async def create_future(count: int) -> None:
    make = asyncio.get_running_loop().create_future
    for _ in range(count):
        make()


@operation("getaddrinfo, numeric")
async def getaddrinfo(count: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(count):
        await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)


@operation("run_in_executor", clock="wall")
async def run_in_executor(count: int) -> None:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as executor:
        for _ in range(count):
            await loop.run_in_executor(executor, nothing)


@operation("pipe echo, 64 KiB")
async def pipe_echo(count: int) -> None:
    """Send blocks through one pipe and back through another, each end a transport."""
    loop = asyncio.get_running_loop()
    (there, out), (here, back) = os.pipe(), os.pipe()
    sender, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, FileIO(out, "wb"))
    returner, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, FileIO(back, "wb"))
    rally = Rally(sender.write, count)
    far, _ = await loop.connect_read_pipe(lambda: Returner(returner.write), FileIO(there, "rb"))
    near, _ = await loop.connect_read_pipe(lambda: rally, FileIO(here, "rb"))
    await rally.play()
    for transport in (sender, returner, far, near):
        transport.close()
    await asyncio.sleep(0)


class Returner(asyncio.Protocol):
    """Writes what it receives."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.data_received = write  # type: ignore[method-assign, assignment]


class Rally(asyncio.SubprocessProtocol, asyncio.Protocol):
    """Sends a block whenever the one before is back, `count` times."""

    block = bytes(64 * 1024)

    def __init__(self, write: Callable[[bytes], None] | None, count: int) -> None:
        self.write = write
        self.left = count
        self.missing = 0
        self.done = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()

    async def play(self) -> None:
        """Play to the end."""
        self.data_received(b"")
        await self.done

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing:
            return
        if not self.left:
            self.done.set_result(None)
            return
        self.left -= 1
        self.missing = len(self.block)
        assert self.write is not None
        self.write(self.block)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.data_received(data)

    def process_exited(self) -> None:
        self.ended.set_result(None)


@operation("echo of a child process, 64 KiB", clock="wall")
async def child_echo(count: int) -> None:
    """Send blocks through a child that copies its input to its output."""
    loop = asyncio.get_running_loop()
    rally = Rally(None, count)
    child, _ = await loop.subprocess_exec(lambda: rally, "/bin/cat", stderr=None)
    stdin = cast("asyncio.WriteTransport", child.get_pipe_transport(0))
    rally.write = stdin.write
    await rally.play()
    stdin.close()
    await rally.ended
    child.close()
    await asyncio.sleep(0)


@operation("subprocess", clock="wall")
async def subprocess(count: int) -> None:
    for _ in range(max(1, count // BATCH)):
        process = await asyncio.create_subprocess_exec("/bin/true")
        await process.wait()


@operation("subprocess with three pipes", clock="wall")
async def subprocess_with_pipes(count: int) -> None:
    for _ in range(max(1, count // BATCH)):
        process = await asyncio.create_subprocess_exec("/bin/cat", stdin=-1, stdout=-1, stderr=-1)
        await process.communicate(b"some bytes")


CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


async def measure(name: str, seconds: float) -> float:
    """Return microseconds per operation: the median over chunks that fill `seconds`."""
    run, clock_name = operations[name]
    clock = CLOCKS[clock_name]
    # A spawned process costs as much as a thousand callbacks: it counts as that many.
    scale = BATCH if name.startswith("subprocess") else 1
    count = BATCH
    await run(count)
    chunks: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(chunks) < 3:
        start = clock()
        await run(count)
        taken = clock() - start
        if taken < seconds / 20 and scale == 1:
            count *= 2
            chunks.clear()
        else:
            chunks.append(taken / count * scale)
    return statistics.median(chunks) * 1e6


async def measure_and_tidy(name: str, seconds: float) -> float:
    """Measure, then close what was opened for it."""
    try:
        return await measure(name, seconds)
    finally:
        close_idle()
        await asyncio.sleep(0)


def report(name: str, seconds: float, factory: LoopFactory) -> dict[str, object]:
    """Measure one operation in a loop of its own, which no other operation has touched."""
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            result: dict[str, object] = {"us": runner.run(measure_and_tidy(name, seconds))}
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    return {"name": name, "clock": operations[name][1], **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", default="asyncio", help="see loops.py")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each operation")
    parser.add_argument("--list", action="store_true", help="only list the operations")
    parser.add_argument("--only", action="append", metavar="NAME", help="an operation to time")
    options = parser.parse_args()
    settle_allocator()
    if options.list:
        print("\n".join(operations))
        return
    unknown = set(options.only or ()) - set(operations)
    if unknown:
        sys.exit(f"unknown operations: {', '.join(sorted(unknown))}")
    factory = loop_factory(options.loop)
    for name in options.only or operations:
        print(json.dumps(report(name, options.seconds, factory)), flush=True)


if __name__ == "__main__":
    main()
