"""aiohttp serving a body of N bytes at `/N`. Prints `READY ADDRESS`."""

from __future__ import annotations

import asyncio
from functools import cache

from aiohttp import web
from loops import serve


@cache
def body(length: str) -> bytes:
    """Return a body of `length` bytes."""
    return b"x" * int(length)


async def reply(request: web.Request) -> web.Response:
    """Serve one request."""
    return web.Response(body=body(request.match_info["length"]), content_type="text/plain")


async def serve_http() -> None:
    """Serve on a free port, for ever."""
    app = web.Application()
    app.router.add_get("/{length}", reply)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    host, port = runner.addresses[0][:2]
    print(f"READY tcp:{host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    serve(__doc__, serve_http)
