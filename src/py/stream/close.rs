//! Closing: on request, by the peer, or by an error. `connection_lost` is always scheduled, never called from `close()`.
#![forbid(unsafe_code)]

use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::super::call;
use super::super::event_loop::EventLoop;
use super::super::transport::explain;
use super::file::lost_error;
use super::{Conn, detach, tell_server, write};
use crate::py::invoke::Invoke;

/// `transport.close()`: no more is read, what was written still leaves.
pub fn close(conn: Conn<'_, '_>) -> PyResult<()> {
    if !conn.state(|state| state.closing) {
        EventLoop::check_thread(conn.event_loop)?;
    }
    if conn.state(|state| std::mem::replace(&mut state.closing, true)) {
        return Ok(());
    }
    write::settle(conn)?;
    let idle = conn.state(|state| {
        let idle = state.is_idle() && state.conn_lost == 0;
        state.conn_lost += u32::from(idle);
        idle
    });
    if idle { schedule_lost(conn, conn.py().None().bind(conn.py())) } else { Ok(()) }
}

/// Ends the connection at once, because of `error` or because of `abort()`.
pub fn force(conn: Conn<'_, '_>, error: &Bound<'_, PyAny>) -> PyResult<()> {
    if conn.state(|state| state.conn_lost == 0) {
        EventLoop::check_thread(conn.event_loop)?;
    }
    let garbage = conn.state(|state| {
        if state.conn_lost > 0 {
            return None;
        }
        state.closing = true;
        state.conn_lost = 1;
        state.blocked = false;
        // The head of the queue belongs to the kernel while it is in flight; it goes when the transport is detached.
        Some(if state.in_flight { Default::default() } else { state.queue.take_all() })
    });
    match garbage {
        Some(_) => schedule_lost(conn, error),
        None => Ok(()),
    }
}

/// A call of the protocol or of the kernel failed: reports what is not an ordinary network error, and closes.
#[cold]
pub fn failed(conn: Conn<'_, '_>, error: PyErr, message: &str) -> PyResult<()> {
    let py = conn.py();
    if call::escapes(py, &error) {
        return Err(error);
    }
    // What the protocol wrote before has been sent by now on asyncio.
    write::settle(conn)?;
    let quiet = error.is_instance_of::<PyOSError>(py);
    explain(conn.event_loop, (conn.transport, conn.protocol()), (&error, message), quiet)?;
    force(conn, error.value(py).as_any())
}

fn schedule_lost(conn: Conn<'_, '_>, error: &Bound<'_, PyAny>) -> PyResult<()> {
    let method = conn.transport.getattr(intern!(conn.py(), "_call_connection_lost"))?;
    conn.call_soon(method, PyTuple::new(conn.py(), [error])?)
}

/// Tells the protocol, then closes the socket and lets go of everything, whatever the protocol did.
pub fn lost(conn: Conn<'_, '_>, error: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = conn.py();
    let told = match conn.protocol() {
        Some(protocol) => protocol.invoke_method(intern!(py, "connection_lost"), (error,)).map(drop),
        None => Ok(()),
    };
    let closed = release(conn);
    let waiter = conn.state(|state| {
        state.conn_lost += u32::from(state.conn_lost == 0);
        state.empty_waiter.as_ref().map(|waiter| waiter.clone_ref(py))
    });
    if let Some(waiter) = waiter {
        fail(waiter.bind(py), lost_error())?;
    }
    told.and(closed)
}

/// Fails a future, unless it is done already.
pub fn fail(waiter: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
    let py = waiter.py();
    if waiter.invoke_method(intern!(py, "done"), ())?.is_truthy()? {
        return Ok(());
    }
    waiter.invoke_method(intern!(py, "set_exception"), (error,)).map(drop)
}

/// Closes the socket, once, and leaves the loop and the server.
pub fn release(conn: Conn<'_, '_>) -> PyResult<()> {
    let py = conn.py();
    detach(conn);
    let (sock, kept, server, _garbage) = conn.state(|state| {
        let garbage = (state.protocol.take(), state.queue.take_all());
        (state.sock.take(), state.keeps_open, state.server.take(), garbage)
    });
    let closed = sock.map_or(Ok(()), |sock| {
        let sock = sock.bind(py);
        if kept {
            sock.invoke_method(intern!(py, "_decref_socketios"), ())?;
        }
        sock.invoke_method(intern!(py, "close"), ()).map(drop)
    });
    if let Some(server) = server {
        tell_server(conn, server.bind(py), intern!(py, "_detach"))?;
    }
    closed
}

/// Releases a transport that nobody refers to any more. Any thread may collect it, and the backend belongs to the one that
/// runs the loop, which may be asleep in it: then the transport lives until that thread has released it.
pub fn collected(conn: Conn<'_, '_>) -> PyResult<()> {
    let core = conn.event_loop.get();
    if !core.runs() || core.runs_here() {
        return release(conn);
    }
    let _protocol = conn.state(|state| state.protocol.take());
    let method = conn.transport.getattr(intern!(conn.py(), "_call_connection_lost"))?;
    let call = intern!(conn.py(), "call_soon_threadsafe");
    // If the loop was closed in the meantime, there is nothing left that belongs to it.
    conn.event_loop.invoke_method(call, (method, conn.py().None())).map(drop).or_else(|_| release(conn))
}

/// Ends the sending direction of the socket.
pub fn shutdown(conn: Conn<'_, '_>) -> PyResult<()> {
    let py = conn.py();
    if conn.state(|state| std::mem::replace(&mut state.shut, true)) {
        return Ok(());
    }
    let how = py.import("socket")?.getattr(intern!(py, "SHUT_WR"))?;
    match conn.state(|state| state.sock.as_ref().map(|sock| sock.clone_ref(py))) {
        Some(sock) => sock.bind(py).invoke_method(intern!(py, "shutdown"), (how,)).map(drop),
        None => Ok(()),
    }
}
