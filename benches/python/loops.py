"""Creates the event loop that a benchmark names.

A name is `asyncio`, `uvloop`, `zuvloop`, `rloop`, `rsloop`, `aiofastnet` (its transports on
uvloop's loop), `zloop`, `zloop:BACKEND`, `base` or `base:BACKEND` (another build of zloop), or
`zloop-zig` or `zloop-zig:io_uring` (the project of that name at version 0.0.1, written in Zig, on
epoll or as its variable asks). Those that share the module name `zloop` are told apart by
PYTHONPATH, which the harness sets. `zloop:BACKEND:portable` speaks TLS without calling OpenSSL
directly.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory(name: str) -> LoopFactory:
    """Return what makes a new loop of the kind called `name`."""
    module_name, backend, engine = [*name.split(":"), "", ""][:3]
    if engine:
        os.environ["ZLOOP_TLS"] = engine
    if module_name == "asyncio":
        return asyncio.new_event_loop
    if name == "zloop-zig:io_uring":
        # It has no argument for its backends; this must be set before the import.
        os.environ["ZLOOP_IO_URING"], backend = "completion", ""
    if module_name in ("base", "zloop-zig"):
        module_name = "zloop"
    module = importlib.import_module(module_name)
    if module_name == "aiofastnet":
        return module.loop_factory(loop_factory("uvloop"))  # type: ignore[no-any-return]
    make = module.new_event_loop
    if backend:
        return lambda: make(backend=backend)
    return make  # type: ignore[no-any-return]


def settle_allocator() -> None:
    """Put the C library's allocator into the state that any longer-lived program has reached.

    glibc maps large blocks from the kernel and unmaps them when they are freed, until the first
    block of that size is freed: from then on it recycles them. Before that, a loop that receives
    into large `bytes` pays page faults for every message, and whether it does depends on what
    happened to be imported. So every benchmark frees one large block before it starts.
    """
    bytearray(4 << 20)


def serve(description: str | None, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the server `main` on the loop that the command line names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--loop", default="asyncio", help="see loops.py")
    options = parser.parse_args()
    settle_allocator()
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        runner.run(main())
