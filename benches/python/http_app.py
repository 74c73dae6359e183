"""uvicorn with httptools, serving a body of N bytes at `/N`. Prints `READY ADDRESS`."""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import uvicorn
from loops import loop_factory, settle_allocator

Send = Callable[[dict[str, Any]], Awaitable[None]]


@cache
def response(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both messages of the reply to `path`."""
    body = b"x" * int(path[1:])
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    return start, {"type": "http.response.body", "body": body}


async def app(scope: dict[str, Any], receive: object, send: Send) -> None:
    """Serve one request (ASGI)."""
    start, body = response(scope["path"])
    await send(start)
    await send(body)


class Server(uvicorn.Server):
    """A server that says where it listens; it serves HTTPS if it is given a PEM file."""

    def __init__(self, certificate: str | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host="127.0.0.1",
                port=0,
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="warning",
                ssl_certfile=certificate,
            )
        )
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        self.address = f"tcp:{host}:{port}"
        self.listening.set()
        print("READY", self.address, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", default="asyncio", help="see loops.py")
    parser.add_argument("--certificate", metavar="FILE", help="serve HTTPS with this PEM file")
    options = parser.parse_args()
    settle_allocator()
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        runner.run(Server(options.certificate).serve())


if __name__ == "__main__":
    main()
