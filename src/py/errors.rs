//! Kernel errors as the exceptions that Python would raise.
#![forbid(unsafe_code)]

use std::io;

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyErr, intern};

use super::call;
use super::event_loop::EventLoop;
use super::invoke::Invoke;
use super::state::Elsewhere;

/// The `OSError` subclass for this error, with `errno` and `strerror` set as the interpreter sets them.
pub fn os_error(py: Python<'_>, error: &io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(errno) => errno_error(py, errno),
        None if Elsewhere::is(error) => PyRuntimeError::new_err(error.to_string()),
        None => PyOSError::new_err(error.to_string()),
    }
}

/// The `OSError` subclass for an errno. `OSError` itself picks the subclass.
pub fn errno_error(py: Python<'_>, errno: i32) -> PyErr {
    let text = py.import("os").and_then(|os| os.invoke_method("strerror", (errno,)));
    match text {
        Ok(text) => PyOSError::new_err((errno, text.unbind())),
        Err(error) => error,
    }
}

/// Tells the loop's exception handler of this exception, from where it is being handled, as asyncio does.
pub fn tell_handler(event_loop: &Bound<'_, EventLoop>, report: Bound<'_, PyDict>, error: &PyErr) -> PyResult<()> {
    let py = event_loop.py();
    let tell = || event_loop.invoke_method(intern!(py, "call_exception_handler"), (report,));
    call::handling(py, error, tell).map(drop)
}

/// What asyncio says when a loop is used after `close()`.
pub fn loop_closed() -> PyErr {
    PyRuntimeError::new_err("Event loop is closed")
}
