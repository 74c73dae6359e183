//! Watched fds: handles of `add_reader` and its family, which run whenever an fd is ready, and futures of the `sock_*`
//! methods, which are done once it is. As on asyncio there is one of either for each direction of an fd.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use pyo3::exceptions::PyOverflowError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};
use zloop_backends::{Backend, Interest, Token};

use super::errors;
use super::event_loop::EventLoop;
use super::handle::{HandleTypes, is_cancelled, new_watcher};
use super::invoke::Invoke;
use super::state::{Elsewhere, Source, State, Waiter, Watch};
use super::transport::too_large;

/// Sets the handle of one direction, cancelling the one that was there, as asyncio does. `waiter` says whose it is.
pub fn add<'py>(
    this: &Bound<'py, EventLoop>,
    fd: &Bound<'py, PyAny>,
    direction: Interest,
    (function, args, context): (Bound<'py, PyAny>, Bound<'py, PyTuple>, Option<Bound<'py, PyAny>>),
    waiter: fn(Py<PyAny>) -> Waiter,
) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let core = this.get();
    core.check_open()?;
    let file = fd;
    let fd = number_of(file)?;
    let handle = new_watcher(this, &function, &args, context.as_ref())?;
    let old = core
        .state
        .with(py, |state| {
            state.slice.end();
            let file = (!file.is_instance_of::<PyInt>()).then(|| file.clone().unbind());
            set(state, (fd, file), direction, waiter(handle.clone().unbind()))
        })
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
    let fd = match number_of(fd) {
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
    let Some(Cleared { waiter, lost: _lost, unused: _unused, told }) = cleared else { return Ok(false) };
    told.map_err(|error| errors::os_error(py, &error))?;
    let existed = waiter.is_some();
    cancel(py, waiter)?;
    Ok(existed)
}

/// The same for an fd that may be another file's by now: clears the handle only if it calls `method`, a native one.
pub fn remove_method(
    this: &Bound<'_, EventLoop>,
    fd: RawFd,
    direction: Interest,
    method: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = this.py();
    let handle = this.get().state.with(py, |state| match state.sources.get_mut(*state.fds.get(&fd)?) {
        Some(Source::Watch(watch)) => watch.side(direction).as_ref().map(|waiter| waiter.object().clone_ref(py)),
        _ => None,
    });
    let Some(handle) = handle else { return Ok(()) };
    // A future has no callback.
    let Ok(called) = handle.bind(py).getattr(intern!(py, "_callback")) else { return Ok(()) };
    if called.get_type().is(method.get_type()) && called.eq(method)? {
        // That the other direction cannot be watched any longer is no news: the file is closed.
        drop(remove(this, PyInt::new(py, fd).as_any(), direction));
    }
    Ok(())
}

/// A future that is done once the fd is ready. Whoever gives it up before calls [`give_up`].
pub fn wait<'py>(this: &Bound<'py, EventLoop>, fd: RawFd, direction: Interest) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let core = this.get();
    let future = this.invoke_method(intern!(py, "create_future"), ())?;
    if core.state.with(py, |state| state.has_datagrams || state.fds.contains_key(&fd)) {
        this.invoke_method(intern!(py, "_ensure_fd_no_transport"), (fd,))?;
    }
    core.check_open()?;
    let waiter = Waiter::Future(future.clone().unbind());
    let old = core
        .state
        .with(py, |state| set(state, (fd, None), direction, waiter))
        .map_err(|error| errors::os_error(py, &error))?;
    cancel(py, old)?;
    Ok(future)
}

/// Stops watching for a future, unless somebody else took its place.
pub fn give_up(this: &Bound<'_, EventLoop>, future: &Bound<'_, PyAny>, fd: RawFd) -> PyResult<()> {
    let is_it = |side: &Option<Waiter>| side.as_ref().is_some_and(|waiter| waiter.object().is(future));
    let _cleared = this.get().state.with(this.py(), |state| {
        let holds = |token: Token, state: &State| match state.sources.get(token) {
            Some(Source::Watch(watch)) if is_it(&watch.reader) => Some((watch.fd, token, Interest::READ)),
            Some(Source::Watch(watch)) if is_it(&watch.writer) => Some((watch.fd, token, Interest::WRITE)),
            _ => None,
        };
        let found = match state.fds.get(&fd) {
            Some(token) => holds(*token, state),
            // The socket was closed and no longer knows its fd.
            None => state.sources.iter().find_map(|(token, _)| holds(token, state)),
        };
        found.map(|(fd, token, direction)| clear(state, fd, token, direction))
    });
    Ok(())
}

/// The loop's entry: an fd is ready for which a future waits, or nobody but a handle that was cancelled.
pub fn on_ready(this: &Bound<'_, EventLoop>, token: Token, direction: Interest) -> PyResult<()> {
    let py = this.py();
    let types = HandleTypes::get(py)?;
    let cleared = this.get().state.with(py, |state| {
        let Some(Source::Watch(watch)) = state.sources.get_mut(token) else { return None };
        let fd = watch.fd;
        let waits = match watch.side(direction) {
            Some(Waiter::Future(_)) => true,
            Some(Waiter::Handle(handle)) => is_cancelled(types, handle),
            Some(Waiter::Transport(_)) | None => false,
        };
        waits.then(|| clear(state, fd, token, direction))
    });
    let Some(Cleared { waiter, lost, .. }) = cleared else { return Ok(()) };
    // If the other direction could not be watched any longer, whoever waits for it learns the reason by trying.
    [waiter, lost].into_iter().flatten().try_for_each(|waiter| match waiter {
        Waiter::Future(future) => finish(future.bind(py)),
        Waiter::Handle(_) | Waiter::Transport(_) => Ok(()),
    })
}

/// Sets a future's result, unless it was cancelled and its task has not run since.
fn finish(future: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    match future.invoke_method(intern!(py, "set_result"), (py.None(),)) {
        Err(_) if future.invoke_method(intern!(py, "done"), ())?.is_truthy()? => Ok(()),
        other => other.map(drop),
    }
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
    (fd, file): (RawFd, Option<Py<PyAny>>),
    direction: Interest,
    waiter: Waiter,
) -> io::Result<Option<Waiter>> {
    let token = watch_token(state, fd, file);
    let old = side(state, token, direction).replace(waiter);
    let told = tell(state, fd, token);
    match told {
        Ok(()) => Ok(old),
        Err(error) => {
            // What goes away here was seen by nobody but our caller, who holds it too.
            *side(state, token, direction) = old;
            drop(take_if_unused(state, fd, token));
            Err(error)
        }
    }
}

/// What taking a handle out came to.
struct Cleared {
    waiter: Option<Waiter>,
    /// The other direction's, which the backend could not go on watching.
    lost: Option<Waiter>,
    /// The watch, if nobody is left.
    unused: Option<Source>,
    told: io::Result<()>,
}

/// Clears one direction's waiter.
fn clear(state: &mut State, fd: RawFd, token: Token, direction: Interest) -> Cleared {
    let waiter = side(state, token, direction).take();
    let mut cleared = Cleared { waiter, lost: None, unused: None, told: Ok(()) };
    if cleared.waiter.is_some() {
        let told = match tell(state, fd, token) {
            Err(error) if Elsewhere::is(&error) => {
                state.untold.push((fd, token));
                Ok(())
            }
            told => told,
        };
        cleared.unused = take_if_unused(state, fd, token);
        // As on asyncio, a file that was closed too early is only noticed when something is left to watch.
        if cleared.unused.is_none() && told.is_err() {
            cleared.told = told;
            cleared.lost = side(state, token, !direction & Interest::BOTH).take();
            cleared.unused = take_if_unused(state, fd, token);
        }
    }
    cleared
}

/// Tells the backend, which is back from a wait, what other threads have cleared meanwhile.
#[cold]
pub fn catch_up(state: &mut State) {
    for (fd, token) in std::mem::take(&mut state.untold) {
        if state.sources.get(token).is_some() {
            // Less is watched than before. A file that was closed too early is not watched any more in any case.
            let _ = tell(state, fd, token);
        } else if let Ok(backend) = state.backend() {
            backend.forget(token);
        }
    }
}

/// Whether the fd is this watch's still: its file may have been closed too early, and the number be a transport's now.
fn is_current(state: &State, fd: RawFd, token: Token) -> bool {
    state.fds.get(&fd) == Some(&token)
}

fn tell(state: &mut State, fd: RawFd, token: Token) -> io::Result<()> {
    if !is_current(state, fd, token) {
        return Ok(());
    }
    let Some(Source::Watch(watch)) = state.sources.get(token) else { return Ok(()) };
    let (interest, once) = (watch.interest(), watch.is_for_futures());
    let backend = state.backend()?;
    if once { backend.watch_once(fd, token, interest) } else { backend.watch(fd, token, interest) }
}

fn side(state: &mut State, token: Token, direction: Interest) -> &mut Option<Waiter> {
    match state.sources.get_mut(token) {
        Some(Source::Watch(watch)) => watch.side(direction),
        _ => unreachable!("only tokens of watches come here"),
    }
}

/// The token of the fd's watch, which is made if there is none.
fn watch_token(state: &mut State, fd: RawFd, file: Option<Py<PyAny>>) -> Token {
    if let Some(token) = state.fds.get(&fd)
        && matches!(state.sources.get(*token), Some(Source::Watch(_)))
    {
        return *token;
    }
    let token = state.sources.insert(Source::Watch(Watch { fd, file, reader: None, writer: None }));
    state.fds.insert(fd, token);
    token
}

/// Takes a watch out for which nobody waits. The caller drops it where that is safe.
fn take_if_unused(state: &mut State, fd: RawFd, token: Token) -> Option<Source> {
    let unused = matches!(state.sources.get(token), Some(Source::Watch(watch)) if watch.interest().is_empty());
    if !unused {
        return None;
    }
    if is_current(state, fd, token) {
        state.fds.remove(&fd);
    }
    state.sources.remove(token)
}

/// Tells a handle that it is out. A future that lost its place waits until it is cancelled, as on asyncio.
fn cancel(py: Python<'_>, waiter: Option<Waiter>) -> PyResult<()> {
    match waiter {
        Some(Waiter::Handle(handle) | Waiter::Transport(handle)) => {
            handle.bind(py).invoke_method("cancel", ()).map(drop)
        }
        Some(Waiter::Future(_)) | None => Ok(()),
    }
}

/// The fd of an int or of an object with `fileno()`, with the errors of `selectors`.
fn number_of(fd: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let number = if fd.is_instance_of::<PyInt>() && fd.ge(0)? {
        fd.clone()
    } else {
        fd.py().import("selectors")?.invoke_method("_fileobj_to_fd", (fd,))?
    };
    number.extract().map_err(|_| too_large())
}
