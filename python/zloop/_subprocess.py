"""Subprocesses: asyncio's own transports, started in fewer steps.

The process is started, signalled and finished by asyncio's code and by `subprocess.Popen`. Ours is how its pipes are
connected, at once instead of one after another in a task, and how its end is noticed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from asyncio import base_subprocess, unix_events
from asyncio.log import logger
from typing import TYPE_CHECKING, Any, cast

from ._sendfile import SendfileMethods

if TYPE_CHECKING:
    from collections.abc import Callable

    _Told = Callable[[int, int, Any], object]

_PIDFD_WATCHER = getattr(unix_events, "_PidfdChildWatcher", None)


class ProcessMethods(SendfileMethods):
    """The part of `Loop` that starts processes and waits for their end."""

    if TYPE_CHECKING:

        def _child_watcher_callback(self, pid: int, returncode: int, transp: Any) -> None: ...

    #: Whether the backend reports the end of processes, as far as anybody has asked.
    _backend_tells_exits = True
    #: Waits for children with a thread each, where the kernel cannot tell.
    _thread_watcher: Any = None

    async def _make_subprocess_transport(
        self, protocol: asyncio.BaseProtocol, *args: Any, extra: Any = None, **kwargs: Any
    ) -> asyncio.SubprocessTransport:
        if sys.version_info < (3, 14) and _watcher_was_set():
            base: Any = super()
            made = await base._make_subprocess_transport(protocol, *args, extra=extra, **kwargs)
            return cast("asyncio.SubprocessTransport", made)
        waiter = self.create_future()
        transport: Any = _transport_class(self)(
            self, protocol, *args, waiter=waiter, extra=extra, **kwargs
        )
        self._watch_child(transport)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await asyncio.shield(transport._wait())
            raise
        return cast("asyncio.SubprocessTransport", transport)

    def _watch_child(self, transport: Any) -> None:
        """Have the end of a process noticed: by the backend (kqueue), a file (pidfds), or else a thread."""
        pid, told = transport.get_pid(), self._child_watcher_callback
        if self._backend_tells_exits and self._watch_by_backend(pid, told, transport):
            return
        # Since 3.14 a loop has a watcher, of the other kind where pidfds are forbidden.
        watcher = getattr(self, "_watcher", None)
        if watcher is None or type(watcher) is _PIDFD_WATCHER:
            if self._wait_for_child(pid, told, transport):
                return
            watcher = self._thread_watcher or _thread_watcher()
            self._thread_watcher = watcher
        watcher.add_child_handler(pid, told, transport)

    def _watch_by_backend(self, pid: int, told: _Told, transport: Any) -> bool:
        try:
            self._watch_exit(pid, _reap, pid, told, transport)
        except ProcessLookupError:
            # Some kernels take no requests about a child that has ended, though it waits to be reaped.
            self.call_soon(_reap, pid, told, transport)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                self._backend_tells_exits = False  # It never will.
            return False
        return True


def _watcher_was_set() -> bool:
    """Whether the program has set a child watcher that is none of asyncio's usual ones."""
    watcher = getattr(asyncio.get_event_loop_policy(), "_watcher", None)
    usual = [getattr(unix_events, f"{kind}ChildWatcher", None) for kind in ("Threaded", "Pidfd")]
    return watcher is not None and type(watcher) not in usual


def _reap(pid: int, told: _Told, transport: Any) -> None:
    try:
        # Some kernels tell a moment before a call that does not wait would find the child.
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        logger.warning("Unknown child process pid %d, will report returncode 255", pid)
        returncode = 255  # Somebody else has reaped it.
    else:
        returncode = os.waitstatus_to_exitcode(status)
    told(pid, returncode, transport)


class _Starting:
    """Stands in for the loop while asyncio's constructor runs: it schedules the task that connects the pipes."""

    def __init__(self, loop: ProcessMethods) -> None:
        self.get_debug = loop.get_debug
        self.is_closed = loop.is_closed

    def create_task(self, done: None) -> None:
        """Do nothing: the pipes are connected when `_connect_pipes()` returns."""


class SubprocessTransport(unix_events._UnixSubprocessTransport):  # type: ignore[misc, name-defined]
    """A running process, as `asyncio.SubprocessTransport`."""

    def __init__(self, loop: ProcessMethods, *args: Any, **kwargs: Any) -> None:
        self._starts_on = loop
        super().__init__(_Starting(loop), *args, **kwargs)
        self._loop = loop

    def _connect_pipes(self, waiter: asyncio.Future[None]) -> None:
        loop, process = self._starts_on, self._proc
        del self._starts_on
        try:
            self._connect(loop, process)
        except BaseException as exc:
            for protocol in self._pipes.values():
                if protocol is not None:
                    protocol.pipe.close()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            if isinstance(exc, SystemExit | KeyboardInterrupt):
                raise
            waiter.set_exception(exc)
            return
        loop.call_soon(self._protocol.connection_made, self)
        self._pending_calls = None
        loop.call_soon(_connected, waiter)

    def _connect(self, loop: ProcessMethods, process: subprocess.Popen[bytes]) -> None:
        writes, reads = (
            base_subprocess.WriteSubprocessPipeProto,
            base_subprocess.ReadSubprocessPipeProto,
        )
        for fd, pipe, make, kind in (
            (0, process.stdin, loop._make_write_pipe_transport, writes),
            (1, process.stdout, loop._make_read_pipe_transport, reads),
            (2, process.stderr, loop._make_read_pipe_transport, reads),
        ):
            if pipe is not None:
                protocol: Any = kind(self, fd)
                # Its connection_made() says so once more; a close() may come before.
                protocol.pipe = make(pipe, protocol)
                self._pipes[fd] = protocol


def _connected(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _transport_class(loop: ProcessMethods) -> type:
    """Return asyncio's class for a loop on which somebody has replaced what connects pipes."""
    for name in ("connect_read_pipe", "connect_write_pipe"):
        ours = getattr(getattr(loop, name), "__func__", None)
        if ours is not getattr(asyncio.BaseEventLoop, name):
            return unix_events._UnixSubprocessTransport  # type: ignore[no-any-return, attr-defined]
    return SubprocessTransport


def _thread_watcher() -> Any:
    """Return what waits for children with a thread each, under its name in this version of Python."""
    renamed = hasattr(unix_events, "_ThreadedChildWatcher")
    return getattr(unix_events, "_ThreadedChildWatcher" if renamed else "ThreadedChildWatcher")()
