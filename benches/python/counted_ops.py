"""Runs hot paths of an event loop under callgrind, which counts their instructions.

Before and after each operation it calls `os.getppid()`: callgrind is told to write its counters and
start anew whenever that function of the C library is entered. Prints the names of the operations,
one a line, each with the number of times it was carried out between two such marks.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import socket

from loop_ops import BATCH, Operation, operations
from loops import LoopFactory, loop_factory, settle_allocator

ECHO = "echo 1 KiB, protocol"
MESSAGE = bytes(1024)
# The single operations of `loop_ops.py` that only compute, and so cost the same each time.
COMPUTING = [
    "call_soon, 0 arguments",
    "call_soon, 1 argument",
    "call_soon, 3 arguments",
    "call_soon chain",
    "call_later(0)",
    "call_later and cancel",
    "timers due at once, out of order",
    "call_soon_threadsafe, own thread",
    "sleep(0)",
    "create and await a task",
    "gather, per task of 100",
    "create_future",
    "getaddrinfo, numeric",
]


class Echo(asyncio.Protocol):
    """Sends back what it receives."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self.write(data)


async def echo(count: int) -> None:
    """Exchange messages with a blocking socket, which runs none of the loop's code."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    far.settimeout(10)
    near.setblocking(False)
    transport, _ = await loop.create_connection(Echo, sock=near)
    done = loop.create_future()
    left = count

    def exchange() -> None:
        nonlocal left
        if left < count:
            far.recv(len(MESSAGE), socket.MSG_WAITALL)
        if not left:
            done.set_result(None)
            return
        left -= 1
        far.send(MESSAGE)
        # What has arrived is read and answered before a timer runs that was due as well.
        loop.call_later(0, exchange)

    exchange()
    await done
    transport.close()
    far.close()


async def idle(_: int) -> None:
    """Do nothing: what starting and ending a measurement costs."""


def counted() -> dict[str, Operation]:
    """Return every operation that is counted, by its name."""
    return {**{name: operations[name][0] for name in COMPUTING}, ECHO: echo}


def count(name: str, run: Operation, factory: LoopFactory) -> None:
    """Carry out one operation between two marks, in a loop that has warmed up."""
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run(BATCH))
        runner.run(run(BATCH))
        gc.collect()
        os.getppid()
        runner.run(idle(0))
        os.getppid()
        runner.run(run(BATCH))
        os.getppid()
    print(name, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", default="zloop:epoll", help="see loops.py")
    parser.add_argument("--only", action="append", metavar="NAME", help="an operation to count")
    options = parser.parse_args()
    settle_allocator()
    factory = loop_factory(options.loop)
    for name, run in counted().items():
        if not options.only or name in options.only:
            count(name, run, factory)


if __name__ == "__main__":
    main()
