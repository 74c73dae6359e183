//! Sending on plain sockets.
#![forbid(unsafe_code)]

use std::io::IoSlice;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyInt, PyMemoryView};
use zloop_backends::{Interest, attempt};

use super::super::call::ReadableBuffer;
use super::super::native::Args;
use super::super::socket::family_of;
use super::super::{address, call};
use super::{Answer, Tried, never_blocks, try_on};

/// `_try_send(sock, data)`: one attempt to send it.
pub fn send<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    try_on(slf, args.get(0), |this, fd| {
        let py = this.py();
        let Some(data) = readable(args.get(1))? else { return Ok(Tried::Unknown) };
        let sent = match attempt::send(fd, &[IoSlice::new(data.as_slice())]) {
            Ok(sent) => sent,
            Err(error) => match Tried::of_error(py, &error, Interest::WRITE)? {
                // A future is asked for apart: the data must be held meanwhile.
                Tried::Wait(_) if args.get(0).map_or(Ok(false), |sock| never_blocks(&sock))? => 0,
                other => return Ok(other),
            },
        };
        let answer = if sent == data.as_slice().len() {
            PyBool::new(py, true).to_owned().into_any()
        } else {
            PyInt::new(py, sent).into_any()
        };
        Ok(Tried::Done(answer))
    })
}

/// `sock_sendto(sock, data, address)`.
pub fn sendto<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    try_on(slf, args.get(0), |this, fd| {
        let py = this.py();
        let (Some(sock), Some(to)) = (args.get(0), args.get(2)) else { return Ok(Tried::Unknown) };
        let Some(data) = readable(args.get(1))? else { return Ok(Tried::Unknown) };
        let Some(address) = address::from_python(&to, family_of(&sock)?) else { return Ok(Tried::Unknown) };
        call::audit(c"socket.sendto", &sock, &to)?;
        match attempt::send_to(fd, data.as_slice(), &address) {
            Ok(sent) => Ok(Tried::Done(PyInt::new(py, sent).into_any())),
            Err(error) => Tried::of_error(py, &error, Interest::WRITE),
        }
    })
}

/// The bytes of an ordinary buffer, whose `len()` counts bytes.
fn readable<'py>(data: Option<Borrowed<'_, 'py, PyAny>>) -> PyResult<Option<ReadableBuffer<'py>>> {
    let Some(data) = data else { return Ok(None) };
    let py = data.py();
    let ordinary = data.is_exact_instance_of::<PyBytes>()
        || data.is_exact_instance_of::<PyByteArray>()
        || (data.is_exact_instance_of::<PyMemoryView>()
            && data.getattr(intern!(py, "nbytes"))?.eq(data.len().unwrap_or(usize::MAX))?);
    Ok(if ordinary { ReadableBuffer::of(&data).ok() } else { None })
}
