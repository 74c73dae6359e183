//! From the kernel to `bytes`, with one policy for all transports: small messages by way of the loop's scratch buffer,
//! large ones straight into their place.
#![forbid(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};
use zloop_backends::attempt;

use super::call;
use super::event_loop::EventLoop;
use crate::io::ReadSize;

/// What one read brought.
pub enum Read<T> {
    /// Bytes, how many, and whether they filled the buffer, so that more may wait.
    Some(T, usize, bool),
    End,
    /// Nothing there.
    Nothing,
    Failed(io::Error),
}

/// The two system calls for a kind of file.
pub struct Calls {
    direct: fn(RawFd, &mut [MaybeUninit<u8>]) -> io::Result<usize>,
    scratch: fn(RawFd, &mut Vec<u8>) -> io::Result<usize>,
}

pub const SOCKET: Calls = Calls { direct: attempt::recv, scratch: attempt::recv_vec };
pub const FILE: Calls = Calls { direct: attempt::read, scratch: attempt::read_vec };

/// Receives once.
#[inline]
pub fn receive<'py>(
    event_loop: &Bound<'py, EventLoop>,
    fd: RawFd,
    size: ReadSize,
    calls: Calls,
) -> PyResult<Read<Bound<'py, PyBytes>>> {
    let py = event_loop.py();
    if let Some(capacity) = size.direct() {
        return Ok(match call::bytes_filled_by(py, capacity, |room| (calls.direct)(fd, room))? {
            Ok(data) => {
                let count = data.as_bytes().len();
                if count == 0 { Read::End } else { Read::Some(data, count, count == capacity) }
            }
            Err(error) => failure(error),
        });
    }
    event_loop.get().state.with(py, |state| {
        let scratch = state.scratch();
        match (calls.scratch)(fd, scratch) {
            Ok(0) => Ok(Read::End),
            Ok(count) => Ok(Read::Some(PyBytes::new(py, scratch), count, count == scratch.capacity())),
            Err(error) => Ok(failure(error)),
        }
    })
}

/// The same, to the end of a `bytearray`. The bytes are returned if they cannot be put there, because somebody holds a
/// view of it.
#[inline]
pub fn receive_onto<'py>(
    event_loop: &Bound<'py, EventLoop>,
    fd: RawFd,
    size: ReadSize,
    calls: Calls,
    buffer: &Bound<'py, PyByteArray>,
) -> PyResult<Read<Option<Bound<'py, PyBytes>>>> {
    let py = event_loop.py();
    if let Some(capacity) = size.direct() {
        return match call::extended_by(buffer, capacity, |room| (calls.direct)(fd, room)) {
            Ok(Ok(0)) => Ok(Read::End),
            Ok(Ok(count)) => Ok(Read::Some(None, count, count == capacity)),
            Ok(Err(error)) => Ok(failure(error)),
            Err(_) => Ok(match receive(event_loop, fd, size, calls)? {
                Read::Some(data, count, full) => Read::Some(Some(data), count, full),
                Read::End => Read::End,
                Read::Nothing => Read::Nothing,
                Read::Failed(error) => Read::Failed(error),
            }),
        };
    }
    // Appending may wait for another thread that has the array, so the loop's state is not held meanwhile.
    let mut scratch = event_loop.get().state.with(py, |state| state.take_scratch());
    let received = (calls.scratch)(fd, &mut scratch);
    let read = match received {
        Ok(0) => Read::End,
        Ok(count) => Read::Some(
            call::append(buffer, &scratch).err().map(|_| PyBytes::new(py, &scratch)),
            count,
            count == scratch.capacity(),
        ),
        Err(error) => failure(error),
    };
    event_loop.get().state.with(py, |state| state.put_scratch(scratch));
    Ok(read)
}

pub fn failure<T>(error: io::Error) -> Read<T> {
    if error.kind() == io::ErrorKind::WouldBlock { Read::Nothing } else { Read::Failed(error) }
}
