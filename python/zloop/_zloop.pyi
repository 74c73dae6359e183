"""The native part of zloop. Use the package `zloop`, not this module."""

import asyncio
import concurrent.futures
import ssl
import sys
from asyncio import sslproto, transports
from collections.abc import Callable
from contextvars import Context
from socket import socket
from typing import Any, Literal, TypeVar, TypeVarTuple, final

from typing_extensions import disjoint_base

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

__all__ = [
    "DatagramTransport",
    "EventLoop",
    "Handle",
    "ReadPipeTransport",
    "SSLTransport",
    "StreamTransport",
    "TimerHandle",
    "TlsProtocol",
    "WritePipeTransport",
    "__version__",
    "available_backends",
    "diagnose",
    "numeric_address",
    "tls_problem",
    "wrap_future",
]

__version__: str

class Handle(asyncio.Handle):
    """A callback scheduled on a zloop loop."""

if sys.version_info >= (3, 14):
    class _ThreadSafeHandle(asyncio.Handle):
        """A callback that another thread scheduled."""

class TimerHandle(asyncio.TimerHandle):
    """A callback scheduled for a time on a zloop loop."""

class StreamTransport(transports._FlowControlMixin):
    """A connected stream socket on a zloop loop."""

    max_size: int
    """The largest read, in bytes."""

    def _send_written(self) -> None: ...
    def __del__(self) -> None: ...

class ReadPipeTransport(transports.ReadTransport):
    """The reading end of a pipe on a zloop loop."""

    def __del__(self) -> None: ...

class WritePipeTransport(transports._FlowControlMixin):
    """The writing end of a pipe on a zloop loop."""

    def __del__(self) -> None: ...

class SSLTransport(sslproto._SSLProtocolTransport):
    """A TLS connection on a zloop loop."""

    def __del__(self) -> None: ...

@final
class TlsProtocol:
    """What the transport below a TLS connection talks to."""

    def __new__(
        cls,
        event_loop: EventLoop,
        app_protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext | None,
        waiter: asyncio.Future[Any] | None,
        server_side: bool = False,
        server_hostname: str | None = None,
        call_connection_made: bool = True,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        portable: bool = False,
    ) -> TlsProtocol: ...
    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool: ...
    def connection_lost(self, exc: BaseException | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def _feed(self, data: bytes) -> None: ...
    def _check_handshake_timeout(self) -> None: ...
    def _check_shutdown_timeout(self) -> None: ...
    def _do_read(self) -> None: ...
    def _resume(self) -> None: ...
    @property
    def _loop(self) -> EventLoop: ...
    @property
    def _sslobj(self) -> ssl.SSLObject | None: ...
    @property
    def _engine(self) -> str | None: ...
    @property
    def _transport(self) -> asyncio.Transport | None: ...
    @property
    def _app_transport(self) -> SSLTransport | None: ...
    @property
    def _app_reading_paused(self) -> bool: ...
    @property
    def _app_protocol(self) -> asyncio.BaseProtocol | None: ...

class DatagramTransport(transports._FlowControlMixin, asyncio.DatagramTransport):
    """A datagram socket on a zloop loop."""

    def __del__(self) -> None: ...

@disjoint_base
class EventLoop:
    """The native base of `zloop.Loop`."""

    _closed: bool
    _debug: bool
    _stopping: bool
    _thread_id: int | None
    _task_factory: Any

    def __new__(cls, *_args: object, **_kwargs: object) -> EventLoop: ...
    @property
    def backend(self) -> str: ...
    def _open(self, backend: str | None = None) -> None: ...
    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> Handle: ...
    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> Handle: ...
    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> TimerHandle: ...
    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> TimerHandle: ...
    def time(self) -> float: ...
    def stop(self) -> None: ...
    def is_running(self) -> bool: ...
    def is_closed(self) -> bool: ...
    def get_debug(self) -> bool: ...
    def create_future(self) -> asyncio.Future[Any]: ...
    def create_task(self, coro: Any, **kwargs: Any) -> asyncio.Task[Any]: ...
    def _run(self) -> None: ...
    def _dispose(self) -> None: ...
    def _try_recv(self, sock: socket, n: int) -> bytes | asyncio.Future[None] | None: ...
    def _try_recv_into(self, sock: socket, buf: Any) -> int | asyncio.Future[None] | None: ...
    def _try_recvfrom(
        self, sock: socket, bufsize: int
    ) -> tuple[bytes, Any] | asyncio.Future[None] | None: ...
    def _try_recvfrom_into(
        self, sock: socket, buf: Any, nbytes: int
    ) -> tuple[int, Any] | asyncio.Future[None] | None: ...
    def _try_send(self, sock: socket, data: Any) -> int | None: ...
    def _try_sendto(
        self, sock: socket, data: Any, address: Any
    ) -> int | asyncio.Future[None] | None: ...
    def _try_sendfile(
        self, sock: socket, fd: int, offset: int, limit: int
    ) -> tuple[int, asyncio.Future[None] | None]: ...
    def _try_connect(
        self, sock: socket, address: Any
    ) -> Literal[True] | asyncio.Future[None] | None: ...
    def _end_connect(self, sock: socket, address: Any) -> None: ...
    def _try_accept(self, sock: socket) -> tuple[socket, Any] | asyncio.Future[None] | None: ...
    def _try_datagram_transport(
        self,
        sock: socket,
        protocol: asyncio.BaseProtocol,
        address: Any,
        waiter: asyncio.Future[Any] | None,
        extra: dict[str, Any] | None,
    ) -> DatagramTransport | None: ...
    def _wait_writable(self, sock: socket) -> asyncio.Future[None]: ...
    def _stop_waiting(self, sock: socket, waiter: asyncio.Future[None]) -> None: ...
    def _stats(self) -> dict[str, int]: ...
    def _watched(self, fd: int) -> int: ...
    def _send_written(self) -> None: ...
    def _was_forked(self) -> None: ...
    def _stream_of(self, fd: int) -> StreamTransport | None: ...
    def _wait_for_child(
        self, pid: int, callback: Callable[[int, int, Any], object], argument: Any
    ) -> bool: ...
    def _write_to_self(self) -> None: ...
    def _add_callback(self, handle: asyncio.Handle) -> None: ...
    def _add_reader(
        self, fd: Any, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle: ...
    def _add_writer(
        self, fd: Any, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle: ...
    def _watch_exit(self, pid: int, callback: Callable[..., object], *args: Any) -> None: ...
    def _remove_reader(self, fd: Any) -> bool: ...
    def _remove_writer(self, fd: Any) -> bool: ...
    def _make_socket_transport(
        self,
        sock: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: asyncio.AbstractServer | None = None,
        context: Context | None = None,
    ) -> StreamTransport: ...
    def _make_read_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> ReadPipeTransport: ...
    def _make_write_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> WritePipeTransport: ...
    def _accept_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: Any,
        sslcontext: Any = None,
        server: asyncio.AbstractServer | None = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        context: Context | None = None,
    ) -> None: ...

def available_backends() -> list[str]: ...
def tls_problem() -> str | None: ...
def wrap_future(
    event_loop: EventLoop, source: concurrent.futures.Future[_T], at_once: bool
) -> asyncio.Future[_T]: ...
def numeric_address(
    host: Any, port: Any, family: Any, kind: Any, proto: Any, flags: Any
) -> list[tuple[Any, ...]] | None: ...
def diagnose() -> list[dict[str, Any]]: ...
