//! Python's own sockets: which objects they are, what they are, and making one for an accepted connection.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::address;
use super::invoke::Invoke;

/// Python's own class of sockets.
pub fn socket_class(py: Python<'_>) -> PyResult<&'static Py<PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CLASS.get_or_try_init(py, || py.import("socket")?.getattr("socket").map(Bound::unbind))
}

/// Whether this is exactly one of those, of a family whose addresses are known here.
pub fn is_plain(sock: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(sock.get_type().is(socket_class(sock.py())?) && address::is_known(family_of(sock)?))
}

/// The address family of one of those, as a number: `socket.family` makes an enumeration's member of it each time.
pub fn family_of(sock: &Bound<'_, PyAny>) -> PyResult<i32> {
    static GETTER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    number(sock, "family", &GETTER)
}

/// Its type, as a number, for the same reason.
fn kind_of(sock: &Bound<'_, PyAny>) -> PyResult<i32> {
    static GETTER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    number(sock, "type", &GETTER)
}

/// Asks the class below Python's, written in C.
fn number(sock: &Bound<'_, PyAny>, name: &str, getter: &'static PyOnceLock<Py<PyAny>>) -> PyResult<i32> {
    let py = sock.py();
    let getter = getter.get_or_try_init(py, || {
        py.import("_socket")?.getattr("socket")?.getattr(name)?.getattr("__get__").map(Bound::unbind)
    })?;
    getter.bind(py).invoke((sock,))?.extract()
}

/// The socket of a connection that `listener` accepted; it owns the fd from here on.
pub fn accepted<'py>(listener: &Bound<'py, PyAny>, fd: RawFd) -> PyResult<Bound<'py, PyAny>> {
    let py = listener.py();
    let proto = listener.getattr(intern!(py, "proto"))?;
    let kind = kind_of(listener)? | NON_BLOCKING;
    let made = socket_class(py)?.bind(py).invoke((family_of(listener)?, kind, proto, fd));
    if made.is_err() {
        // Nobody owns the fd yet.
        py.import("os")?.invoke_method("close", (fd,))?;
    }
    let made = made?;
    if NON_BLOCKING == 0 {
        made.invoke_method(intern!(py, "setblocking"), (false,))?;
    }
    Ok(made)
}

/// Tells Python's socket what the fd is already, so that it makes no system call for it. Not every system has the flag.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
const NON_BLOCKING: i32 = libc::SOCK_NONBLOCK;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
const NON_BLOCKING: i32 = 0;
