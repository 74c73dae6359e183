"""Sending files with `sendfile(2)`, straight from the loop.

Checks of arguments, and the fallback for files and transports that the kernel cannot serve, are asyncio's. Ours is
what sends: as much as the socket takes, at once, then again whenever there is room. A transport stays registered
meanwhile and waits for room as it does for its own writes.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
from asyncio import unix_events
from typing import TYPE_CHECKING, Any

from ._sock import SockMethods

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    _Attempt = Callable[[int, int, int], tuple[int, asyncio.Future[None] | None]]

#: The most that leaves in one go, so that a peer that takes all of it cannot keep others from running.
_SLICE = 4 << 20

_sendfile = getattr(os, "sendfile", None)

_update_position = asyncio.SelectorEventLoop._sock_sendfile_update_filepos  # type: ignore[attr-defined]  # private
#: Older versions also ask how much was sent, and leave the position alone if nothing was.
_POSITION_ARGUMENTS = _update_position.__code__.co_argcount - 1


class SendfileMethods(SockMethods):
    """The part of `Loop` that sends files."""

    if TYPE_CHECKING:

        def _check_sendfile_params(self, sock: Any, file: Any, offset: Any, count: Any) -> None: ...

    async def _sock_sendfile_native(
        self, sock: socket.socket, file: Any, offset: int, count: int | None
    ) -> int:
        if not _is_ours_to_call():
            native = super()._sock_sendfile_native  # type: ignore[misc]  # private
            sent: int = await native(sock, file, offset, count)
            return sent

        def attempt(*part: int) -> tuple[int, asyncio.Future[None] | None]:
            return self._try_sendfile(sock, *part)

        def give_up(waiter: asyncio.Future[None]) -> None:
            self._stop_waiting(sock, waiter)

        return await self._send_file(attempt, give_up, file, offset, count)

    async def _sendfile_native(self, transp: Any, file: Any, offset: int, count: int | None) -> int:
        if not _is_ours_to_call():
            raise asyncio.SendfileNotAvailableError("os.sendfile() is not available")
        resume_reading = transp.is_reading()
        transp.pause_reading()
        await transp._make_empty_waiter()
        try:
            self._check_sendfile_params(transp._sock, file, offset, count)
            return await self._send_file(transp._send_part, None, file, offset, count)
        finally:
            transp._reset_empty_waiter()
            if resume_reading:
                transp.resume_reading()

    async def _send_file(
        self,
        attempt: _Attempt,
        give_up: Callable[[asyncio.Future[None]], None] | None,
        file: Any,
        offset: int,
        count: int | None,
    ) -> int:
        """Send `count` bytes, or all, of what a file has from `offset` on."""
        if not _size_of(file) and not count:
            return 0
        total = 0
        try:
            while True:
                limit = min(count - total, _SLICE) if count else _SLICE
                # Asked for each time: once closed, its number may be another file's.
                sent, waiter = _try(attempt, (file.fileno(), offset + total, limit), total)
                total += sent
                if waiter is None:
                    if sent < limit or total == count:
                        return total
                    await asyncio.sleep(0)
                    continue
                try:
                    await waiter
                except BaseException:
                    if give_up is not None:
                        give_up(waiter)
                    raise
        finally:
            moved = (file.fileno(), offset + total, total)
            _update_position(self, *moved[:_POSITION_ARGUMENTS])


def _size_of(file: Any) -> int:
    try:
        return os.fstat(file.fileno()).st_size
    except (AttributeError, io.UnsupportedOperation, OSError):
        raise asyncio.SendfileNotAvailableError("not a regular file") from None


def _try(
    attempt: _Attempt, part: tuple[int, int, int], total: int
) -> tuple[int, asyncio.Future[None] | None]:
    try:
        return attempt(*part)
    except OSError as exc:
        # As on asyncio, what fails at first may be a file that the kernel cannot send.
        if total == 0:
            raise asyncio.SendfileNotAvailableError("os.sendfile call failed") from exc
        if exc.errno == errno.ENOTCONN and type(exc) is not ConnectionError:
            raise ConnectionError("socket is not connected", errno.ENOTCONN) from exc
        raise


def _is_ours_to_call() -> bool:
    """Whether the system has the call and nobody has put something else in its place, where asyncio looks."""
    seen = unix_events.os  # type: ignore[attr-defined]  # private
    return _sendfile is not None and getattr(seen, "sendfile", None) is _sendfile
