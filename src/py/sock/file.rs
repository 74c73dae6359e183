//! Sending files: `sendfile(2)`, for plain sockets and for the transports that have one.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use zloop_backends::{Interest, attempt};

use super::super::event_loop::EventLoop;
use super::super::native::Args;
use super::super::{errors, watch};
use super::{Answer, given_fd};

/// A part of a file.
pub struct Part {
    file: RawFd,
    offset: libc::off_t,
    limit: usize,
}

/// How far a part got.
pub struct Progress {
    /// Less than the part has is all that there was, unless it is `blocked`.
    pub sent: usize,
    /// The socket takes no more now.
    pub blocked: bool,
}

impl Part {
    /// The part that three arguments name: an fd, where to begin, and at most how many bytes.
    pub fn of(args: Args<'_, '_>, first: usize) -> PyResult<Self> {
        let argument = |index| args.get(first + index).ok_or_else(|| PyTypeError::new_err("file, offset, limit"));
        Ok(Self { file: argument(0)?.extract()?, offset: argument(1)?.extract()?, limit: argument(2)?.extract()? })
    }

    /// Sends as much of it as the socket `to` takes now. Others may run meanwhile: the file may have to be read.
    pub fn send(&self, py: Python<'_>, to: RawFd) -> PyResult<Progress> {
        py.detach(|| self.send_to(to)).map_err(|error| errors::os_error(py, &error))
    }

    fn send_to(&self, to: RawFd) -> io::Result<Progress> {
        let mut sent = 0;
        while sent < self.limit {
            let offset = self.offset.saturating_add_unsigned(sent as _);
            match attempt::send_file(to, self.file, offset, self.limit - sent) {
                Ok(0) => break,
                Ok(more) => sent += more,
                // After bytes that have left, an error is the next attempt's.
                Err(error) if sent > 0 || error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress { sent, blocked: true });
                }
                Err(error) => return Err(error),
            }
            // A peer that reads makes a little room all the time: that is not worth a call for each bit of it.
            if sent < self.limit && !attempt::has_room(to)? {
                return Ok(Progress { sent, blocked: true });
            }
        }
        Ok(Progress { sent, blocked: false })
    }
}

/// `_try_sendfile(sock, fd, offset, limit)`.
pub fn send<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let py = slf.py();
    let this = slf.cast::<EventLoop>()?;
    let part = Part::of(args, 1)?;
    let to = given_fd(args)?;
    let progress = part.send(py, to)?;
    let waiter = if progress.blocked { Some(watch::wait(this, to, Interest::WRITE)?) } else { None };
    Ok((progress.sent, waiter).into_pyobject(py)?.into_any())
}
