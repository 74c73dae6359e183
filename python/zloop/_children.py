"""How a loop learns that a child process has ended, on Python 3.14 and newer: a watcher of the loop's own."""

from __future__ import annotations

import asyncio
import errno
import os
from asyncio.log import logger
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._loop import Loop


class ChildWatcher(Protocol):
    """What asyncio asks for. `callback(pid, returncode, *args)` is called in the loop's thread."""

    def add_child_handler(self, pid: int, callback: Callable[..., object], *args: Any) -> None: ...


class ExitWatcher:
    """Has the backend tell, as kqueue does, without a thread for each child.

    `last_resort` is asyncio's own watcher: pidfds on Linux, else threads.
    """

    def __init__(self, last_resort: ChildWatcher) -> None:
        self._last_resort = last_resort

    def add_child_handler(self, pid: int, callback: Callable[..., object], *args: Any) -> None:
        """Have `callback(pid, returncode, *args)` called once the child has ended."""
        loop: Loop = asyncio.get_running_loop()  # type: ignore[assignment]  # ours alone has this watcher
        try:
            loop._watch_exit(pid, _reap, pid, callback, args)
        except ProcessLookupError:
            # Some kernels take no requests about a child that has ended, though it waits to be reaped.
            loop.call_soon(_reap, pid, callback, args)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                loop._watcher = self._last_resort  # This backend never will.
            self._last_resort.add_child_handler(pid, callback, *args)


def _reap(pid: int, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
    try:
        # Some kernels tell a moment before a call that does not wait would find the child.
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        logger.warning("Unknown child process pid %d, will report returncode 255", pid)
        returncode = 255  # Somebody else has reaped it.
    else:
        returncode = os.waitstatus_to_exitcode(status)
    callback(pid, returncode, *args)
