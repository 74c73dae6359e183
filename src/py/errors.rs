//! Kernel errors as the exceptions that Python would raise.
#![forbid(unsafe_code)]

use std::io;

use super::invoke::Invoke;
use pyo3::PyErr;
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;

/// The `OSError` subclass for this error, with `errno` and `strerror` set as the interpreter sets them.
pub fn os_error(py: Python<'_>, error: &io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(errno) => errno_error(py, errno),
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

/// What asyncio says when a loop is used after `close()`.
pub fn loop_closed() -> PyErr {
    PyRuntimeError::new_err("Event loop is closed")
}
