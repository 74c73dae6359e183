//! Receiving from plain sockets.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt};
use zloop_backends::{Interest, SockAddr, attempt};

use super::super::event_loop::EventLoop;
use super::super::native::Args;
use super::super::socket::family_of;
use super::super::{address, call};
use super::{Answer, Tried, try_on};
use crate::io::ReadSize;

/// `sock_recv(sock, n)`.
pub fn recv<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    try_on(slf, args.get(0), |this, fd| {
        let Some(size) = size_of(args.get(1)) else { return Ok(Tried::Unknown) };
        match receive(this, fd, size)? {
            Ok(data) => Ok(Tried::Done(data.into_any())),
            Err(error) => Tried::of_error(this.py(), &error, Interest::READ),
        }
    })
}

/// Small messages come by way of the loop's scratch buffer, large ones straight into their place.
fn receive<'py>(this: &Bound<'py, EventLoop>, fd: RawFd, size: usize) -> PyResult<io::Result<Bound<'py, PyBytes>>> {
    let (py, core) = (this.py(), this.get());
    let direct = core.state.with(py, |state| state.sock_read.direct().is_some()) || size > ReadSize::LARGEST;
    let received = if direct {
        call::bytes_filled_by(py, size, |room| attempt::recv(fd, room))?
    } else {
        core.state.with(py, |state| {
            attempt::recv_at_most(fd, state.scratch(), size).map(|()| PyBytes::new(py, state.scratch()))
        })
    };
    if let Ok(data) = &received {
        core.state.with(py, |state| state.sock_read.learn(data.as_bytes().len()));
    }
    Ok(received)
}

/// `sock_recv_into(sock, buf)`.
pub fn recv_into<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    try_on(slf, args.get(0), |this, fd| {
        let Some(mut lent) = lent(args.get(1)) else { return Ok(Tried::Unknown) };
        match attempt::recv(fd, lent.as_mut()) {
            Ok(count) => Ok(Tried::Done(count.into_pyobject(this.py())?.into_any())),
            Err(error) => Tried::of_error(this.py(), &error, Interest::READ),
        }
    })
}

/// `sock_recvfrom(sock, bufsize)`.
pub fn recvfrom<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    try_on(slf, args.get(0), |this, fd| {
        let py = this.py();
        let size = size_of(args.get(1)).filter(|size| *size <= ReadSize::LARGEST);
        let (Some(size), true) = (size, has_known_addresses(args)?) else { return Ok(Tried::Unknown) };
        let received = this.get().state.with(py, |state| {
            let scratch = state.scratch();
            attempt::recv_from(fd, scratch, size).map(|sender| (PyBytes::new(py, scratch), sender))
        });
        answer_with_sender(py, received)
    })
}

/// `sock_recvfrom_into(sock, buf, nbytes)`.
pub fn recvfrom_into<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    try_on(slf, args.get(0), |this, fd| {
        let py = this.py();
        let (Some(buffer), Some(mut lent)) = (args.get(1), lent(args.get(1))) else { return Ok(Tried::Unknown) };
        // As on asyncio, 0 stands for as many bytes as the buffer has items.
        let size = match args.get(2) {
            Some(size) if size.is_truthy()? => size_of(Some(size)),
            _ => Some(buffer.len()?),
        };
        let room = size.and_then(|size| lent.as_mut().get_mut(..size));
        let (Some(room), true) = (room, has_known_addresses(args)?) else { return Ok(Tried::Unknown) };
        answer_with_sender(py, attempt::recv_into_from(fd, room))
    })
}

fn answer_with_sender<'py, T: IntoPyObject<'py>>(
    py: Python<'py>,
    received: io::Result<(T, SockAddr)>,
) -> PyResult<Tried<'py>> {
    match received {
        Ok((received, sender)) => {
            let answer = (received, address::to_python(py, &sender)?);
            Ok(Tried::Done(answer.into_pyobject(py)?.into_any()))
        }
        Err(error) => Tried::of_error(py, &error, Interest::READ),
    }
}

fn has_known_addresses(args: Args<'_, '_>) -> PyResult<bool> {
    Ok(address::is_known(args.get(0).map_or(Ok(-1), |sock| family_of(&sock))?))
}

/// The number of bytes asked for, if it is an ordinary one.
fn size_of(argument: Option<Borrowed<'_, '_, PyAny>>) -> Option<usize> {
    let size = argument?.cast_exact::<PyInt>().ok()?.extract::<isize>().ok()?;
    usize::try_from(size).ok().filter(|size| *size > 0)
}

/// The buffer to fill, if it is an ordinary one.
fn lent<'py>(argument: Option<Borrowed<'_, 'py, PyAny>>) -> Option<call::WritableBuffer<'py>> {
    call::WritableBuffer::of(&*argument?).ok().filter(|lent| !lent.is_empty())
}
