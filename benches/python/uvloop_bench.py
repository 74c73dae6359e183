"""Runs the server of uvloop's own echo benchmark, unchanged, on any loop. Prints `READY ADDRESS`.

That program makes its loop with `asyncio.new_event_loop()`, so that is what is replaced here, in
this process. It says nothing when it listens, so a thread tries until it can connect.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import runpy
import socket
import sys
import threading
import time
from pathlib import Path

from loops import loop_factory, settle_allocator


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def announce(port: int) -> None:
    """Say where the server listens, once it does."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.01)
    print(f"READY tcp:127.0.0.1:{port}", file=sys.__stdout__, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--loop", default="asyncio", help="see loops.py")
    parser.add_argument("--program", type=Path, required=True, help="uvloop's echoserver.py")
    parser.add_argument("--mode", choices=["proto", "buffered", "streams", "sock"], required=True)
    options = parser.parse_args()
    settle_allocator()
    asyncio.new_event_loop = loop_factory(options.loop)
    port = free_port()
    modes = {"proto": ["--proto"], "buffered": ["--proto", "--buffered"], "streams": ["--streams"]}
    sys.argv = [str(options.program), "--addr", f"127.0.0.1:{port}", *modes.get(options.mode, [])]
    threading.Thread(target=announce, args=[port], daemon=True).start()
    with contextlib.redirect_stdout(sys.stderr):
        runpy.run_path(str(options.program), run_name="__main__")


if __name__ == "__main__":
    main()
