"""An echo server with the package `websockets`. Prints `READY ADDRESS` once it listens."""

from __future__ import annotations

import argparse
import asyncio

from loops import loop_factory, settle_allocator
from websockets.asyncio.server import ServerConnection, serve


async def echo(connection: ServerConnection) -> None:
    """Return every message of one connection."""
    async for message in connection:
        await connection.send(message)


async def listen() -> None:
    """Serve on a free port, for ever."""
    # No pings, no compression: neither is what is measured here.
    async with serve(echo, "127.0.0.1", 0, ping_interval=None, compression=None) as server:
        host, port = next(iter(server.sockets)).getsockname()
        print(f"READY tcp:{host}:{port}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", default="asyncio", help="see loops.py")
    options = parser.parse_args()
    settle_allocator()
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        runner.run(listen())


if __name__ == "__main__":
    main()
