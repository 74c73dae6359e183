"""Several processes, each with a zloop of its own; the same as

    uvicorn --app-dir examples uvicorn_workers:app --workers 2 --loop zloop:new_event_loop

Ctrl-C stops them all.
"""

import argparse
import asyncio
import json
import os
from typing import Any

import uvicorn


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    name = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    body = json.dumps({"loop": name, "pid": os.getpid()}).encode()
    # One request for each connection, so that the kernel spreads them over the workers.
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    uvicorn.run(
        "uvicorn_workers:app",
        app_dir=os.path.dirname(__file__),
        port=options.port,
        workers=2,
        loop="zloop:new_event_loop",
    )
