"""aiohttp serving a body of N bytes at `/N`. Prints `READY ADDRESS`."""

from __future__ import annotations

import argparse
import asyncio
from functools import cache

from aiohttp import web
from loops import loop_factory, settle_allocator


@cache
def body(length: str) -> bytes:
    """Return a body of `length` bytes."""
    return b"x" * int(length)


async def reply(request: web.Request) -> web.Response:
    """Serve one request."""
    return web.Response(body=body(request.match_info["length"]), content_type="text/plain")


async def serve() -> None:
    """Serve on a free port, for ever."""
    app = web.Application()
    app.router.add_get("/{length}", reply)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    host, port = runner.addresses[0][:2]
    print(f"READY tcp:{host}:{port}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", default="asyncio", help="see loops.py")
    options = parser.parse_args()
    settle_allocator()
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
