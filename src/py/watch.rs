//! `add_reader` and its family: handles that run whenever an fd is ready.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};
use zloop_backends::{Backend, Interest, Token};

use super::event_loop::EventLoop;
use super::handle::{Callback, HandleTypes, new_handle};
use super::state::{Source, State, Watch};
use super::{call, errors};

/// Sets the handle of one direction, cancelling the one that was there, as asyncio does.
pub fn add<'py>(
    this: &Bound<'py, EventLoop>,
    fd: &Bound<'py, PyAny>,
    direction: Interest,
    function: Bound<'py, PyAny>,
    args: Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let core = this.get();
    core.check_open()?;
    let file = fd;
    let fd = fileno(file)?;
    let callback = Callback { function, args, context: call::copy_context(py)? };
    let handle = new_handle(HandleTypes::get(py)?, this, callback)?;
    let old = core
        .state
        .with(py, |state| set(state, (fd, file), direction, handle.clone().unbind()))
        .map_err(|error| errors::os_error(py, &error))?;
    cancel(py, old)?;
    Ok(handle)
}

/// Clears the handle of one direction and cancels it. Says whether there was one.
pub fn remove(this: &Bound<'_, EventLoop>, fd: &Bound<'_, PyAny>, direction: Interest) -> PyResult<bool> {
    let py = this.py();
    let core = this.get();
    if core.check_open().is_err() {
        return Ok(false);
    }
    let fd = match fileno(fd) {
        Ok(fd) => fd,
        // No file can have that number, so nobody watches it.
        Err(error) if error.is_instance_of::<PyOverflowError>(py) => return Ok(false),
        Err(error) => core.state.with(py, |state| fd_of(state, fd)).ok_or(error)?,
    };
    let cleared = core.state.with(py, |state| match state.fds.get(&fd) {
        Some(&token) if matches!(state.sources.get(token), Some(Source::Watch(_))) => {
            Some(clear(state, fd, token, direction))
        }
        _ => None,
    });
    let Some(Cleared { handle, lost: _lost, told }) = cleared else { return Ok(false) };
    told.map_err(|error| errors::os_error(py, &error))?;
    let existed = handle.is_some();
    cancel(py, handle)?;
    Ok(existed)
}

/// The fd under which an object is watched that no longer knows its fd.
fn fd_of(state: &State, file: &Bound<'_, PyAny>) -> Option<RawFd> {
    let watches = |token| match state.sources.get(token) {
        Some(Source::Watch(watch)) => watch.file.as_ref().is_some_and(|watched| watched.is(file)),
        _ => false,
    };
    state.fds.iter().find(|(_, token)| watches(**token)).map(|(fd, _)| *fd)
}

/// The directions of a watch, as the bits of `selectors`.
pub fn mask(core: &EventLoop, py: Python<'_>, fd: RawFd) -> u8 {
    core.state.with(py, |state| match state.fds.get(&fd).and_then(|token| state.sources.get(*token)) {
        Some(Source::Watch(watch)) => u8::from(watch.reader.is_some()) | (u8::from(watch.writer.is_some()) << 1),
        _ => 0,
    })
}

/// Sets one direction's handle and tells the backend. On an error nothing has changed.
fn set(
    state: &mut State,
    (fd, file): (RawFd, &Bound<'_, PyAny>),
    direction: Interest,
    handle: Py<PyAny>,
) -> io::Result<Option<Py<PyAny>>> {
    let token = watch_token(state, fd, file);
    let old = side(state, token, direction).replace(handle);
    state.slice.end();
    let told = tell(state, fd, token);
    match told {
        Ok(()) => Ok(old),
        Err(error) => {
            // What goes away here was seen by nobody but our caller, who holds it too.
            *side(state, token, direction) = old;
            drop_if_unused(state, fd, token);
            Err(error)
        }
    }
}

/// What taking a handle out came to.
struct Cleared {
    handle: Option<Py<PyAny>>,
    /// The other direction's, which the backend could not go on watching.
    lost: Option<Py<PyAny>>,
    told: io::Result<()>,
}

/// Clears one direction's handle.
fn clear(state: &mut State, fd: RawFd, token: Token, direction: Interest) -> Cleared {
    let handle = side(state, token, direction).take();
    let mut cleared = Cleared { handle, lost: None, told: Ok(()) };
    if cleared.handle.is_some() {
        let told = tell(state, fd, token);
        // As on asyncio, a file that was closed too early is only noticed when something is left to watch.
        if !drop_if_unused(state, fd, token) && told.is_err() {
            cleared.told = told;
            cleared.lost = side(state, token, !direction & Interest::BOTH).take();
            drop_if_unused(state, fd, token);
        }
    }
    cleared
}

fn tell(state: &mut State, fd: RawFd, token: Token) -> io::Result<()> {
    let Some(Source::Watch(watch)) = state.sources.get(token) else { return Ok(()) };
    let interest = watch.interest();
    state.backend()?.watch(fd, token, interest)
}

fn side(state: &mut State, token: Token, direction: Interest) -> &mut Option<Py<PyAny>> {
    match state.sources.get_mut(token) {
        Some(Source::Watch(watch)) => watch.side(direction),
        _ => unreachable!("only tokens of watches come here"),
    }
}

/// The token of the fd's watch, which is made if there is none.
fn watch_token(state: &mut State, fd: RawFd, file: &Bound<'_, PyAny>) -> Token {
    if let Some(token) = state.fds.get(&fd)
        && matches!(state.sources.get(*token), Some(Source::Watch(_)))
    {
        return *token;
    }
    let file = (!file.is_instance_of::<PyInt>()).then(|| file.clone().unbind());
    let token = state.sources.insert(Source::Watch(Watch { file, reader: None, writer: None }));
    state.fds.insert(fd, token);
    token
}

/// Forgets a watch without handles and says whether it did. Nothing in it can run code when dropped.
fn drop_if_unused(state: &mut State, fd: RawFd, token: Token) -> bool {
    let unused = matches!(state.sources.get(token), Some(Source::Watch(watch)) if watch.interest().is_empty());
    if unused {
        state.sources.remove(token);
        state.fds.remove(&fd);
    }
    unused
}

fn cancel(py: Python<'_>, handle: Option<Py<PyAny>>) -> PyResult<()> {
    handle.map_or(Ok(()), |handle| handle.call_method0(py, "cancel").map(drop))
}

/// The fd of an int or of an object with `fileno()`, with the errors of `selectors`.
fn fileno(fd: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let number = if fd.is_instance_of::<PyInt>() && fd.ge(0)? {
        fd.clone()
    } else {
        fd.py().import("selectors")?.call_method1("_fileobj_to_fd", (fd,))?
    };
    number.extract().map_err(|_| PyOverflowError::new_err("Python int too large to convert to C int"))
}
