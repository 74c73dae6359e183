"""uvicorn on several loops in one process: on a free-threaded Python a core for each, with everything shared.

Ctrl-C stops them all.
"""

import argparse
import contextlib
import json
import socket
import threading
import warnings
from typing import Any

import uvicorn

import zloop

# All loops serve the same application; what it shares between requests must bear threads.
lock = threading.Lock()
requests = 0


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    global requests
    if scope["type"] != "http":
        return
    with lock:
        requests += 1
        number = requests
    body = json.dumps({"thread": threading.current_thread().name, "request": number}).encode()
    # One request for each connection, so that the kernel spreads them over the loops.
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(port: int, loops: int | None) -> None:
    servers: list[uvicorn.Server] = []

    async def main(index: int) -> None:
        # Every loop listens on the same port, with a socket of its own.
        listener = socket.create_server(("127.0.0.1", port), reuse_port=True, backlog=1024)
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
        servers.append(server)
        try:
            await server.serve(sockets=[listener])
        finally:
            # uvicorn handles signals in the main thread only, which is the first loop's.
            for other in servers:
                other.should_exit = True

    zloop.run_parallel(main, loops=loops)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--loops", type=int, help="default: one for each core, or one under a GIL")
    options = parser.parse_args()
    # It works under a GIL too, only no faster.
    warnings.filterwarnings("ignore", "this Python has a global interpreter lock")
    with contextlib.suppress(KeyboardInterrupt):
        serve(options.port, options.loops)
