"""uvicorn.run with zloop: a plain ASGI application, no framework.

    python examples/uvicorn_run.py --port 8000

`--requests N` stops the server after N requests.
"""

import argparse
import asyncio
from typing import Any

import uvicorn


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    name = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": f"served by {name}\n".encode()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--requests", type=int)
    options = parser.parse_args()
    uvicorn.run(
        app,
        port=options.port,
        loop="zloop:new_event_loop",
        limit_max_requests=options.requests,
    )
