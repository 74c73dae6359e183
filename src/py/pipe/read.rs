//! Receiving: from the file to the protocol, one read per turn.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use zloop_backends::Interest;

use super::super::event_loop::EventLoop;
use super::super::native::{Method, method};
use super::super::receive::{Origin, Read, receive};
use super::super::transport::{Answer, flag, log, none};
use super::{End, act, close, with_end};
use crate::py::invoke::Invoke;

pub static METHODS: [Method; 6] = [
    method!(c"is_reading", fn() is_reading, c"Whether the transport is receiving."),
    method!(c"pause_reading", fn() pause_reading, c"Receive nothing until resume_reading()."),
    method!(c"resume_reading", fn() resume_reading, c"Receive again."),
    method!(c"close", fn() close_reader, c"Stop reading and close."),
    method!(c"_start_reading", fn() start_reading, c"connection_made() has been called."),
    method!(c"_read_ready", fn() read_ready, c"The file is readable."),
];

fn reads(end: End<'_, '_>) -> bool {
    end.state(|state| !state.paused && !state.closing)
}

fn is_reading<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_end(slf, |end| Ok(flag(end.py(), reads(end))))
}

fn start_reading<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |end| if reads(end) { end.watch(Interest::READ, "_read_ready") } else { Ok(()) })
}

fn pause_reading<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |end| {
        if !end.state(|state| !state.closing && !std::mem::replace(&mut state.paused, true)) {
            return Ok(());
        }
        end.unwatch(Interest::READ)?;
        if end.is_debug() { log(end.py(), "debug", ("%r pauses reading", end.transport)) } else { Ok(()) }
    })
}

fn resume_reading<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |end| {
        if !end.state(|state| !state.closing && std::mem::take(&mut state.paused)) {
            return Ok(());
        }
        end.watch(Interest::READ, "_read_ready")?;
        if end.is_debug() { log(end.py(), "debug", ("%r resumes reading", end.transport)) } else { Ok(()) }
    })
}

fn close_reader<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |end| {
        if end.state(|state| state.closing) {
            return Ok(());
        }
        close(end, &none(end.py()))
    })
}

/// Reads once and hands it to the protocol. As on asyncio, what the protocol raises is reported, and reading goes on.
fn read_ready<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |end| {
        if !reads(end) {
            return Ok(());
        }
        let size = end.state(|state| state.read_size);
        match receive(end.event_loop, end.fd(), size, Origin::File)? {
            Read::Some(data, count, _) => {
                end.state(|state| state.read_size.learn(count));
                let Some(protocol) = end.protocol() else { return Ok(()) };
                protocol.invoke_method(intern!(end.py(), "data_received"), (data,)).map(drop)
            }
            Read::Nothing => Ok(()),
            Read::End => ended(end),
            Read::Failed(error) => {
                // A terminal whose other side is gone.
                let quiet = error.raw_os_error() == Some(libc::EIO);
                end.fatal(&error, "Fatal read error on pipe transport", quiet)
            }
        }
    })
}

/// All writers are gone.
fn ended(end: End<'_, '_>) -> PyResult<()> {
    let py = end.py();
    if end.is_debug() {
        log(py, "info", ("%r was closed by peer", end.transport))?;
    }
    end.state(|state| state.closing = true);
    end.unwatch(Interest::READ)?;
    if let Some(protocol) = end.protocol() {
        let told = protocol.getattr(intern!(py, "eof_received"))?;
        EventLoop::call_soon(end.event_loop, told, PyTuple::empty(py), None)?;
    }
    close(end, &none(py))
}
