//! `add_reader` and its family: handles that run whenever an fd is ready.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::PyTuple;
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
    let fd = fileno(fd)?;
    let callback = Callback { function, args, context: call::copy_context(py)? };
    let handle = new_handle(HandleTypes::get(py)?, this, callback)?;
    let old = core
        .state
        .with(py, |state| set(state, fd, direction, Some(handle.clone().unbind())))
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
    let fd = fileno(fd)?;
    let old = core.state.with(py, |state| match state.fds.get(&fd) {
        Some(token) if matches!(state.sources.get(*token), Some(Source::Watch(_))) => set(state, fd, direction, None),
        _ => Ok(None),
    });
    // The fd may have been closed before it was removed; asyncio does not mind that, and neither do we.
    let old = old.unwrap_or_default();
    let existed = old.is_some();
    cancel(py, old)?;
    Ok(existed)
}

/// The directions of a watch, as the bits of `selectors`.
pub fn mask(core: &EventLoop, py: Python<'_>, fd: RawFd) -> u8 {
    core.state.with(py, |state| match state.fds.get(&fd).and_then(|token| state.sources.get(*token)) {
        Some(Source::Watch(watch)) => u8::from(watch.reader.is_some()) | (u8::from(watch.writer.is_some()) << 1),
        _ => 0,
    })
}

/// Replaces one direction's handle and tells the backend. On an error nothing has changed but a dead watch is dropped.
fn set(
    state: &mut State,
    fd: RawFd,
    direction: Interest,
    handle: Option<Py<PyAny>>,
) -> std::io::Result<Option<Py<PyAny>>> {
    let token = watch_token(state, fd);
    let Some(Source::Watch(watch)) = state.sources.get_mut(token) else {
        unreachable!("watch_token returns the token of a watch");
    };
    let old = std::mem::replace(watch.side(direction), handle);
    let interest = watch.interest();
    let result = state.backend().and_then(|backend| backend.watch(fd, token, interest));
    if let Err(error) = result {
        restore(state, token, direction, old);
        return Err(error);
    }
    if interest.is_empty() {
        drop_watch(state, fd, token);
    }
    Ok(old)
}

/// The token of the fd's watch, which is made if there is none.
fn watch_token(state: &mut State, fd: RawFd) -> Token {
    if let Some(token) = state.fds.get(&fd)
        && matches!(state.sources.get(*token), Some(Source::Watch(_)))
    {
        return *token;
    }
    let token = state.sources.insert(Source::Watch(Watch { fd, ..Watch::default() }));
    state.fds.insert(fd, token);
    token
}

fn restore(state: &mut State, token: Token, direction: Interest, old: Option<Py<PyAny>>) {
    let Some(Source::Watch(watch)) = state.sources.get_mut(token) else { return };
    // The new handle has never been seen by anybody but our caller, who still holds it.
    *watch.side(direction) = old;
    let (fd, empty) = (watch.fd, watch.interest().is_empty());
    if empty {
        drop_watch(state, fd, token);
    }
}

/// Forgets a watch without handles. Nothing in it can run code when dropped.
fn drop_watch(state: &mut State, fd: RawFd, token: Token) {
    state.sources.remove(token);
    state.fds.remove(&fd);
}

fn cancel(py: Python<'_>, handle: Option<Py<PyAny>>) -> PyResult<()> {
    handle.map_or(Ok(()), |handle| handle.call_method0(py, "cancel").map(drop))
}

/// The fd of an int or of an object with `fileno()`, with the errors of `selectors`.
fn fileno(fd: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    match fd.extract::<RawFd>() {
        Ok(number) if number >= 0 => Ok(number),
        _ => fd.py().import("selectors")?.call_method1("_fileobj_to_fd", (fd,))?.extract(),
    }
}
