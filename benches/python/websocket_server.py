"""An echo server with the package `websockets`. Prints `READY ADDRESS` once it listens."""

from __future__ import annotations

import asyncio

from loops import serve
from websockets.asyncio import server


async def echo(connection: server.ServerConnection) -> None:
    """Return every message of one connection."""
    async for message in connection:
        await connection.send(message)


async def listen() -> None:
    """Serve on a free port, for ever."""
    # No pings, no compression: neither is what is measured here.
    async with server.serve(
        echo, "127.0.0.1", 0, ping_interval=None, compression=None
    ) as listening:
        host, port = next(iter(listening.sockets)).getsockname()
        print(f"READY tcp:{host}:{port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    serve(__doc__, listen)
