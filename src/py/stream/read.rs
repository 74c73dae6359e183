//! Receiving: from the socket to the protocol, one read per turn and connection so that all get theirs.
#![forbid(unsafe_code)]

use pyo3::exceptions::{PyBufferError, PyRuntimeError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use zloop_backends::{Backend, Interest};

use super::super::receive::{Read, failure, receive};
use super::super::tls::TlsProtocol;
use super::super::transport::log;
use super::super::{call, errors};
use super::{Conn, Kind, Stream, close, feed, hold, look_again};
use crate::py::invoke::Invoke;

/// Reads once and hands it to the protocol.
pub fn once(conn: Conn<'_, '_>) -> PyResult<()> {
    match conn.state(|state| state.kind) {
        Kind::Bytes => as_bytes(conn),
        Kind::Reader => feed::once(conn),
        Kind::Buffered => into_protocol(conn),
        Kind::Tls => records(conn),
    }
}

/// What is reported when a protocol fails to take data.
pub const CALL_FAILED: &str = "Fatal error: protocol.data_received() call failed.";

/// Reads once for a protocol that gets `bytes`.
pub fn as_bytes(conn: Conn<'_, '_>) -> PyResult<()> {
    let Some(data) = received(conn)? else { return Ok(()) };
    let Some(protocol) = conn.protocol() else { return Ok(()) };
    match protocol.invoke_method(intern!(conn.py(), "data_received"), (data,)) {
        Ok(_) => Ok(()),
        Err(error) => close::failed(conn, error, CALL_FAILED),
    }
}

/// Receives records for a session of ours.
fn records(conn: Conn<'_, '_>) -> PyResult<()> {
    let Some(data) = received(conn)? else { return Ok(()) };
    let Some(protocol) = conn.protocol() else { return Ok(()) };
    let Err(error) = TlsProtocol::data_received(protocol.cast()?, data.as_any()) else { return Ok(()) };
    // asyncio's session is a buffered protocol.
    close::failed(conn, error, "Fatal error: protocol.buffer_updated() call failed.")
}

/// Receives, and sees to what follows from that before the protocol runs. None if there was nothing for the protocol.
fn received<'py>(conn: Conn<'_, 'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let size = conn.state(|state| state.read_size);
    match receive(conn.event_loop, conn.stream.get().fd, size, conn.stream.get().origin)? {
        Read::Some(data, count, more) => {
            follow_up(conn, count, more)?;
            Ok(Some(data))
        }
        other => no_data(conn, other).map(|()| None),
    }
}

/// Receives into the protocol's own buffer.
fn into_protocol(conn: Conn<'_, '_>) -> PyResult<()> {
    let py = conn.py();
    let Some(protocol) = conn.protocol() else { return Ok(()) };
    let buffer = match lent_buffer(&protocol) {
        Ok(buffer) => buffer,
        Err(error) => return close::failed(conn, error, "Fatal error: protocol.get_buffer() call failed."),
    };
    let count = match receive_into(conn, &buffer) {
        Ok(Read::Some((), count, more)) => {
            follow_up(conn, count, more)?;
            count
        }
        Ok(other) => return no_data(conn, other),
        Err(error) => return close::failed(conn, error, "Fatal read error on socket transport"),
    };
    match protocol.invoke_method(intern!(py, "buffer_updated"), (count,)) {
        Ok(_) => Ok(()),
        Err(error) => close::failed(conn, error, "Fatal error: protocol.buffer_updated() call failed."),
    }
}

fn lent_buffer<'py>(protocol: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let buffer = protocol.invoke_method(intern!(protocol.py(), "get_buffer"), (-1,))?;
    if buffer.len()? == 0 {
        return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
    }
    Ok(buffer)
}

fn receive_into(conn: Conn<'_, '_>, buffer: &Bound<'_, PyAny>) -> PyResult<Read<()>> {
    let py = conn.py();
    let mut lent = call::WritableBuffer::of(buffer).map_err(|error| {
        if !error.is_instance_of::<PyBufferError>(py) && !error.is_instance_of::<PyTypeError>(py) {
            return error;
        }
        let name = buffer.get_type().name().map_or_else(|_| String::from("object"), |name| name.to_string());
        PyTypeError::new_err(format!("recv_into() argument 1 must be read-write bytes-like object, not {name}"))
    })?;
    let Stream { fd, origin, .. } = conn.stream.get();
    Ok(match origin.read(*fd, lent.as_mut()) {
        Ok((0, _)) => Read::End,
        Ok((count, more)) => Read::Some((), count, more),
        Err(error) => failure(error),
    })
}

/// Before the protocol runs, which may do anything: decides when to read again. A read that did not fill its buffer has
/// emptied the socket, and a new report follows when there is more, except after the peer has hung up or something in the
/// stream has ended the read.
pub fn follow_up(conn: Conn<'_, '_>, count: usize, more: bool) -> PyResult<()> {
    let more = conn.state(|state| {
        state.read_size.learn(count);
        more || state.hung_up
    });
    if more {
        look_again(conn);
        return Ok(());
    }
    ran_dry(conn)
}

fn ran_dry(conn: Conn<'_, '_>) -> PyResult<()> {
    let py = conn.py();
    let Some(token) = conn.state(|state| {
        state.readable = false;
        state.token
    }) else {
        return Ok(());
    };
    let rearmed = conn
        .event_loop
        .get()
        .state
        .with(py, |state| state.backend().and_then(|backend| backend.rearm(token, Interest::READ)));
    rearmed.map_err(|error| errors::os_error(py, &error))
}

/// Sees to what follows from having received nothing.
pub fn no_data<T>(conn: Conn<'_, '_>, read: Read<T>) -> PyResult<()> {
    match read {
        Read::Some(..) | Read::Nothing => ran_dry(conn),
        Read::End => end(conn),
        Read::Failed(error) => {
            let error = errors::os_error(conn.py(), &error);
            close::failed(conn, error, "Fatal read error on socket transport")
        }
    }
}

/// The peer will send no more. The protocol decides whether the other direction stays open.
fn end(conn: Conn<'_, '_>) -> PyResult<()> {
    let py = conn.py();
    conn.state(|state| state.ended = true);
    if conn.event_loop.get().is_debug() {
        log(py, "debug", ("%r received EOF", conn.transport))?;
    }
    let Some(protocol) = conn.protocol() else { return Ok(()) };
    let keep_open = protocol.invoke_method(intern!(py, "eof_received"), ()).and_then(|keep| keep.is_truthy());
    let done = match keep_open {
        Ok(true) => Ok(()),
        Ok(false) => close::close(conn),
        Err(error) => close::failed(conn, error, "Fatal error: protocol.eof_received() call failed."),
    };
    hold(conn);
    done
}
