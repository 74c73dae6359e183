//! Sending a file: the transport stays idle and keeps its place in the backend, and `sendfile(2)` is tried whenever the
//! socket takes data.
#![forbid(unsafe_code)]

use pyo3::exceptions::{PyConnectionError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use zloop_backends::{Backend, Interest};

use super::super::errors;
use super::super::native::Args;
use super::super::sock::Part;
use super::super::transport::{Answer, none};
use super::{Conn, attach, hold, with_conn, write};
use crate::py::invoke::Invoke;

/// What whoever waits hears when the connection is lost.
pub fn lost_error() -> PyErr {
    PyConnectionError::new_err("Connection is closed by peer")
}

/// `_make_empty_waiter()`: from here until `_reset_empty_waiter()` nothing else may be written.
pub fn make_empty_waiter<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_conn(slf, |conn| {
        let py = conn.py();
        if conn.state(|state| state.empty_waiter.is_some()) {
            return Err(PyRuntimeError::new_err("Empty waiter is already set"));
        }
        write::settle(conn)?;
        let waiter = new_waiter(conn)?;
        if conn.state(|state| state.is_idle()) {
            waiter.invoke_method(intern!(py, "set_result"), (py.None(),))?;
        }
        Ok(waiter)
    })
}

/// `_reset_empty_waiter()`.
pub fn reset_empty_waiter<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_conn(slf, |conn| {
        let _old = conn.state(|state| {
            state.blocked &= !state.is_idle();
            state.empty_waiter.take()
        });
        hold(conn);
        Ok(none(conn.py()))
    })
}

/// `_send_part(fd, offset, limit)`: how many bytes of a file have left, and a future that is done when more can.
pub fn send_part<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    with_conn(slf, |conn| {
        let py = conn.py();
        if conn.state(|state| state.conn_lost > 0 || state.sock.is_none()) {
            return Err(lost_error());
        }
        let part = Part::of(args, 0)?.send(py, conn.stream.get().fd)?;
        // A peer on this loop is to see it before what comes later.
        conn.event_loop.get().state.with(py, |state| state.slice.end());
        let waiter = if part.blocked { Some(wait_for_room(conn)?) } else { None };
        Ok((part.sent, waiter).into_pyobject(py)?.into_any())
    })
}

fn wait_for_room<'py>(conn: Conn<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let py = conn.py();
    let rearm = || {
        attach(conn)?;
        let Some(token) = conn.state(|state| state.token) else { return Ok(()) };
        conn.event_loop.get().state.with(py, |state| state.backend()?.rearm(token, Interest::WRITE))
    };
    rearm().map_err(|error| errors::os_error(py, &error))?;
    let waiter = new_waiter(conn)?;
    conn.state(|state| state.blocked = true);
    hold(conn);
    Ok(waiter)
}

/// A future for the next time that the transport has news.
fn new_waiter<'py>(conn: Conn<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let waiter = conn.event_loop.invoke_method(intern!(conn.py(), "create_future"), ())?;
    let kept = waiter.clone().unbind();
    let _old = conn.state(|state| state.empty_waiter.replace(kept));
    Ok(waiter)
}
