"""Echo servers and their clients in N loops, each in a thread of its own. Prints one line of JSON.

Nothing is shared between the threads but the interpreter: each loop has its own server, its own
connections and its own clients. So what N loops do together, over what one does, says how much
they are in each other's way. It needs a free-threaded build of CPython to say anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from echo_server import Echo, echo_stream
from loops import LoopFactory, loop_factory, settle_allocator

READY_TIMEOUT_S = 20


class Tally:
    """How many round trips one loop has made."""

    def __init__(self) -> None:
        self.count = 0


class Client(asyncio.Protocol):
    """Sends the message again when it has come back."""

    def __init__(self, message: bytes, tally: Tally) -> None:
        self.message = message
        self.tally = tally
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(self.message)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if self.received:
            data = self.received + data
        if len(data) < len(self.message):
            self.received = data
            return
        expect(self.message, data)
        self.received = b""
        self.tally.count += 1
        self.transport.write(self.message)  # type: ignore[attr-defined]


async def stream_client(host: str, port: int, message: bytes, tally: Tally) -> None:
    """Do the same with asyncio's streams, for ever."""
    reader, writer = await asyncio.open_connection(host, port)
    while True:
        writer.write(message)
        await writer.drain()
        expect(message, await reader.readexactly(len(message)))
        tally.count += 1


def expect(message: bytes, data: bytes) -> None:
    """End the process if something else came back than was sent: no loop can win by breaking."""
    if data != message:
        print("the echo is not what was sent", file=sys.stderr, flush=True)
        os._exit(1)


async def echo(
    options: argparse.Namespace, tally: Tally, core: int | None, ready: Callable[[], object]
) -> None:
    """Serve and connect, in one of the ways that asyncio offers, for ever."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    loop = asyncio.get_running_loop()
    message = os.urandom(options.size)
    running: list[object] = []
    server: asyncio.AbstractServer
    if options.mode == "streams":
        server = await asyncio.start_server(echo_stream, "127.0.0.1", 0)
    else:
        server = await loop.create_server(Echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    for _ in range(options.connections):
        if options.mode == "streams":
            client = stream_client(host, port, message, tally)
            running.append(asyncio.create_task(client))
        else:
            running.append(await loop.create_connection(lambda: Client(message, tally), host, port))
    ready()
    await asyncio.Event().wait()


def start(
    options: argparse.Namespace, factory: LoopFactory, tally: Tally, core: int | None
) -> None:
    """Run one loop in a new thread; return when its connections are open."""
    ready = threading.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(echo(options, tally, core, ready.set))

    threading.Thread(target=run, daemon=True).start()
    if not ready.wait(READY_TIMEOUT_S):
        sys.exit("a loop did not get ready")


def waited_for_core_s() -> float:
    """Return for how long all threads of this process have waited for a core."""
    tasks = Path("/proc/self/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[1]) for task in tasks) / 1e9


def measure(options: argparse.Namespace) -> dict[str, float | bool]:
    """Run the loops and return what they did within the window."""
    # A whole process shares one core under a GIL, however many threads it has.
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else [None]
    factory = loop_factory(options.loop)
    tallies = [Tally() for _ in range(options.loops)]
    for index, tally in enumerate(tallies):
        start(options, factory, tally, cores[index % len(cores)])
    time.sleep(options.warmup)
    before = sum(tally.count for tally in tallies)
    wall, cpu, waited = time.perf_counter(), time.process_time(), waited_for_core_s()
    time.sleep(options.duration)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    waited = waited_for_core_s() - waited
    count = sum(tally.count for tally in tallies) - before
    return {
        "round_trips_per_s": count / wall,
        "cpu_us_per_round_trip": cpu * 1e6 / max(count, 1),
        "busy_share": cpu / wall / options.loops,
        "core_wait_share": waited / wall / options.loops,
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--loop", default="asyncio", help="see loops.py")
    parser.add_argument("--loops", type=int, default=2, help="how many loops, each in a thread")
    parser.add_argument("--mode", default="proto", choices=["proto", "streams"])
    parser.add_argument("--size", type=int, default=1024, help="bytes per message")
    parser.add_argument("--connections", type=int, default=8, help="of each loop")
    parser.add_argument("--warmup", type=float, default=0.3, help="seconds")
    parser.add_argument("--duration", type=float, default=1.5, help="seconds")
    options = parser.parse_args()
    settle_allocator()
    print(json.dumps(measure(options)), flush=True)
    # The loops run for ever, and not every one of those compared here can be ended from outside.
    os._exit(0)


if __name__ == "__main__":
    main()
