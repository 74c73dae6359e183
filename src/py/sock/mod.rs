//! `sock_recv` and its family, for plain sockets: each is tried at once, and only what would block waits.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | which sockets, and waiting |
//! | `recv.rs` | receiving |
//! | `send.rs` | sending |
//! | `file.rs` | sending files |
//! | `connect.rs` | connecting and accepting |
//!
//! The coroutines are Python's (`python/zloop/_sock.py`): they call one of the methods here, which does what can be done
//! without waiting, and wait for a future in between. So what a socket received is in nobody's hands but the
//! coroutine's, and a cancelled one has taken nothing. A method that answers None leaves the call to asyncio's code:
//! the socket is of a class of its own or may block, or an argument is out of the ordinary, and then asyncio's answers
//! and errors are the right ones.
#![forbid(unsafe_code)]

mod connect;
mod file;
mod recv;
mod send;

use std::io;
use std::os::fd::RawFd;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyType};
use zloop_backends::Interest;

use super::event_loop::EventLoop;
use super::native::{Args, Method, method};
use super::socket::socket_class;
use super::transport::fileno;
use super::{errors, watch};
use crate::py::invoke::Invoke;

static METHODS: [Method; 12] = [
    method!(c"_try_recv", recv::recv, c"Bytes from a socket, a future if there are none, or None."),
    method!(c"_try_recv_into", recv::recv_into, c"The same into a buffer."),
    method!(c"_try_recvfrom", recv::recvfrom, c"The same with the sender's address."),
    method!(c"_try_recvfrom_into", recv::recvfrom_into, c"The same into a buffer with the sender's address."),
    method!(c"_try_send", send::send, c"True if all data has left, else how many bytes, or None."),
    method!(c"_try_sendto", send::sendto, c"Send a datagram: its size, a future if there is no room, or None."),
    method!(c"_try_sendfile", file::send, c"Send a part of a file; how much, and a future if the socket is full."),
    method!(c"_try_connect", connect::connect, c"Begin to connect: True when done, a future while under way, or None."),
    method!(c"_end_connect", connect::finish, c"What became of a connection that was under way."),
    method!(c"_try_accept", connect::accept, c"A connection and its address, a future if there is none, or None."),
    method!(c"_wait_writable", wait_writable, c"A future that is done when the socket takes data."),
    method!(c"_stop_waiting", stop_waiting, c"Give up a future of one of these methods."),
];

/// Adds the methods to the finished class of loops.
pub fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    METHODS.iter().try_for_each(|method| method.install(class))
}

pub use file::Part;

type Answer<'py> = PyResult<Bound<'py, PyAny>>;

/// What one attempt came to.
enum Tried<'py> {
    Done(Bound<'py, PyAny>),
    /// It would block: wait for the socket to be ready in this direction.
    Wait(Interest),
    /// For asyncio's code.
    Unknown,
}

impl Tried<'_> {
    /// What a system call's error means.
    fn of_error(py: Python<'_>, error: &io::Error, direction: Interest) -> PyResult<Self> {
        if error.kind() == io::ErrorKind::WouldBlock {
            Ok(Self::Wait(direction))
        } else {
            Err(errors::os_error(py, error))
        }
    }
}

/// Tries `attempt` on a loop and a socket's fd, if the socket is one that is known here.
fn try_on<'py>(
    slf: &Bound<'py, PyAny>,
    sock: Option<Borrowed<'_, 'py, PyAny>>,
    attempt: impl FnOnce(&Bound<'py, EventLoop>, RawFd) -> PyResult<Tried<'py>>,
) -> Answer<'py> {
    let py = slf.py();
    let unknown = || Ok(py.None().into_bound(py));
    let this = slf.cast::<EventLoop>()?;
    let Some(sock) = sock else { return unknown() };
    let Some(fd) = plain_fd(&sock)? else { return unknown() };
    if this.get().is_debug() && !never_blocks(&sock)? {
        return unknown();
    }
    match attempt(this, fd)? {
        Tried::Done(answer) => Ok(answer),
        // What is done at once does not depend on how long the socket may take.
        Tried::Wait(direction) if never_blocks(&sock)? => watch::wait(this, fd, direction),
        Tried::Wait(_) | Tried::Unknown => unknown(),
    }
}

/// The fd of an open socket that has no methods of its own.
fn plain_fd(sock: &Bound<'_, PyAny>) -> PyResult<Option<RawFd>> {
    let py = sock.py();
    if !sock.get_type().is(socket_class(py)?) {
        return Ok(None);
    }
    let fd: RawFd = fileno(sock)?;
    Ok((fd >= 0).then_some(fd))
}

/// The fd of the socket that a method was called with; without one, a number that no file has.
fn given_fd(args: Args<'_, '_>) -> PyResult<RawFd> {
    args.get(0).map_or(Ok(-1), |sock| fileno(&sock))
}

/// Whether a socket is in non-blocking mode: one with a timeout is not, whatever the kernel thinks.
fn never_blocks(sock: &Bound<'_, PyAny>) -> PyResult<bool> {
    let timeout = sock.invoke_method(intern!(sock.py(), "gettimeout"), ())?;
    Ok(timeout.cast_exact::<PyFloat>().is_ok_and(|seconds| seconds.value() == 0.0))
}

fn wait_writable<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let this = slf.cast::<EventLoop>()?;
    watch::wait(this, given_fd(args)?, Interest::WRITE)
}

fn stop_waiting<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let py = slf.py();
    if let (Some(sock), Some(future)) = (args.get(0), args.get(1)) {
        let fd: RawFd = fileno(&sock)?;
        watch::give_up(slf.cast::<EventLoop>()?, &future, fd)?;
    }
    Ok(py.None().into_bound(py))
}
