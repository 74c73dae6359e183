//! Sending: what one callback writes to a pipe is gathered and leaves together when the callback returns, as on streams.
//! What makes a packet of each call, and terminals and other devices, get each `write()` at once and by itself.

use std::io::{self, IoSlice};

use pyo3::exceptions::PyBrokenPipeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use zloop_backends::{Interest, MAX_SLICES, attempt};

use super::super::event_loop::EventLoop;
use super::super::native::{Args, Method, method};
use super::super::transport::{Answer, SILENT_DROPS, exact_bytes, log, none, required, set_limits, tell_protocol};
use super::super::{context, run};
use super::{End, State, Types, act, close, lost, with_end};
use crate::py::invoke::Invoke;

pub static METHODS: [Method; 11] = [
    method!(c"write", write_data, c"Write some data; it is sent when the callback that wrote it returns."),
    method!(c"write_eof", fn() write_eof, c"Close once all data has left."),
    method!(c"close", fn() close_writer, c"Close once all data has left."),
    method!(c"abort", fn() abort, c"Close at once; data that the kernel does not have yet is lost."),
    method!(c"get_extra_info", get_extra_info, c"What is known of the file."),
    method!(c"get_write_buffer_size", fn() get_write_buffer_size, c"How many bytes the kernel has not taken."),
    method!(c"get_write_buffer_limits", fn() get_write_buffer_limits, c"The marks of flow control: (low, high), in bytes."),
    method!(c"set_write_buffer_limits", set_write_buffer_limits, c"Set the marks of flow control, in bytes."),
    method!(c"_start_watching", fn() start_watching, c"connection_made() has been called."),
    method!(c"_read_ready", fn() reader_gone, c"The reader has gone away."),
    method!(c"_write_ready", fn() write_ready, c"The kernel takes bytes again."),
];

fn write_data<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let data = required(args, "write", "data")?;
    act(slf, |end| {
        let data = exact_bytes(&data, ("unix_events", "_UnixWritePipeTransport"))?;
        if data.as_bytes().is_empty() || drops(end)? {
            return Ok(());
        }
        let data = PyBackedBytes::from(data);
        end.state(|state| state.queue.push(data));
        added(end)
    })
}

/// Whether a write comes too late and is dropped, as asyncio does: silently at first, then with a warning.
fn drops(end: End<'_, '_>) -> PyResult<bool> {
    let (late, drops) = end.state(|state| {
        let late = state.conn_lost > 0 || state.closing;
        let drops = state.conn_lost;
        state.conn_lost += u32::from(late);
        (late, drops)
    });
    if late && drops >= SILENT_DROPS {
        log(end.py(), "warning", ("pipe closed by peer or os.write(pipe, data) raised exception.",))?;
    }
    Ok(late)
}

/// Bytes were added to the queue: writes them now, or at the end of the callback if there are few of them and they may be
/// joined with others.
fn added(end: End<'_, '_>) -> PyResult<()> {
    let core = end.event_loop.get();
    let (now, later) = end.state(|state| {
        let now = state.records || state.queue.is_large(state.mark.high()) || !core.holds_writes();
        let later = !now && !state.blocked && !std::mem::replace(&mut state.dirty, true);
        (now, later.then(|| state.queue.len()))
    });
    if let Some(bytes) = later {
        core.mark_dirty(end.py(), end.transport.clone().unbind(), bytes);
        return Ok(());
    }
    if now {
        flush(end)?;
    }
    pause_if_full(end)
}

/// Writes what the last callback has left to be written, if this is a pipe; says whether it is. It may stay `listed` among
/// those to flush.
pub fn flush_written(transport: &Bound<'_, PyAny>, listed: bool) -> PyResult<bool> {
    let py = transport.py();
    if !Types::get(py)?.writer.holds(transport) {
        return Ok(false);
    }
    with_end(transport, |end| {
        let (context, unwatched) = end.state(|state| {
            state.dirty &= listed;
            (state.context.bind(py).clone(), state.blocked && !state.queue.is_empty())
        });
        let outcome = context::run(&context, || {
            // Another thread could not have it watched. If it is watched already, that does no harm.
            if unwatched { end.watch(Interest::WRITE, "_write_ready") } else { flush(end) }
        });
        // Like any callback's, an exception must not end the loop.
        outcome.or_else(|error| run::report(end.event_loop, "WritePipeTransport._flush()", error))
    })?;
    Ok(true)
}

/// Hands the queue to the kernel as far as it takes it, and has the file watched if that is not all.
pub fn flush(end: End<'_, '_>) -> PyResult<()> {
    if end.state(|state| state.blocked || state.queue.is_empty()) {
        return Ok(());
    }
    match put_all(end)? {
        Ok(true) => Ok(()),
        Ok(false) => {
            end.state(|state| state.blocked = true);
            end.watch(Interest::WRITE, "_write_ready").or_else(|error| leave_to_loop(end, error))
        }
        Err(error) => broken(end, &error),
    }
}

/// Writes what is in the queue; false if the kernel has no room for all of it. Never to others who have the number by now:
/// the program may have closed the file since it wrote.
fn put_all(end: End<'_, '_>) -> PyResult<io::Result<bool>> {
    if !end.is_open()? {
        return Ok(Err(io::Error::from_raw_os_error(libc::EBADF)));
    }
    Ok(end.state(|state| {
        while !state.queue.is_empty() {
            if !put(end, state)? {
                return Ok(false);
            }
        }
        Ok(true)
    }))
}

/// Another thread writes, which it should not, while the loop waits: the loop wakes up, and has the file watched.
#[cold]
fn leave_to_loop(end: End<'_, '_>, error: PyErr) -> PyResult<()> {
    let core = end.event_loop.get();
    if !core.runs() || core.runs_here() {
        // It cannot be watched, or the loop is closed: as on asyncio, what has not left is not kept.
        let _garbage = end.state(|state| {
            state.blocked = false;
            state.queue.take_all()
        });
        return Err(error);
    }
    if !end.state(|state| std::mem::replace(&mut state.dirty, true)) {
        core.mark_dirty(end.py(), end.transport.clone().unbind(), 0);
    }
    Ok(())
}

/// Writes the head of a queue that is not empty; false if the kernel has no room for more.
fn put(end: End<'_, '_>, state: &mut State) -> io::Result<bool> {
    let mut one = [IoSlice::new(&[])];
    let mut many;
    let room: &mut [IoSlice<'_>] = if state.records || state.queue.buffers() == 1 {
        &mut one
    } else {
        many = [IoSlice::new(&[]); MAX_SLICES];
        &mut many
    };
    let count = state.queue.gather(room);
    let size: usize = room[..count].iter().map(|slice| slice.len()).sum();
    match attempt::write(end.fd(), &room[..count]) {
        Ok(written) => {
            // Plain bytes: dropping them runs no code.
            state.queue.advance(written, drop);
            Ok(written == size)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// The file cannot take any more.
fn broken(end: End<'_, '_>, error: &io::Error) -> PyResult<()> {
    let _garbage = end.state(|state| {
        state.conn_lost += 1;
        state.queue.take_all()
    });
    end.fatal(error, "Fatal write error on pipe transport", true)
}

fn write_ready<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |end| {
        if let Err(error) = put_all(end)? {
            return broken(end, &error);
        }
        let (empty, resume, closing) = end.state(|state| {
            let empty = state.queue.is_empty();
            state.blocked &= !empty;
            (empty, empty && state.mark.must_resume(0), state.closing)
        });
        if !empty {
            return Ok(());
        }
        end.unwatch(Interest::WRITE)?;
        if resume {
            tell_protocol(end.event_loop, end.transport, end.protocol(), "resume_writing")?;
        }
        if !closing {
            return Ok(());
        }
        end.unwatch(Interest::READ)?;
        lost(end, &none(end.py()))
    })
}

fn pause_if_full(end: End<'_, '_>) -> PyResult<()> {
    if end.state(|state| state.mark.must_pause(state.queue.len())) {
        return tell_protocol(end.event_loop, end.transport, end.protocol(), "pause_writing");
    }
    Ok(())
}

fn start_watching<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |end| if end.state(|state| state.closing) { Ok(()) } else { end.watch(Interest::READ, "_read_ready") })
}

/// The file is readable, which for a writing end means that nobody reads any more.
fn reader_gone<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |end| {
        let py = end.py();
        if end.is_debug() {
            log(py, "info", ("%r was closed by peer", end.transport))?;
        }
        if end.state(|state| state.queue.is_empty()) {
            close(end, &none(py))
        } else {
            close(end, PyBrokenPipeError::new_err(()).value(py).as_any())
        }
    })
}

fn write_eof<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, finish)
}

fn close_writer<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |end| if end.state(|state| state.pipe.is_some()) { finish(end) } else { Ok(()) })
}

/// Closes once all data has left.
fn finish(end: End<'_, '_>) -> PyResult<()> {
    if !end.state(|state| state.closing) {
        EventLoop::check_thread(end.event_loop)?;
    }
    flush(end)?;
    let (first, empty) = end.state(|state| {
        let first = !std::mem::replace(&mut state.closing, true);
        (first, state.queue.is_empty())
    });
    if first && empty { close(end, &none(end.py())) } else { Ok(()) }
}

fn abort<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |end| {
        // What was written before has been written by now on asyncio.
        flush(end)?;
        close(end, &none(end.py()))
    })
}

fn get_extra_info<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let py = slf.py();
    let name = required(args, "WritePipeTransport.get_extra_info", "name")?;
    if name.eq(intern!(py, "pipe"))? {
        // Who asks for the file may write to it, or give it to a child: behind what was written before.
        with_end(slf, flush)?;
    }
    Types::get(py)?.writer.extra(slf)?.invoke_method(intern!(py, "get"), (name, args.named(1, "default")))
}

fn get_write_buffer_size<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_end(slf, |end| {
        flush(end)?;
        Ok(end.state(|state| state.queue.len()).into_pyobject(end.py())?.into_any())
    })
}

fn get_write_buffer_limits<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_end(slf, |end| Ok(end.state(|state| state.mark.limits()).into_pyobject(end.py())?.into_any()))
}

fn set_write_buffer_limits<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    act(slf, |end| {
        set_limits(args, |(high, low)| end.state(|state| state.mark.set(high, low)))?;
        flush(end)?;
        pause_if_full(end)
    })
}
