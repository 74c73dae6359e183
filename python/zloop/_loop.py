"""The event loop: CPython's own selector loop with everything hot replaced by native code.

`Loop` inherits from the native `_zloop.EventLoop` first, by way of `SockMethods`. What these define is used: the run
cycle, scheduling, handles, timers, `_add_reader` and its family, transports, `sock_recv` and its family. Everything
else is asyncio's, of the Python that runs, so that its behaviour, messages and edge cases are the same by construction.
"""

from __future__ import annotations

import _socket
import asyncio
import concurrent.futures
import contextlib
import os
import signal
import socket
import sys
import threading
import weakref
from asyncio import constants, events, futures
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, TypeVarTuple, cast

from . import _zloop
from ._choice import choose, wants_portable_tls
from ._subprocess import ProcessMethods

if TYPE_CHECKING:
    import selectors
    import ssl
    from collections.abc import AsyncGenerator, Callable
    from contextvars import Context

    # Here, because stubtest does not know what it is.
    _Ts = TypeVarTuple("_Ts")

_T = TypeVar("_T")


class Loop(ProcessMethods):
    """An asyncio event loop with a native core.

    Make one with `zloop.new_event_loop()`. The backend is chosen by `backend`, else by the environment
    (`ZLOOP_BACKEND`, `ZLOOP_IO_URING`), else automatically; `loop.backend` tells which it is.
    """

    if TYPE_CHECKING:
        # asyncio's private parts, which its published types do not mention.
        _csock: socket.socket | None
        _default_executor: concurrent.futures.Executor | None
        _executor_shutdown_called: bool
        _signal_handlers: dict[int, asyncio.Handle]

        def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None: ...
        def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None: ...
        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...
        def _set_coroutine_origin_tracking(self, enabled: bool) -> None: ...

    #: Signals were to wake this loop, so that its fd may be the wakeup fd. The set below does not know it any more when
    #: the garbage collector has asyncio's `__del__` close a loop: weak references are cleared before.
    _took_wakeup_fd = False

    def __init__(self, backend: str | None = None) -> None:
        choice = choose(backend)
        self._portable_tls = wants_portable_tls()
        try:
            self._open(choice.name)
        except (OSError, ValueError) as error:
            if choice.variable:
                error.add_note(f"The environment variable {choice.variable} asks for it.")
            raise
        super().__init__(cast("selectors.BaseSelector", _Selector(self)))

    @property
    def tls(self) -> str:
        """How TLS records are made: `"direct"`, by OpenSSL itself, or `"portable"`, by Python's own objects.

        A single connection can be `"portable"` all the same, if its context or its objects are unusual.
        """
        return "portable" if self._portable_tls or _zloop.tls_problem() else "direct"

    def run_forever(self) -> None:
        """Run until stop() is called."""
        self._check_closed()
        self._check_running()
        old_hooks = sys.get_asyncgen_hooks()
        wakeup = False
        thread = threading.get_ident()
        # Refused if another thread was faster. As this is no call, Ctrl-C cannot come between it and the `try`.
        self._thread_id = thread
        try:
            self._set_coroutine_origin_tracking(self._debug)
            wakeup = self._take_wakeup_fd()
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook,
                finalizer=self._asyncgen_finalizer_hook,
            )
            events._set_running_loop(self)
            self._run()
        finally:
            self._stopping = False
            self._thread_id = None
            events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*old_hooks)
            if wakeup:
                self._give_wakeup_fd_back()

    def _take_wakeup_fd(self) -> bool:
        """Have signals wake this loop, whichever thread the kernel gives them to.

        Only in the main thread, and only if nobody else uses the wakeup fd.
        """
        if self._csock is None or threading.current_thread() is not threading.main_thread():
            return False
        own = self._csock.fileno()
        if not self._took_wakeup_fd:
            # Before it is so: a signal's handler may raise at any moment, and then `close()` gives it back.
            self._took_wakeup_fd = True
            _WOKEN_BY_SIGNALS.add(self)
        try:
            old = signal.set_wakeup_fd(own, warn_on_full_buffer=False)
        except (OSError, ValueError):
            # Before Python 3.13, the thread that is first to import `threading` is the main one to it.
            return False
        return old in (-1, own) or not _restore_wakeup_fd(old)

    def _give_wakeup_fd_back(self) -> None:
        # Signal handlers of the loop need the fd for as long as they are there, as on asyncio.
        if not self._signal_handlers and self._csock is not None:
            current = signal.set_wakeup_fd(-1)
            if current not in (-1, self._csock.fileno()):
                _restore_wakeup_fd(current)

    def close(self) -> None:
        """Close the loop, which must not be running. Calling it again does nothing."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        if self._took_wakeup_fd and threading.current_thread() is threading.main_thread():
            # An interrupted run may have left it; the number will be another file's.
            with contextlib.suppress(ValueError):
                self._give_wakeup_fd_back()
        try:
            super().close()
        finally:
            # An executor may fail to shut down, and the loop is closed all the same.
            if self.is_closed():
                self._dispose()

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        super()._ensure_fd_no_transport(fd)  # type: ignore[misc]  # private
        fileno = fd if isinstance(fd, int) else int(fd.fileno())
        transport = self._stream_of(fileno)
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Any:
        if sys.version_info >= (3, 12):  # before that, asyncio did not look
            self._ensure_fd_no_transport(sock)
        transport = self._try_datagram_transport(sock, protocol, address, waiter, extra)
        if transport is None:
            make = super()._make_datagram_transport  # type: ignore[misc]  # private
            transport = make(sock, protocol, address, waiter, extra)
        return transport

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        waiter: asyncio.Future[Any] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: asyncio.AbstractServer | None = None,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: Context | None = None,  # since Python 3.15
    ) -> asyncio.Transport:
        ssl_protocol = _zloop.TlsProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            portable=self._portable_tls,
        )
        transport = ssl_protocol._app_transport
        self._make_socket_transport(
            rawsock,
            cast("asyncio.BaseProtocol", ssl_protocol),
            extra=extra,
            server=server,
            context=context,
        )
        return cast("asyncio.Transport", transport)

    async def start_tls(
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport:
        """Upgrade a transport to TLS; returns the one that the protocol has to use from here on."""
        import ssl

        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(
                f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
            )
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        ssl_protocol = _zloop.TlsProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            call_connection_made=False,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            portable=self._portable_tls,
        )
        # Nothing may come before connection_made(), which needs a turn.
        transport.pause_reading()
        if server_side:
            _move_read_ahead(protocol, ssl_protocol)
        transport.set_protocol(ssl_protocol)
        starting = self.call_soon(ssl_protocol.connection_made, transport)
        resuming = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            starting.cancel()
            resuming.cancel()
            del waiter  # its exception leads here
            raise
        return cast("asyncio.Transport", ssl_protocol._app_transport)

    def run_in_executor(
        self, executor: Any, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Run a function in a thread of an executor; returns a future of its result."""
        if executor is None and not self._executor_shutdown_called:
            executor = self._default_executor
        if executor is None or self._debug:
            return super().run_in_executor(executor, func, *args)
        self._check_closed()
        source = executor.submit(func, *args)
        if type(source) is concurrent.futures.Future:
            return _zloop.wrap_future(self, source, _COPIES_AT_ONCE)
        return futures.wrap_future(source, loop=self)

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[Any, ...]]:
        """Resolve a host and a port, numeric ones without a thread."""
        if not self._debug and socket.getaddrinfo is _getaddrinfo:
            found = _zloop.numeric_address(host, port, family, type, proto, flags)
            if found is None and _is_numeric(host, port):
                found = _resolve_numbers(host, port, family, type, proto, flags)
            if found is not None:
                return found
        return await super().getaddrinfo(
            host, port, family=family, type=type, proto=proto, flags=flags
        )


class _Forking(threading.local):
    """The loop whose callback forks in this thread."""

    loop: Loop | None = None


_forking = _Forking()


def _before_fork() -> None:
    loop = events._get_running_loop()
    _forking.loop = loop if isinstance(loop, Loop) else None
    if _forking.loop is not None:
        # What the callback has written must not be in the child's copy of the loop, too.
        _forking.loop._send_written()


def _after_fork_in_child() -> None:
    # asyncio has forgotten by now which loop runs.
    if _forking.loop is not None:
        _forking.loop._was_forked()
    _forking.loop = None


def _after_fork_in_parent() -> None:
    _forking.loop = None


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)


#: Loops whose fd may be the wakeup fd.
_WOKEN_BY_SIGNALS: weakref.WeakSet[Loop] = weakref.WeakSet()


def _restore_wakeup_fd(fd: int) -> bool:
    """Make it the wakeup fd again; False if its file is gone."""
    try:
        signal.set_wakeup_fd(fd)
    except (OSError, ValueError):
        return False
    return True


def _forget_wakeup_fd() -> None:
    """A child that was forked off in a callback is not to wake its parent's loop, nor who gets the number."""
    current = signal.set_wakeup_fd(-1)
    ours = (loop._csock and loop._csock.fileno() for loop in _WOKEN_BY_SIGNALS)
    if current != -1 and current not in ours:
        _restore_wakeup_fd(current)


if sys.version_info < (3, 12):  # Since then asyncio's own hook does it.
    os.register_at_fork(after_in_child=_forget_wakeup_fd)


def _move_read_ahead(protocol: asyncio.BaseProtocol, ssl_protocol: _zloop.TlsProtocol) -> None:
    """What a stream's reader got behind the last plain line is the beginning of the handshake."""
    reader = getattr(protocol, "_stream_reader", None)
    if isinstance(protocol, asyncio.StreamReaderProtocol) and reader is not None and reader._buffer:
        ssl_protocol._feed(bytes(reader._buffer))
        reader._buffer.clear()


def _resolve_numbers(
    host: str, port: int | None, family: int, kind: int, proto: int, flags: int
) -> list[tuple[Any, ...]] | None:
    """Have the resolver itself answer; None if it does not."""
    # With this flag it looks nothing up, so it cannot block. Bytes spare a name of digits and dots the way through the
    # codec for international ones.
    numeric = flags | _socket.AI_NUMERICHOST
    try:
        found = _socket.getaddrinfo(host.encode(), port, family, kind, proto, numeric)
    except OSError:
        return None  # The full lookup says what is wrong, in its own words.
    # What `socket.getaddrinfo` makes of it, without asking the enumerations each time.
    return [
        (_FAMILIES.get(kin, kin), _TYPES.get(kind, kind), protocol, name, address)
        for kin, kind, protocol, name, address in found
    ]


def _is_numeric(host: Any, port: Any) -> bool:
    """Whether neither the host nor the port needs a database to be understood."""
    if type(host) is not str or not (port is None or type(port) is int):
        return False
    # Longer ones are not to be parts of a name, whatever they would stand for.
    short = host.isascii() and len(host) < 64
    return short and (host.replace(".", "").isdigit() or ":" in host)


# Whether asyncio passes on at once what it learns in the loop's own thread, or with the next turn, as it did before.
_COPIES_AT_ONCE = any(
    "_get_running_loop" in inner.co_names
    for inner in futures._chain_future.__code__.co_consts  # type: ignore[attr-defined]  # private
    if isinstance(inner, CodeType)
)

# What programs may put in its place is theirs to have called, with the arguments they expect.
_getaddrinfo = socket.getaddrinfo
_FAMILIES: dict[int, Any] = {member.value: member for member in socket.AddressFamily}
_TYPES: dict[int, Any] = {member.value: member for member in socket.SocketKind}


class _Key(NamedTuple):
    """What `selectors.SelectorKey` tells, as far as asyncio asks."""

    fd: int
    events: int


class _Selector:
    """Answers asyncio's questions about a selector (its transports' `__repr__` asks) from the native tables."""

    def __init__(self, loop: Loop) -> None:
        self._watched = loop._watched

    def get_key(self, fileobj: Any) -> _Key:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        events = self._watched(fd)
        if not events:
            raise KeyError(f"{fileobj!r} is not registered")
        return _Key(fd, events)

    def close(self) -> None:
        """Nothing to close: the backend belongs to the loop."""
