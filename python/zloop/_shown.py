"""What `get_extra_info("socket")` shows of a stream transport's socket."""

from __future__ import annotations

import weakref
from asyncio import trsock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from ._zloop import StreamTransport


class TransportSocket(trsock.TransportSocket):
    """asyncio's, except that it has the transport send first what was written.

    The running callback has written it before it reached for the socket, so it has to leave before a shutdown, before
    what is sent by the number or by a duplicate, and before an option changes.
    """

    __slots__ = ("_shown", "_transport")

    def __init__(self, sock: socket.socket, transport: StreamTransport) -> None:
        self._shown = sock
        self._transport = weakref.ref(transport)

    @property
    def _sock(self) -> socket.socket:
        # What all of asyncio's methods use.
        transport = self._transport()
        if transport is not None:
            transport._send_written()
        return self._shown

    def __repr__(self) -> str:
        # Looking at it changes nothing.
        return repr(trsock.TransportSocket(self._shown))
