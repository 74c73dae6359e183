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
    /// Bytes, how many, and whether more may wait: they filled the buffer, or something else ended the read.
    Some(T, usize, bool),
    End,
    /// Nothing there.
    Nothing,
    Failed(io::Error),
}

/// What is read from, which says how.
#[derive(Clone, Copy)]
pub enum Origin {
    /// A TCP socket.
    Tcp,
    /// A socket whose messages may come with more than bytes, which end a read.
    Socket,
    /// A file that is no socket.
    File,
}

impl Origin {
    /// Reads once: how many bytes, and whether more may wait.
    #[inline]
    pub fn read(self, fd: RawFd, room: &mut [MaybeUninit<u8>]) -> io::Result<(usize, bool)> {
        let (count, marked) = match self {
            Self::Tcp => (attempt::recv(fd, room)?, false),
            Self::Socket => attempt::recv_marked(fd, room)?,
            Self::File => (attempt::read(fd, room)?, false),
        };
        Ok((count, marked || count == room.len()))
    }

    /// Reads once into the capacity of `scratch`: whether more may wait.
    #[inline]
    fn read_vec(self, fd: RawFd, scratch: &mut Vec<u8>) -> io::Result<bool> {
        let marked = match self {
            Self::Tcp => attempt::recv_vec(fd, scratch).map(|_| false),
            Self::Socket => attempt::recv_marked_vec(fd, scratch),
            Self::File => attempt::read_vec(fd, scratch).map(|_| false),
        };
        Ok(marked? || scratch.len() == scratch.capacity())
    }
}

/// Receives once.
#[inline]
pub fn receive<'py>(
    event_loop: &Bound<'py, EventLoop>,
    fd: RawFd,
    size: ReadSize,
    origin: Origin,
) -> PyResult<Read<Bound<'py, PyBytes>>> {
    let py = event_loop.py();
    if let Some(capacity) = size.direct() {
        let mut more = false;
        let filled = call::bytes_filled_by(py, capacity, |room| {
            let (count, waits) = origin.read(fd, room)?;
            more = waits;
            Ok(count)
        })?;
        return Ok(match filled {
            Ok(data) => {
                let count = data.as_bytes().len();
                if count == 0 { Read::End } else { Read::Some(data, count, more) }
            }
            Err(error) => failure(error),
        });
    }
    event_loop.get().state.with(py, |state| {
        let scratch = state.scratch();
        match origin.read_vec(fd, scratch) {
            Ok(_) if scratch.is_empty() => Ok(Read::End),
            Ok(more) => Ok(Read::Some(PyBytes::new(py, scratch), scratch.len(), more)),
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
    origin: Origin,
    buffer: &Bound<'py, PyByteArray>,
) -> PyResult<Read<Option<Bound<'py, PyBytes>>>> {
    let py = event_loop.py();
    if let Some(capacity) = size.direct() {
        let mut more = false;
        let filled = call::extended_by(buffer, capacity, |room| {
            let (count, waits) = origin.read(fd, room)?;
            more = waits;
            Ok(count)
        });
        return match filled {
            Ok(Ok(0)) => Ok(Read::End),
            Ok(Ok(count)) => Ok(Read::Some(None, count, more)),
            Ok(Err(error)) => Ok(failure(error)),
            Err(_) => Ok(match receive(event_loop, fd, size, origin)? {
                Read::Some(data, count, more) => Read::Some(Some(data), count, more),
                Read::End => Read::End,
                Read::Nothing => Read::Nothing,
                Read::Failed(error) => Read::Failed(error),
            }),
        };
    }
    // Appending may wait for another thread that has the array, so the loop's state is not held meanwhile.
    let mut scratch = event_loop.get().state.with(py, |state| state.take_scratch());
    let read = match origin.read_vec(fd, &mut scratch) {
        Ok(_) if scratch.is_empty() => Read::End,
        Ok(more) => {
            let stray = call::append(buffer, &scratch).err().map(|_| PyBytes::new(py, &scratch));
            Read::Some(stray, scratch.len(), more)
        }
        Err(error) => failure(error),
    };
    event_loop.get().state.with(py, |state| state.put_scratch(scratch));
    Ok(read)
}

pub fn failure<T>(error: io::Error) -> Read<T> {
    if error.kind() == io::ErrorKind::WouldBlock { Read::Nothing } else { Read::Failed(error) }
}
