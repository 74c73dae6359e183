"""zloop: a drop-in asyncio event loop with a native core and pluggable backends.

    asyncio.run(main(), loop_factory=zloop.new_event_loop)

Importing it changes nothing; only loops made here are different.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from ._zloop import (
    Handle,
    SSLTransport,
    StreamTransport,
    TimerHandle,
    __version__,
    available_backends,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = [
    "BackendUnavailable",
    "Handle",
    "Loop",
    "SSLTransport",
    "StreamTransport",
    "TimerHandle",
    "__version__",
    "available_backends",
    "install",
    "new_event_loop",
    "run",
    "run_parallel",
]

_T = TypeVar("_T")


class BackendUnavailable(OSError):
    """The backend that was asked for cannot be opened; says why, and what can be done about it."""


# These need nothing from here, but read better after the exception.
from ._loop import Loop  # noqa: E402
from ._parallel import run_parallel  # noqa: E402


def new_event_loop(backend: str | None = None) -> Loop:
    """Make a loop.

    `backend` is one of `available_backends()`. Without it the environment variables `ZLOOP_BACKEND` (a name) and
    `ZLOOP_IO_URING` (`completion` or `off`) decide, and without those, or for `auto`, zloop takes the best that this
    machine has.

    Raises ValueError for an unknown name and BackendUnavailable for a backend that cannot be opened here.
    """
    return Loop(backend)


def run(
    main: Coroutine[Any, Any, _T], *, debug: bool | None = None, backend: str | None = None
) -> _T:
    """Run a coroutine on a fresh loop, as `asyncio.run` does."""
    with asyncio.Runner(debug=debug, loop_factory=lambda: new_event_loop(backend)) as runner:
        return runner.run(main)


def install() -> None:
    """Make zloop the loop of `asyncio.run` and of everything else that asks asyncio's policy for one.

    Policies are deprecated since Python 3.14 and gone from 3.16; pass `loop_factory=zloop.new_event_loop` instead
    where you can.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(_policy_class()())


def _policy_class() -> type[Any]:
    """`EventLoopPolicy`, made on first use: merely importing zloop must not touch a deprecated name."""
    global _policy
    if _policy is None:
        if sys.version_info >= (3, 16):
            raise AttributeError(
                "Python 3.16 has no event loop policies; use loop_factory=zloop.new_event_loop"
            )
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            base = asyncio.DefaultEventLoopPolicy

        body = {
            "__module__": __name__,
            "__doc__": "An asyncio policy whose loops are zloop's.",
            "_loop_factory": staticmethod(new_event_loop),
            "new_event_loop": lambda self: new_event_loop(),
        }
        _policy = type("EventLoopPolicy", (base,), body)
    return _policy


_policy: type[Any] | None = None


def __getattr__(name: str) -> Any:
    if name == "EventLoopPolicy":
        return _policy_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
