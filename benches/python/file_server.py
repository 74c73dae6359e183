"""Serves files with `loop.sendfile`: one of N bytes at `/N`, over HTTP/1.1. Prints `READY ADDRESS`.

Where a loop does not have it, pieces of the file are read in a thread and written, as programs do that have to run
there as well.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from functools import cache
from io import FileIO
from typing import cast

from loops import serve

PIECE = 256 * 1024


@cache
def file_of(size: int) -> FileIO:
    """Return an open file of so many bytes."""
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    file = FileIO(fd, "r+b")
    file.write((bytes(range(256)) * (size // 256 + 1))[:size])
    return file


class Connection(asyncio.Protocol):
    """A connection on which one request is answered at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.request = b""
        self.room = asyncio.Event()
        self.room.set()

    def data_received(self, data: bytes) -> None:
        self.request += data
        if self.request.endswith(b"\r\n\r\n"):
            size = int(self.request.split(b" ", 2)[1][1:])
            self.request = b""
            self.task = asyncio.get_running_loop().create_task(self.answer(size))

    def pause_writing(self) -> None:
        self.room.clear()

    def resume_writing(self) -> None:
        self.room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.room.set()

    async def answer(self, size: int) -> None:
        """Send the file of so many bytes."""
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        loop, file = asyncio.get_running_loop(), file_of(size)
        try:
            await loop.sendfile(self.transport, file)
        except NotImplementedError:
            for at in range(0, size, PIECE):
                piece = await loop.run_in_executor(None, os.pread, file.fileno(), PIECE, at)
                self.transport.write(piece)
                await self.room.wait()
        except ConnectionError:
            self.transport.abort()


async def main() -> None:
    """Serve for ever."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"READY tcp:{host}:{port}", flush=True)
    async with server:
        await asyncio.Event().wait()


if __name__ == "__main__":
    serve(__doc__, main)
