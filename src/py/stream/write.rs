//! Sending: what one callback writes to a transport is gathered and leaves together when the callback returns, or with
//! the data of others in a turn of many callbacks.
//!
//! Whoever needs to know how much has left (`get_write_buffer_size`, `close`, limits of flow control) has it flushed
//! first, so that only the system calls differ from sending at once, never what a program observes. (But that a crowd's
//! large messages pause their protocols when they leave, not inside `write()`.)

use std::io::{self, IoSlice};

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};
use zloop_backends::{AnyBackend, Backend, Interest, MAX_SLICES, Sent, Token, attempt};

use super::super::call::ReadableBuffer;
use super::super::event_loop::EventLoop;
use super::super::state::Elsewhere;
use super::super::transport::{SILENT_DROPS, exact_bytes, log, snapshot, tell_protocol};
use super::super::{context, errors, pipe, run, tls};
use super::{Conn, State, attach, close, hold, is_native, with_conn};
use crate::io::{AT_ONCE_FROM, WriteQueue};
use crate::py::invoke::Invoke;

/// `transport.write(data)`.
pub fn write(conn: Conn<'_, '_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
    if data.is_exact_instance_of::<PyMemoryView>() || data.is_exact_instance_of::<PyByteArray>() {
        if let Ok(lent) = ReadableBuffer::of(data) {
            return write_lent(conn, lent);
        }
        // In pieces or released, which matters after this only.
        check_open(conn, "write", "write")?;
    }
    let data = exact_bytes(data, ("selector_events", "_SelectorSocketTransport"))?;
    write_owned(conn, PyBackedBytes::from(data))
}

/// The same for bytes that are ours already.
pub fn write_owned(conn: Conn<'_, '_>, data: PyBackedBytes) -> PyResult<()> {
    if !conn.state(|state| state.takes_writes()) {
        check_open(conn, "write", "write")?;
        return if data.is_empty() { Ok(()) } else { drops(conn).map(drop) };
    }
    if data.is_empty() {
        return Ok(());
    }
    add(conn, |queue| queue.push(data)).or_else(|error| forget_late(conn, error))
}

/// The same for what others may change after the call: the kernel gets so much of it that would leave at once anyway from
/// where it is, only the rest is copied.
fn write_lent(conn: Conn<'_, '_>, lent: ReadableBuffer<'_>) -> PyResult<()> {
    let data = lent.as_slice();
    let sent = if data.len() > AT_ONCE_FROM { send_lent(conn, data) } else { Ok(0) };
    let rest = sent.map(|count| (count > 0, PyBackedBytes::from(PyBytes::new(conn.py(), &data[count..]))));
    drop(lent);
    match rest {
        Ok((true, rest)) if !rest.is_empty() => {
            // The kernel has no room for it.
            conn.state(|state| state.queue.push(rest));
            send_now(conn)
        }
        Ok((_, rest)) => write_owned(conn, rest),
        Err(error) => broken(conn, &error),
    }
}

/// Sends what the kernel takes now, unless something stands against it; says how much that is.
fn send_lent(conn: Conn<'_, '_>, data: &[u8]) -> io::Result<usize> {
    let (core, fd) = (conn.event_loop.get(), conn.stream.get().fd);
    conn.state(|state| {
        let attached = state.attached && state.token.is_some();
        if !attached || !core.holds_writes() || !state.takes_writes() || !state.is_idle() || state.blocked {
            return Ok(0);
        }
        core.state.with(conn.py(), |owner| owner.slice.end());
        attempt::send(fd, &[IoSlice::new(data)]).or_else(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Ok(0),
            _ => Err(error),
        })
    })
}

/// `transport.writelines(list_of_data)`.
pub fn writelines(conn: Conn<'_, '_>, lines: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = conn.py();
    if !cfg!(Py_3_12) {
        return write(conn, PyBytes::new(py, b"").invoke_method(intern!(py, "join"), (lines,))?.as_any());
    }
    check_open(conn, "writelines", "writelines")?;
    if !lines.is_truthy()? || drops(conn)? {
        return Ok(());
    }
    let mut buffers = Vec::new();
    for line in lines.try_iter()? {
        let line = line?;
        let buffer = match line.cast_exact::<PyBytes>() {
            Ok(bytes) => bytes.clone(),
            Err(_) if skips_nothings(py) && !line.is_truthy()? => continue,
            Err(_) => snapshot(&line)?,
        };
        if !buffer.as_bytes().is_empty() {
            buffers.push(PyBackedBytes::from(buffer));
        }
    }
    add(conn, |queue| buffers.into_iter().for_each(|buffer| queue.push(buffer)))
}

/// Whether asyncio's `writelines()` passes over all that counts as false, `None` included, to pass over what is empty.
fn skips_nothings(py: Python<'_>) -> bool {
    py.version_info() >= (3, 14, 10)
}

fn check_open(conn: Conn<'_, '_>, call: &str, busy: &str) -> PyResult<()> {
    let (eof, lent) = conn.state(|state| (state.eof, state.empty_waiter.is_some()));
    if eof {
        return Err(PyRuntimeError::new_err(format!("Cannot call {call}() after write_eof()")));
    }
    if lent {
        return Err(PyRuntimeError::new_err(format!("unable to {busy}; sendfile is in progress")));
    }
    Ok(())
}

/// Whether a write comes too late and is dropped, as asyncio does: silently at first, then with a warning.
fn drops(conn: Conn<'_, '_>) -> PyResult<bool> {
    let py = conn.py();
    let lost = conn.state(|state| {
        let lost = state.conn_lost;
        state.conn_lost += u32::from(lost > 0);
        lost
    });
    if lost >= SILENT_DROPS {
        log(py, "warning", ("socket.send() raised exception.",))?;
    }
    Ok(lost > 0)
}

/// Adds to the queue, and sends it now, or at the end of the callback if there is little in it or the turn is a crowd.
fn add(conn: Conn<'_, '_>, push: impl FnOnce(&mut WriteQueue<PyBackedBytes>)) -> PyResult<()> {
    let (py, core) = (conn.py(), conn.event_loop.get());
    let (large, now, later) = conn.state(|state| {
        push(&mut state.queue);
        if state.blocked || state.queue.is_empty() {
            return (false, false, None);
        }
        let large = state.queue.is_large(state.mark.high());
        let held = core.holds_writes() && (!large || waits_for_others(py, state, core));
        let later = held && !state.dirty && !state.in_flight;
        state.dirty |= later;
        (large, !held, later.then(|| state.queue.len()))
    });
    if let Some(bytes) = later {
        core.mark_dirty(py, conn.transport.clone().unbind(), bytes);
    }
    if now {
        send_now(conn)
    } else if large {
        // How much of it is too much is known when it has been sent.
        keep_context(conn)
    } else if later.is_some() {
        Ok(())
    } else {
        pause_if_full(conn)
    }
}

/// Sends what is queued without waiting for anything.
fn send_now(conn: Conn<'_, '_>) -> PyResult<()> {
    settle(conn)?;
    if conn.state(|state| (state.blocked || state.in_flight) && !state.own_context) {
        keep_context(conn)?;
    }
    pause_if_full(conn)
}

/// What this write calls later runs in the context of now.
fn keep_context(conn: Conn<'_, '_>) -> PyResult<()> {
    let context = context::copy(conn.py())?.unbind();
    let _old = conn.state(|state| state.write_context.replace(context));
    Ok(())
}

/// Whether what would leave at once waits for others of a turn of many callbacks. Whoever has set a low mark wants to know
/// at once what the kernel does not take.
#[inline(never)]
fn waits_for_others(py: Python<'_>, state: &State, core: &EventLoop) -> bool {
    let patient = state.mark.high() >= AT_ONCE_FROM && !state.in_flight;
    patient && core.state.with(py, |owner| owner.hold.takes(state.queue.len()))
}

/// Flushes every transport, pipes included, that the last callbacks wrote to, in the order of the first write to each.
/// The loop calls it after each callback, or after a few in a turn of many.
pub fn flush_dirty(this: &Bound<'_, EventLoop>) -> PyResult<()> {
    let py = this.py();
    while let Some(transport) = this.get().state.with(py, |state| state.dirty.pop_front()) {
        let outcome = serve(transport.bind(py), false, |conn| {
            if conn.state(|state| std::mem::take(&mut state.dirty) && state.queue.is_large(state.mark.high())) {
                flush_large(conn)?;
            } else {
                flush(conn)?;
            }
            if conn.state(|state| state.owes_news()) {
                context::run(&conn.write_context(), || progressed(conn))?;
            }
            Ok(())
        });
        // Like any callback's, an exception of the protocol must not end the loop.
        outcome.or_else(|error| run::report(this, "StreamTransport._flush()", error))?;
    }
    Ok(())
}

/// Flushes what may be more than the high mark allows: now it is known.
#[inline(never)]
fn flush_large(conn: Conn<'_, '_>) -> PyResult<()> {
    settle(conn)?;
    let rest = conn.state(|state| !state.queue.is_empty());
    if rest {
        context::run(&conn.write_context(), || pause_if_full(conn))?;
    }
    let _garbage = conn.state(|state| if rest && !state.own_context { None } else { state.write_context.take() });
    Ok(())
}

/// Does `stream` for one of the list if that is a stream transport; a pipe transport or a TLS session lets go of what was
/// written to it, and stays `listed` if it is to.
fn serve<'py>(
    written: &Bound<'py, PyAny>,
    listed: bool,
    stream: impl FnOnce(Conn<'_, 'py>) -> PyResult<()>,
) -> PyResult<()> {
    if is_native(written)? {
        return with_conn(written, stream);
    }
    if !pipe::flush_written(written, listed)? {
        tls::flush_written(written, listed)?;
    }
    Ok(())
}

/// Has the kernel take now what it takes of all that the running callback and others of this turn have written: a process
/// that is forked must not find it in its copy of the loop, too.
pub fn send_written(this: &Bound<'_, EventLoop>) -> PyResult<()> {
    let py = this.py();
    send_dirty(this)?;
    let gathered: Vec<_> = this.get().state.with(py, |state| {
        let gathers = state.backend.as_ref().is_some_and(|backend| backend.in_flight() > 0);
        let sources = gathers.then(|| state.sources.iter());
        sources.into_iter().flatten().filter_map(|(_, source)| source.transport(py)).collect()
    });
    gathered.iter().try_for_each(|transport| {
        with_conn(transport, |conn| if conn.state(|state| state.in_flight) { settle_soundly(conn) } else { Ok(()) })
    })
}

/// Has the kernel take now what it takes of what was written to this transport, if need be by way of TLS: for whoever
/// reaches for the socket itself. From another thread that would come at any moment anyway. A callback may do so for many
/// transports: what was written to others waits for its end.
pub fn send_first(conn: Conn<'_, '_>) -> PyResult<()> {
    let core = conn.event_loop.get();
    if core.runs() && !core.runs_here() {
        return Ok(());
    }
    if core.state.with(conn.py(), |state| state.has_stray_tls) {
        send_dirty(conn.event_loop)?;
    } else if let Some(protocol) = conn.protocol() {
        tls::hand_down_all_to(&protocol)?;
    }
    settle(conn)
}

/// Has all send what they can to which the last callbacks wrote.
fn send_dirty(this: &Bound<'_, EventLoop>) -> PyResult<()> {
    let py = this.py();
    // They stay on the list, so that whoever waits for the last byte is served when the running callback returns; TLS
    // adds the transports below it.
    let mut place = 0;
    while let Some(written) =
        this.get().state.with(py, |state| state.dirty.get(place).map(|written| written.bind(py).clone()))
    {
        place += 1;
        serve(&written, true, settle_soundly)?;
    }
    Ok(())
}

/// Settles among others: an exception is told, and does not keep the others from it.
fn settle_soundly(conn: Conn<'_, '_>) -> PyResult<()> {
    settle(conn).or_else(|error| run::report(conn.event_loop, "StreamTransport._flush()", error))
}

/// Hands the queue to the backend as far as it takes it. A failure closes the transport.
pub fn flush(conn: Conn<'_, '_>) -> PyResult<()> {
    loop {
        match send(conn) {
            Ok(Flushed::Rest) => {}
            Ok(Flushed::Stop) => break,
            Err(error) if Elsewhere::is(&error) => {
                if conn.event_loop.get().check_open().is_err() {
                    return send_late(conn);
                }
                leave_to_loop(conn);
                break;
            }
            Err(error) => return broken(conn, &error),
        }
    }
    hold(conn);
    Ok(())
}

/// Another thread writes, which it should not, while the loop waits: the loop wakes up, and sends what is queued.
#[cold]
fn leave_to_loop(conn: Conn<'_, '_>) {
    if !conn.state(|state| std::mem::replace(&mut state.dirty, true)) {
        conn.event_loop.get().mark_dirty(conn.py(), conn.transport.clone().unbind(), 0);
    }
}

/// The loop is closed. The kernel may take bytes all the same, as on asyncio; nobody will say when it takes more.
#[cold]
fn send_late(conn: Conn<'_, '_>) -> PyResult<()> {
    let fd = conn.stream.get().fd;
    let sent = conn.state(|state| {
        while !state.queue.is_empty() {
            let mut head = [IoSlice::new(&[])];
            state.queue.gather(&mut head);
            let count = attempt::send(fd, &head)?;
            // Plain bytes: dropping them runs no code.
            state.queue.advance(count, drop);
        }
        Ok::<_, io::Error>(())
    });
    match sent {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            conn.state(|state| state.blocked = true);
            conn.event_loop.get().check_open()
        }
        Err(error) => broken(conn, &error),
    }
}

/// A `write()` failed. If that is because the loop is closed, asyncio keeps nothing of it; of `writelines()` it does.
#[cold]
fn forget_late(conn: Conn<'_, '_>, error: PyErr) -> PyResult<()> {
    if conn.event_loop.get().check_open().is_err() {
        let _garbage = conn.state(|state| {
            state.blocked = false;
            if state.in_flight { Default::default() } else { state.queue.take_all() }
        });
    }
    Err(error)
}

/// Flushes without leaving bytes to the backend that the kernel would take now: for callers that need to know.
pub fn settle(conn: Conn<'_, '_>) -> PyResult<()> {
    let core = conn.event_loop.get();
    flush(conn)?;
    while let Some(token) = conn.state(|state| state.token.filter(|_| state.in_flight)) {
        let finished = core.state.with(conn.py(), |state| state.backend.as_mut()?.finish(token));
        let Some(result) = finished else { break };
        ended(conn, result)?;
        flush(conn)?;
    }
    // Whoever waits for the last byte is served when the running callback returns. None does once the loop is closed.
    let open = core.check_open().is_ok();
    let later = conn.state(|state| {
        let later = open && !state.dirty && state.owes_news();
        state.dirty |= later;
        later
    });
    if later {
        core.mark_dirty(conn.py(), conn.transport.clone().unbind(), 0);
    }
    Ok(())
}

enum Flushed {
    /// The kernel may take more.
    Rest,
    Stop,
}

fn send(conn: Conn<'_, '_>) -> io::Result<Flushed> {
    if conn.state(|state| !state.attached && !state.queue.is_empty()) {
        attach(conn)?;
    }
    conn.state(|state| {
        let Some(token) = state.token.filter(|_| !state.queue.is_empty() && !state.blocked && !state.in_flight) else {
            return Ok(Flushed::Stop);
        };
        let sent = conn.event_loop.get().state.with(conn.py(), |owner| {
            // The peer may be on this loop, too: what it gets now is to be seen before what comes later.
            owner.slice.end();
            let backend = owner.backend()?;
            let sent = hand_over(backend, token, &state.queue)?;
            if sent == Sent::Blocked {
                backend.rearm(token, Interest::WRITE)?;
            }
            Ok::<_, io::Error>(sent)
        })?;
        match sent {
            Sent::Done(count) => {
                // Plain bytes: dropping them runs no code.
                state.queue.advance(count, drop);
                return Ok(if state.queue.is_empty() { Flushed::Stop } else { Flushed::Rest });
            }
            Sent::Blocked => state.blocked = true,
            Sent::Pending => state.in_flight = true,
        }
        Ok(Flushed::Stop)
    })
}

/// Sends the head of a queue that is not empty. A single buffer is the rule, and cheaper to describe.
fn hand_over(backend: &mut AnyBackend, token: Token, queue: &WriteQueue<PyBackedBytes>) -> io::Result<Sent> {
    let mut one = [IoSlice::new(&[])];
    let mut many;
    let room: &mut [IoSlice<'_>] = if queue.buffers() == 1 {
        &mut one
    } else {
        many = [IoSlice::new(&[]); MAX_SLICES];
        &mut many
    };
    let count = queue.gather(room);
    // SAFETY: after `Pending` the buffers stay at the head of the queue until the terminal event (`ended`), or move with it
    // into the loop's table (`detach`), and `bytes` never change.
    unsafe { backend.send(token, &room[..count]) }
}

/// The backend has reported that the kernel takes bytes again.
pub fn writable(conn: Conn<'_, '_>) -> PyResult<()> {
    conn.state(|state| state.blocked = false);
    flush(conn)?;
    progressed(conn)
}

/// A send in flight has ended, with bytes or with a negative errno.
pub fn sent(conn: Conn<'_, '_>, result: i32) -> PyResult<()> {
    ended(conn, result)?;
    flush(conn)?;
    progressed(conn)
}

/// Takes what a send came to out of the queue.
fn ended(conn: Conn<'_, '_>, result: i32) -> PyResult<()> {
    let late = conn.state(|state| {
        state.in_flight = false;
        if result > 0 {
            state.queue.advance(result as usize, drop);
        }
        state.conn_lost > 0
    });
    if result < 0 && !late {
        return broken(conn, &io::Error::from_raw_os_error(-result));
    }
    Ok(())
}

/// Some bytes have left: the protocol may go on, and whoever waited for the last of them is served.
fn progressed(conn: Conn<'_, '_>) -> PyResult<()> {
    let py = conn.py();
    if conn.state(|state| state.conn_lost > 0) {
        return Ok(());
    }
    resume_if_drained(conn)?;
    // The protocol may have written, or closed, in answer to that.
    flush(conn)?;
    if conn.state(|state| state.conn_lost > 0) {
        return Ok(());
    }
    let (idle, waiter, closing, eof) = conn.state(|state| {
        let waiter = state.empty_waiter.as_ref().filter(|_| state.is_idle()).map(|waiter| waiter.clone_ref(py));
        (state.is_idle(), waiter, state.closing, state.eof)
    });
    if !idle {
        return Ok(());
    }
    if let Some(waiter) = waiter
        && !waiter.bind(py).invoke_method(intern!(py, "done"), ())?.is_truthy()?
    {
        waiter.bind(py).invoke_method(intern!(py, "set_result"), (py.None(),))?;
    }
    if closing {
        close::lost(conn, py.None().bind(py))
    } else if eof {
        close::shutdown(conn)
    } else {
        Ok(())
    }
}

/// The connection cannot send any more.
fn broken(conn: Conn<'_, '_>, error: &io::Error) -> PyResult<()> {
    let py = conn.py();
    let error = errors::os_error(py, error);
    let (waiter, garbage) =
        conn.state(|state| (state.empty_waiter.as_ref().map(|waiter| waiter.clone_ref(py)), state.queue.take_all()));
    drop(garbage);
    close::failed(conn, error.clone_ref(py), "Fatal write error on socket transport")?;
    match waiter {
        Some(waiter) => close::fail(waiter.bind(py), error),
        None => Ok(()),
    }
}

/// Tells the protocol to pause if more waits than the high mark allows.
pub fn pause_if_full(conn: Conn<'_, '_>) -> PyResult<()> {
    if conn.state(|state| state.mark.must_pause(state.queue.len())) {
        return tell_protocol(conn.event_loop, conn.transport, conn.protocol(), "pause_writing");
    }
    Ok(())
}

fn resume_if_drained(conn: Conn<'_, '_>) -> PyResult<()> {
    if conn.state(|state| state.mark.must_resume(state.queue.len())) {
        return tell_protocol(conn.event_loop, conn.transport, conn.protocol(), "resume_writing");
    }
    Ok(())
}
