//! Pipe transports: pipes, FIFOs, sockets, terminals and other character devices, one direction each.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the two classes, making a transport, closing it |
//! | `read.rs` | from the file to the protocol |
//! | `write.rs` | from `write()` to the file, with flow control |
//!
//! The classes derive from asyncio's pipe transports: `repr` and the warning about a transport that was never closed are
//! theirs. State lives in one native object; what that code asks for (`_pipe`, `_closing`, ...) are properties. As on
//! asyncio, files are watched like those of `add_reader`: by level, so that terminals, which give one line at a time, and
//! packets need no special care, and so that two transports can share a terminal.
#![forbid(unsafe_code)]

mod read;
mod write;

use std::io;
use std::os::fd::RawFd;

use pyo3::exceptions::{PyAttributeError, PyRuntimeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};
use zloop_backends::{FileKind, Interest, set_nonblocking};

use super::cell::Guarded;
use super::event_loop::EventLoop;
use super::native::{Args, Method, method};
use super::state::Waiter;
use super::transport::{Answer, TransportType, explain, fileno, flag, none, required};
use super::{call, context, errors, watch};
use crate::io::{ReadSize, Watermark, WriteQueue};
use crate::py::invoke::Invoke;

pub use write::flush_written;

/// The native half of a pipe transport of either direction.
#[pyclass(name = "Pipe", module = "zloop._zloop", frozen)]
pub struct Pipe {
    fd: RawFd,
    event_loop: Py<EventLoop>,
    state: Guarded<State>,
}

/// What changes during the life of a transport.
struct State {
    /// The Python object that owns the fd; none once closed.
    pipe: Option<Py<PyAny>>,
    protocol: Option<Py<PyAny>>,
    closing: bool,
    /// `connection_lost` is scheduled.
    ended: bool,

    paused: bool,
    read_size: ReadSize,

    /// That of the transport's creation; what was gathered is written in it.
    context: Py<PyAny>,
    queue: WriteQueue<PyBackedBytes>,
    mark: Watermark,
    /// Each `write()` is a packet, or something else that must neither wait for others nor be joined with them.
    records: bool,
    /// On the loop's list of transports to flush.
    dirty: bool,
    /// The kernel would take no more; the file is watched for room.
    blocked: bool,
    /// Above zero once a write has failed; then counts the writes that were dropped.
    conn_lost: u32,
}

/// A transport with its parts at hand: what the functions of this module work on.
#[derive(Clone, Copy)]
struct End<'a, 'py> {
    transport: &'a Bound<'py, PyAny>,
    native: &'a Bound<'py, Pipe>,
    event_loop: &'a Bound<'py, EventLoop>,
}

impl<'py> End<'_, 'py> {
    fn py(self) -> Python<'py> {
        self.transport.py()
    }

    fn fd(self) -> RawFd {
        self.native.get().fd
    }

    fn state<R>(self, body: impl FnOnce(&mut State) -> R) -> R {
        self.native.get().state.with(self.py(), body)
    }

    fn protocol(self) -> Option<Bound<'py, PyAny>> {
        self.state(|state| state.protocol.as_ref().map(|protocol| protocol.bind(self.py()).clone()))
    }

    fn is_debug(self) -> bool {
        self.event_loop.get().is_debug()
    }

    /// Whether the fd is the file's still. Once the program has closed the file, the number may be any other's.
    fn is_open(self) -> PyResult<bool> {
        let Some(pipe) = self.state(|state| state.pipe.as_ref().map(|pipe| pipe.bind(self.py()).clone())) else {
            return Ok(false);
        };
        match fileno(&pipe) {
            Ok(fd) => Ok(fd == self.fd()),
            Err(error) if call::escapes(self.py(), &error) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Has `transport.<method>()` called whenever the file is ready in this direction.
    fn watch(self, direction: Interest, method: &str) -> PyResult<()> {
        let fd = self.fd().into_pyobject(self.py())?.into_any();
        let callback = self.transport.getattr(method)?;
        let none = PyTuple::empty(self.py());
        watch::add(self.event_loop, &fd, direction, (callback, none, None), Waiter::Transport).map(drop)
    }

    fn unwatch(self, direction: Interest) -> PyResult<()> {
        let fd = self.fd().into_pyobject(self.py())?.into_any();
        watch::remove(self.event_loop, &fd, direction).map(drop)
    }

    /// Takes the transport's own watch out; never that of others who have the number by now.
    fn stop_watching(self, direction: Interest) -> PyResult<()> {
        if self.is_open()? {
            return self.unwatch(direction);
        }
        let method =
            self.transport.getattr(if direction == Interest::READ { "_read_ready" } else { "_write_ready" })?;
        watch::remove_method(self.event_loop, self.fd(), direction, &method)
    }

    fn call_soon(self, method: &str, args: Bound<'py, PyTuple>) -> PyResult<()> {
        EventLoop::call_soon(self.event_loop, self.transport.getattr(method)?, args, None).map(drop)
    }

    /// The kernel refused: closes the transport, and says why, unless that is an ordinary end (`quiet`).
    fn fatal(self, error: &io::Error, message: &str, quiet: bool) -> PyResult<()> {
        let error = errors::os_error(self.py(), error);
        explain(self.event_loop, (self.transport, self.protocol()), (&error, message), quiet)?;
        close(self, error.value(self.py()).as_any())
    }
}

/// Runs `body` on a transport of either direction.
fn with_end<'py, R>(transport: &Bound<'py, PyAny>, body: impl FnOnce(End<'_, 'py>) -> PyResult<R>) -> PyResult<R> {
    let types = Types::get(transport.py())?;
    let kind = if types.reader.holds(transport) { &types.reader } else { &types.writer };
    let native = kind.native::<Pipe>(transport)?;
    let event_loop = native.get().event_loop.bind(transport.py());
    body(End { transport, native: &native, event_loop })
}

/// Runs `body` and answers None.
fn act<'py>(slf: &Bound<'py, PyAny>, body: impl FnOnce(End<'_, 'py>) -> PyResult<()>) -> Answer<'py> {
    with_end(slf, body)?;
    Ok(none(slf.py()))
}

struct Types {
    reader: TransportType,
    writer: TransportType,
}

impl Types {
    fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static TYPES: PyOnceLock<Types> = PyOnceLock::new();
        TYPES.get_or_try_init(py, || {
            let base = ("unix_events", "_UnixReadPipeTransport");
            let reader =
                TransportType::make(py, base, "ReadPipeTransport", "The reading end of a pipe on a zloop loop.")?;
            let base = ("unix_events", "_UnixWritePipeTransport");
            let writer =
                TransportType::make(py, base, "WritePipeTransport", "The writing end of a pipe on a zloop loop.")?;
            for (class, methods) in [(reader.class(py), &read::METHODS[..]), (writer.class(py), &write::METHODS[..])] {
                methods.iter().chain(&SHARED).try_for_each(|method| method.install(class))?;
                let property = py.import("builtins")?.getattr("property")?;
                for (name, getter) in &PROPERTIES {
                    class.setattr(*name, property.invoke((getter.bind(class)?,))?)?;
                }
                class.setattr("_pipe", property.invoke((PIPE[0].bind(class)?, PIPE[1].bind(class)?))?)?;
            }
            Ok(Self { reader, writer })
        })
    }
}

/// Adds the classes to the module, and the methods that make transports to the loop.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let types = Types::get(py)?;
    module.add("ReadPipeTransport", types.reader.class(py))?;
    module.add("WritePipeTransport", types.writer.class(py))?;
    let event_loop: Bound<'_, PyType> = py.get_type::<EventLoop>();
    LOOP_METHODS.iter().try_for_each(|method| method.install(&event_loop))
}

static LOOP_METHODS: [Method; 2] = [
    method!(c"_make_read_pipe_transport", make_reader, c"Make the transport of a pipe's reading end."),
    method!(c"_make_write_pipe_transport", make_writer, c"Make the transport of a pipe's writing end."),
];

fn make_reader<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    make(slf, args, &Types::get(slf.py())?.reader, |kind| match kind {
        FileKind::Other => Err("Pipe transport is for pipes/sockets only."),
        _ => Ok(Some("_start_reading")),
    })
}

fn make_writer<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    make(slf, args, &Types::get(slf.py())?.writer, |kind| match kind {
        FileKind::Other => Err("Pipe transport is only for pipes, sockets and character devices"),
        // A terminal would report what is typed there.
        FileKind::Character => Ok(None),
        // Apple's kernels report unread bytes in a FIFO with a name as if its reader were gone, and never that it is.
        FileKind::Pipe { named: true } if cfg!(target_vendor = "apple") => Ok(None),
        FileKind::Pipe { .. } | FileKind::Socket => Ok(Some("_start_watching")),
    })
}

/// Makes a transport and schedules its start, in asyncio's order: `connection_made`, watching, the waiter. `first` names
/// the method that begins to watch a file of this kind, or says why it is refused.
fn make<'py>(
    slf: &Bound<'py, PyAny>,
    args: Args<'_, 'py>,
    class: &'static TransportType,
    first: impl FnOnce(FileKind) -> Result<Option<&'static str>, &'static str>,
) -> Answer<'py> {
    let py = slf.py();
    let this = slf.cast::<EventLoop>()?;
    this.get().check_open()?;
    EventLoop::check_thread(this)?;
    let pipe = required(args, "_make_pipe_transport", "pipe")?;
    let missing = || PyTypeError::new_err("_make_pipe_transport() missing 1 required positional argument: 'protocol'");
    let protocol = args.named(1, "protocol").ok_or_else(missing)?;
    let extra = match args.named(3, "extra").filter(|extra| !extra.is_none()) {
        Some(extra) => extra.to_owned(),
        None => PyDict::new(py).into_any(),
    };
    extra.set_item(intern!(py, "pipe"), &*pipe)?;
    let fd: RawFd = fileno(&pipe)?;
    let kind = FileKind::of(fd).map_err(|error| errors::os_error(py, &error))?;
    let first = first(kind).map_err(pyo3::exceptions::PyValueError::new_err)?;
    set_nonblocking(fd).map_err(|error| errors::os_error(py, &error))?;
    let state = State::new(&pipe, &protocol, kind.has_records(fd), context::copy(py)?.unbind());
    let native = Bound::new(py, Pipe { fd, event_loop: this.clone().unbind(), state: Guarded::new(state) })?;
    let transport = class.instance(native, Some(extra))?;
    let made = protocol.getattr(intern!(py, "connection_made"))?;
    EventLoop::call_soon(this, made, PyTuple::new(py, [&transport])?, None)?;
    if let Some(first) = first {
        EventLoop::call_soon(this, transport.getattr(first)?, PyTuple::empty(py), None)?;
    }
    if let Some(waiter) = args.named(2, "waiter").filter(|waiter| !waiter.is_none()) {
        let set = py.import("asyncio.futures")?.getattr(intern!(py, "_set_result_unless_cancelled"))?;
        EventLoop::call_soon(this, set, (waiter, py.None()).into_pyobject(py)?, None)?;
    }
    Ok(transport)
}

impl State {
    fn new(pipe: &Bound<'_, PyAny>, protocol: &Bound<'_, PyAny>, records: bool, context: Py<PyAny>) -> Self {
        Self {
            pipe: Some(pipe.clone().unbind()),
            protocol: Some(protocol.clone().unbind()),
            closing: false,
            ended: false,
            paused: false,
            read_size: ReadSize::default(),
            context,
            queue: WriteQueue::default(),
            mark: Watermark::default(),
            records,
            dirty: false,
            blocked: false,
            conn_lost: 0,
        }
    }
}

static SHARED: [Method; 5] = [
    method!(c"is_closing", fn() is_closing, c"Whether the transport is closing or closed."),
    method!(c"set_protocol", set_protocol, c"Change the protocol."),
    method!(c"get_protocol", fn() get_protocol, c"The current protocol."),
    method!(c"_close", close_for, c"Close at once because of an exception, or because of None."),
    method!(c"_call_connection_lost", call_connection_lost, c"Tell the protocol, then close the file."),
];

static PIPE: [Method; 2] = [
    method!(c"_get_pipe", fn() get_pipe, c"The file, or None once closed."),
    method!(c"_set_pipe", set_pipe, c"Forget the file, for whoever has closed it; it can only be set to None."),
];

static PROPERTIES: [(&str, Method); 6] = [
    ("_fileno", method!(c"_get_fileno", fn() get_fileno, c"The file's fd, or what it was.")),
    ("_loop", method!(c"_get_loop", fn() get_loop, c"The loop, or None once closed.")),
    ("_protocol", method!(c"_get_protocol", fn() get_protocol, c"The protocol, or None once closed.")),
    ("_closing", method!(c"_get_closing", fn() is_closing, c"Whether the transport is closing or closed.")),
    ("_paused", method!(c"_get_paused", fn() get_paused, c"Whether reading is paused.")),
    ("_conn_lost", method!(c"_get_conn_lost", fn() get_conn_lost, c"Whether a write has failed, and more.")),
];

fn is_closing<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_end(slf, |end| Ok(flag(end.py(), end.state(|state| state.closing))))
}

fn set_protocol<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let protocol = required(args, "set_protocol", "protocol")?.to_owned().unbind();
    act(slf, |end| {
        let _old = end.state(|state| state.protocol.replace(protocol));
        Ok(())
    })
}

fn get_protocol<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_end(slf, |end| Ok(end.protocol().unwrap_or_else(|| none(end.py()))))
}

fn get_pipe<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    let pipe = with_end(slf, |end| Ok(end.state(|state| state.pipe.as_ref().map(|pipe| pipe.bind(end.py()).clone()))));
    match pipe {
        // Half-made, as a debugger or a finalizer may see it.
        Err(error) if error.is_instance_of::<PyRuntimeError>(slf.py()) => Ok(none(slf.py())),
        pipe => Ok(pipe?.unwrap_or_else(|| none(slf.py()))),
    }
}

fn set_pipe<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    if args.get(0).is_none_or(|value| !value.is_none()) {
        return Err(PyAttributeError::new_err("_pipe can only be set to None"));
    }
    act(slf, |end| {
        // What was written before has been written by now on asyncio.
        write::flush(end)?;
        let _pipe = end.state(|state| state.pipe.take());
        Ok(())
    })
}

fn get_fileno<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_end(slf, |end| Ok(end.fd().into_pyobject(end.py())?.into_any()))
}

fn get_loop<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_end(slf, |end| {
        let open = end.state(|state| state.pipe.is_some());
        Ok(if open { end.event_loop.clone().into_any() } else { none(end.py()) })
    })
}

fn get_paused<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_end(slf, |end| Ok(flag(end.py(), end.state(|state| state.paused))))
}

fn get_conn_lost<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_end(slf, |end| Ok(end.state(|state| state.conn_lost).into_pyobject(end.py())?.into_any()))
}

fn close_for<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let error = args.named(0, "exc").map_or_else(|| none(slf.py()), |error| error.to_owned());
    act(slf, |end| close(end, &error))
}

/// Stops reading and writing, gives up what has not left, and schedules `connection_lost`, once.
fn close(end: End<'_, '_>, error: &Bound<'_, PyAny>) -> PyResult<()> {
    EventLoop::check_thread(end.event_loop)?;
    let (blocked, first, _garbage) = end.state(|state| {
        state.closing = true;
        let first = !std::mem::replace(&mut state.ended, true);
        (std::mem::take(&mut state.blocked), first, state.queue.take_all())
    });
    if blocked {
        end.stop_watching(Interest::WRITE)?;
    }
    end.stop_watching(Interest::READ)?;
    if !first {
        return Ok(());
    }
    let told = end.call_soon("_call_connection_lost", PyTuple::new(end.py(), [error])?);
    // Refused, as on a closed loop, it is refused again to who asks again.
    told.inspect_err(|_| end.state(|state| state.ended = false))
}

fn call_connection_lost<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let error = required(args, "_call_connection_lost", "exc")?;
    act(slf, |end| lost(end, &error))
}

/// Tells the protocol, then closes the file and lets go of everything, whatever the protocol did.
fn lost(end: End<'_, '_>, error: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = end.py();
    let told = match end.protocol() {
        Some(protocol) => protocol.invoke_method(intern!(py, "connection_lost"), (error,)).map(drop),
        None => Ok(()),
    };
    let (pipe, _garbage) = end.state(|state| {
        state.ended = true;
        (state.pipe.take(), (state.protocol.take(), state.queue.take_all()))
    });
    let closed = pipe.map_or(Ok(()), |pipe| pipe.bind(py).invoke_method(intern!(py, "close"), ()).map(drop));
    told.and(closed)
}

#[pymethods]
impl Pipe {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        self.state
            .try_with(|state| {
                visit.call(&state.context)?;
                [&state.pipe, &state.protocol].into_iter().flatten().try_for_each(|object| visit.call(object))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        let garbage = self.state.try_with(|state| (state.pipe.take(), state.protocol.take()));
        drop(garbage);
    }
}
