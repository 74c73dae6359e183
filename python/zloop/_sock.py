"""The `sock_*` coroutines: tried at once by native code, then again whenever the socket is ready.

The native methods (`src/py/sock/`) answer None for what is not theirs, a subclass of `socket.socket` for example. Then
asyncio's own coroutine does it all. While one of these coroutines waits, nobody reads or writes for it: one that is
cancelled has taken nothing from the socket, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from . import _zloop

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer, WriteableBuffer


class SockMethods(_zloop.EventLoop, asyncio.SelectorEventLoop):
    """The part of `Loop` that works on plain sockets."""

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        """Receive up to `n` bytes; none at the end of the stream."""
        # The busiest of them: spelled out, it needs no second coroutine.
        while True:
            got: Any = self._try_recv(sock, n)
            if type(got) is bytes:
                return got
            if got is None:
                return await super().sock_recv(sock, n)
            try:
                await got
            except BaseException:
                self._stop_waiting(sock, got)
                raise

    async def sock_recv_into(self, sock: socket.socket, buf: WriteableBuffer) -> int:
        """Receive into `buf` and return how many bytes came."""
        got: int | None = await self._until_done(self._try_recv_into, sock, buf)
        return await super().sock_recv_into(sock, buf) if got is None else got

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram, cut off after `bufsize` bytes, and the address it came from."""
        got: tuple[bytes, Any] | None
        got = await self._until_done(self._try_recvfrom, sock, bufsize)
        return await super().sock_recvfrom(sock, bufsize) if got is None else got

    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: WriteableBuffer, nbytes: int = 0
    ) -> tuple[int, Any]:
        """Receive a datagram into `buf`; return its length and the address it came from."""
        got: tuple[int, Any] | None
        got = await self._until_done(self._try_recvfrom_into, sock, buf, nbytes)
        return await super().sock_recvfrom_into(sock, buf, nbytes) if got is None else got

    async def sock_sendall(self, sock: socket.socket, data: ReadableBuffer) -> None:
        """Send all of `data`. After an error nobody knows how much of it has left."""
        sent = self._try_send(sock, data)
        if sent is True:
            return
        if sent is None:
            await super().sock_sendall(sock, data)
            return
        # Keeps a bytearray from being resized; what it is changed to meanwhile is sent, as by asyncio.
        rest = memoryview(data)
        try:
            while sent is not True:
                await self._until_ready(sock, self._wait_writable(sock))
                rest = rest[sent:]
                sent = self._try_send(sock, rest)
                if sent is None:
                    await super().sock_sendall(sock, rest)
                    return
        finally:
            # The traceback of an exception keeps this frame, for longer than the data may stay as it is.
            rest.release()

    async def sock_sendto(self, sock: socket.socket, data: ReadableBuffer, address: Any) -> int:
        """Send a datagram to `address` and return its length."""
        sent: int | None = await self._until_done(self._try_sendto, sock, data, address)
        return await super().sock_sendto(sock, data, address) if sent is None else sent

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect to `address`, whose name is looked up if it is one."""
        begun = self._try_connect(sock, address)
        if begun is None:
            await super().sock_connect(sock, address)
        elif begun is not True:
            await self._until_ready(sock, begun)
            self._end_connect(sock, address)

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection: a non-blocking socket and the address at its other end."""
        got: tuple[socket.socket, Any] | None = await self._until_done(self._try_accept, sock)
        return await super().sock_accept(sock) if got is None else got

    async def _until_done(
        self, attempt: Callable[..., Any], sock: socket.socket, *args: Any
    ) -> Any:
        """Attempt it whenever the socket is ready, until there is an answer."""
        while isinstance(got := attempt(sock, *args), asyncio.Future):
            await self._until_ready(sock, got)
        return got

    async def _until_ready(self, sock: socket.socket, waiter: asyncio.Future[None]) -> None:
        """Wait until the socket is ready."""
        try:
            await waiter
        except BaseException:
            self._stop_waiting(sock, waiter)
            raise
