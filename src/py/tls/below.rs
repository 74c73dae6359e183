//! The transport below a session: one of ours as a rule, but `start_tls` takes any.
#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyString;

use super::super::stream;
use super::{Session, transport};
use crate::py::invoke::Invoke;

/// Hands it records. Ours takes them without a call.
pub fn write(session: Session<'_, '_>, data: PyBackedBytes) -> PyResult<()> {
    let py = session.py();
    let Some(below) = session.object(|state| state.below.as_ref()) else { return Ok(()) };
    if stream::is_native(&below)? {
        return stream::write_records(&below, data);
    }
    below.invoke_method(intern!(py, "write"), (data,)).map(drop)
}

/// Whether who has it finds the session: it is one of ours, a stream's or a session's, and talks to this one.
pub fn leads_to(session: Session<'_, '_>) -> PyResult<bool> {
    let Some(below) = session.object(|state| state.below.as_ref()) else { return Ok(false) };
    if !stream::is_native(&below)? && !transport::is_native(&below)? {
        return Ok(false);
    }
    Ok(below.invoke_method(intern!(session.py(), "get_protocol"), ())?.is(session.0))
}

/// Has it send what it can before something ends it.
pub fn settle(session: Session<'_, '_>) -> PyResult<()> {
    match session.object(|state| state.below.as_ref()) {
        Some(below) if stream::is_native(&below)? => stream::settle(&below),
        _ => Ok(()),
    }
}

/// Calls one of its methods that take nothing, unless the connection is gone.
pub fn tell<'py>(session: Session<'_, 'py>, method: &Bound<'py, PyString>) -> PyResult<()> {
    match session.object(|state| state.below.as_ref()) {
        Some(below) => below.invoke_method(method, ()).map(drop),
        None => Ok(()),
    }
}

/// Ends it at once.
pub fn force_close<'py>(session: Session<'_, 'py>, error: &Bound<'py, PyAny>) -> PyResult<()> {
    match session.object(|state| state.below.as_ref()) {
        Some(below) => below.invoke_method(intern!(session.py(), "_force_close"), (error,)).map(drop),
        None => Ok(()),
    }
}
