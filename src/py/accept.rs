//! Accepting: a listening socket turned readable, and its connections become transports.
//!
//! asyncio starts serving by watching the socket with `_accept_connection` as the callback; this is that method.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::IntoRawFd;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use zloop_backends::{SockAddr, attempt};

use super::event_loop::EventLoop;
use super::invoke::Invoke;
use super::transport::{fileno, log};
use super::{address, call, context, errors, socket, stream};

/// What `create_server` was told, as asyncio passes it on.
pub struct Listener<'py> {
    pub protocol_factory: Bound<'py, PyAny>,
    pub sock: Bound<'py, PyAny>,
    pub sslcontext: Option<Bound<'py, PyAny>>,
    pub server: Option<Bound<'py, PyAny>>,
    pub backlog: usize,
    /// Handshake and shutdown timeouts of TLS, in seconds.
    pub timeouts: [Option<Bound<'py, PyAny>>; 2],
    /// The server's, since Python 3.15: each connection gets a copy, before that one of the loop's.
    pub context: Option<Bound<'py, PyAny>>,
}

/// Accepts what is waiting, at most a full backlog, so that other sockets get their turn.
pub fn accept_all(this: &Bound<'_, EventLoop>, listener: &Listener<'_>) -> PyResult<()> {
    let py = this.py();
    if !socket::is_plain(&listener.sock)? {
        return accept_by_asyncio(this, listener);
    }
    let fd = fileno(&listener.sock)?;
    for attempts in 0..=listener.backlog {
        if attempts > 0 && !attempt::is_awaited(fd).unwrap_or(true) {
            return Ok(());
        }
        match attempt::accept(fd) {
            Ok((conn, address)) => {
                let conn = socket::accepted(&listener.sock, conn.into_raw_fd())?;
                accepted(this, listener, conn, address)?;
                // The program may have closed the listening socket, and have another one under this number.
                if fileno(&listener.sock)? != fd {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // The client was gone before we looked; the next one may not be.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if is_exhausted(&error) => return back_off(this, listener, &error),
            Err(error) => return Err(errors::os_error(py, &error)),
        }
    }
    Ok(())
}

/// A socket with ideas of its own: asyncio's code calls its methods.
fn accept_by_asyncio(this: &Bound<'_, EventLoop>, listener: &Listener<'_>) -> PyResult<()> {
    let base = this.py().import("asyncio.selector_events")?.getattr("BaseSelectorEventLoop")?;
    let [handshake, shutdown] = &listener.timeouts;
    let Listener { protocol_factory, sock, sslcontext, server, backlog, context, .. } = listener;
    let arguments = (this, protocol_factory, sock, sslcontext, server, *backlog, handshake, shutdown);
    base.getattr("_accept_connection")?.invoke_with(arguments, &keyword(this.py(), context.as_ref())?).map(drop)
}

/// `context=context`, for methods that take it where there is one.
fn keyword<'py>(py: Python<'py>, context: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyDict>> {
    let keywords = PyDict::new(py);
    context.map_or(Ok(()), |context| keywords.set_item(intern!(py, "context"), context))?;
    Ok(keywords)
}

/// The process or the system has no room for another connection, and the kernel would report the waiting ones forever.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Reports the shortage and tries again in a while, as asyncio does.
fn back_off(this: &Bound<'_, EventLoop>, listener: &Listener<'_>, error: &io::Error) -> PyResult<()> {
    let py = this.py();
    let report = PyDict::new(py);
    report.set_item("message", "socket.accept() out of system resource")?;
    let error = errors::os_error(py, error);
    report.set_item("exception", error.value(py))?;
    report.set_item("socket", py.import("asyncio.trsock")?.invoke_method("TransportSocket", (&listener.sock,))?)?;
    errors::tell_handler(this, report, &error)?;
    this.invoke_method("_remove_reader", (fileno(&listener.sock)?,))?;
    let delay = py.import("asyncio.constants")?.getattr("ACCEPT_RETRY_DELAY")?;
    let [handshake, shutdown] = &listener.timeouts;
    let mut retry = (
        delay,
        this.getattr("_start_serving")?,
        &listener.protocol_factory,
        &listener.sock,
        &listener.sslcontext,
        &listener.server,
        listener.backlog,
        handshake,
        shutdown,
    )
        .into_pyobject(py)?
        .into_any();
    if let Some(context) = &listener.context {
        retry = retry.add((context,))?;
    }
    this.getattr("call_later")?.invoke_with(retry.cast_into::<PyTuple>()?, &PyDict::new(py)).map(drop)
}

/// Makes a transport of one connection, in a context of its own.
fn accepted<'py>(
    this: &Bound<'py, EventLoop>,
    listener: &Listener<'py>,
    conn: Bound<'py, PyAny>,
    peer: SockAddr,
) -> PyResult<()> {
    let py = this.py();
    if this.get().is_debug() {
        let text = "%r got a new connection from %r: %r";
        log(py, "debug", (text, &listener.server, address::to_python(py, &peer)?, &conn))?;
    }
    if listener.sslcontext.is_some() {
        let extra = PyDict::new(py);
        extra.set_item(intern!(py, "peername"), address::to_python(py, &peer)?)?;
        return accept_tls(this, listener, conn, extra);
    }
    let mut protocol = None;
    let own = own_context(listener)?;
    let made = context::run(&own.clone().map_or_else(|| context::copy(py), Ok)?, || {
        let made = listener.protocol_factory.invoke(())?;
        protocol = Some(made.clone());
        let (sock, server) = (conn.clone(), listener.server.clone());
        let (waiter, extra, peer) = (None, None, Some(peer));
        stream::create(this, stream::Parts { sock, protocol: made, waiter, extra, peer, server, context: own })
    });
    match made {
        Ok(_) => Ok(()),
        Err(error) => refuse(this, &conn, protocol, error),
    }
}

/// A connection's copy of the server's context.
fn own_context<'py>(listener: &Listener<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let copy = |context: &Bound<'py, PyAny>| context.invoke_method(intern!(context.py(), "copy"), ());
    listener.context.as_ref().map(copy).transpose()
}

/// A TLS connection exists only after its handshake: asyncio's own coroutine waits for it.
fn accept_tls<'py>(
    this: &Bound<'py, EventLoop>,
    listener: &Listener<'py>,
    conn: Bound<'py, PyAny>,
    extra: Bound<'py, PyDict>,
) -> PyResult<()> {
    let [handshake, shutdown] = &listener.timeouts;
    let arguments =
        (&listener.protocol_factory, conn, extra, &listener.sslcontext, &listener.server, handshake, shutdown);
    let py = this.py();
    let keyword = keyword(py, own_context(listener)?.as_ref())?;
    let accepting = this.getattr(intern!(py, "_accept_connection2"))?.invoke_with(arguments, &keyword)?;
    this.getattr(intern!(py, "create_task"))?.invoke_with((accepting,), &keyword).map(drop)
}

/// The protocol could not be made. The server goes on; asyncio tells of it in debug mode only.
#[cold]
fn refuse(
    this: &Bound<'_, EventLoop>,
    conn: &Bound<'_, PyAny>,
    protocol: Option<Bound<'_, PyAny>>,
    error: PyErr,
) -> PyResult<()> {
    let py = this.py();
    conn.invoke_method("close", ())?;
    if call::escapes(py, &error) {
        return Err(error);
    }
    if this.get().is_debug() {
        let report = PyDict::new(py);
        report.set_item("message", "Error on transport creation for incoming connection")?;
        report.set_item("exception", error.value(py))?;
        if let Some(protocol) = protocol {
            report.set_item("protocol", protocol)?;
        }
        errors::tell_handler(this, report, &error)?;
    }
    Ok(())
}
