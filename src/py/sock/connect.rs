//! Connecting and accepting plain sockets.
#![forbid(unsafe_code)]

use std::os::fd::IntoRawFd;

use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyTuple};
use zloop_backends::{Interest, attempt};

use super::super::native::Args;
use super::super::socket::{self, family_of};
use super::super::{address, call, errors};
use super::{Answer, Tried, never_blocks, try_on};
use crate::py::invoke::Invoke;

/// `sock_connect(sock, address)`, to an Internet address that needs no resolver.
pub fn connect<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    try_on(slf, args.get(0), |this, fd| {
        let py = this.py();
        let (Some(sock), Some(to)) = (args.get(0), args.get(1)) else { return Ok(Tried::Unknown) };
        let family = family_of(&sock)?;
        if family == libc::AF_UNIX || !never_blocks(&sock)? {
            return Ok(Tried::Unknown);
        }
        let Some(address) = address::from_python(&to, family) else { return Ok(Tried::Unknown) };
        call::audit(c"socket.connect", &sock, &to)?;
        match attempt::connect(fd, &address) {
            Ok(true) => Ok(Tried::Done(PyBool::new(py, true).to_owned().into_any())),
            Ok(false) => Ok(Tried::Wait(Interest::WRITE)),
            Err(error) => Err(errors::os_error(py, &error)),
        }
    })
}

/// `_end_connect(sock, address)`: raises what a connection that was under way failed with.
pub fn finish<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let py = slf.py();
    if let (Some(sock), Some(to)) = (args.get(0), args.get(1)) {
        let socket = py.import("socket")?;
        let option = (socket.getattr(intern!(py, "SOL_SOCKET"))?, socket.getattr(intern!(py, "SO_ERROR"))?);
        let errno: i32 = sock.invoke_method(intern!(py, "getsockopt"), option)?.extract()?;
        if errno != 0 {
            let shown = shown(&to, family_of(&sock)?)?;
            return Err(PyOSError::new_err((errno, format!("Connect call failed {shown}"))));
        }
    }
    Ok(py.None().into_bound(py))
}

/// An address as asyncio's messages show it: complete, with the host as it was given.
fn shown<'py>(to: &Bound<'py, PyAny>, family: i32) -> Answer<'py> {
    let (Some(known), Ok(given)) = (address::from_python(to, family), to.cast::<PyTuple>()) else {
        return Ok(to.clone());
    };
    let py = to.py();
    let parts = address::to_python(py, &known)?.cast_into::<PyTuple>()?;
    Ok(PyTuple::new(py, given.iter().take(1).chain(parts.iter().skip(1)).collect::<Vec<_>>())?.into_any())
}

/// `sock_accept(sock)`.
pub fn accept<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    try_on(slf, args.get(0), |this, fd| {
        let py = this.py();
        let Some(sock) = args.get(0) else { return Ok(Tried::Unknown) };
        if !address::is_known(family_of(&sock)?) || !never_blocks(&sock)? {
            return Ok(Tried::Unknown);
        }
        // One that does not listen is awaited by nobody ever: it gets the kernel's error instead of waiting.
        if !attempt::is_awaited(fd).unwrap_or(true) && attempt::listens(fd) {
            return Ok(Tried::Wait(Interest::READ));
        }
        match attempt::accept(fd) {
            Ok((conn, peer)) => {
                let conn = socket::accepted(&sock, conn.into_raw_fd())?;
                let answer = (conn, address::to_python(py, &peer)?);
                Ok(Tried::Done(answer.into_pyobject(py)?.into_any()))
            }
            Err(error) => Tried::of_error(py, &error, Interest::READ),
        }
    })
}
