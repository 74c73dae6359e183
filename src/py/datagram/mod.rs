//! Datagram transports: UDP and Unix sockets. What carries data is native, everything else is asyncio's.
//!
//! The class derives from asyncio's own, whose code makes a transport, keeps what could not be sent, and closes it. Native
//! are the two methods that run for each datagram, `_read_ready` and `sendto`; whatever they find out of the ordinary
//! they leave to asyncio's code. What both sides look at (`_closing`, `_conn_lost`, ...) is kept here and is shown to
//! that code as properties.
//!
//! Each `sendto` is a system call of its own: an error must be told before it returns.
#![forbid(unsafe_code)]

mod names;

use std::io;
use std::os::fd::RawFd;

use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyType};
use zloop_backends::{Interest, SockAddr, attempt};

use super::call::{self, ReadableBuffer};
use super::cell::Guarded;
use super::event_loop::EventLoop;
use super::native::{Args, Method, method};
use super::socket;
use super::transport::{Answer, TransportType, fileno, flag, none};
use super::{address, errors, watch};
use crate::io::ReadSize;
use crate::py::invoke::Invoke;
use crate::sched::{Clocks, System};
use names::Names;

/// So many datagrams are received before other callbacks get their turn; fewer if that takes long.
const BATCH: usize = 16;

/// The native half of a transport.
#[pyclass(name = "Datagram", module = "zloop._zloop", frozen)]
pub struct Datagram {
    fd: RawFd,
    family: i32,
    /// The socket, which knows whether the fd is its own still, and for audit hooks.
    sock: Py<PyAny>,
    event_loop: Py<EventLoop>,
    state: Guarded<State>,
}

/// What changes during the life of a transport, under asyncio's names.
#[derive(Default)]
struct State {
    protocol: Option<Py<PyAny>>,
    /// The only address that may be sent to.
    address: Option<Py<PyAny>>,
    /// The kernel knows the other end.
    connected: bool,
    /// Above zero once `connection_lost` is scheduled; then counts the datagrams that were dropped.
    conn_lost: u32,
    closing: bool,
    paused: bool,
    /// asyncio's code has datagrams that the kernel did not take.
    full: bool,
    names: Names,
}

impl Datagram {
    fn state<R>(&self, py: Python<'_>, body: impl FnOnce(&mut State) -> R) -> R {
        self.state.with(py, body)
    }

    fn protocol<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.state(py, |state| state.protocol.as_ref().map_or_else(|| none(py), |it| it.bind(py).clone()))
    }

    /// Whether the fd is the socket's still. Once the program, or asyncio's code at the end, has closed the socket, the
    /// number may be any other file's.
    #[inline]
    fn is_open(&self, py: Python<'_>) -> PyResult<bool> {
        let fileno = Types::get(py)?.fileno.bind(py);
        Ok(fileno.invoke((self.sock.bind(py),))?.extract::<RawFd>()? == self.fd)
    }

    /// Takes the transport's own handle for one direction out of the loop, if it is there; never that of others who have
    /// the number by now.
    #[cold]
    fn stop_watching(&self, slf: &Bound<'_, PyAny>, direction: Interest) -> PyResult<()> {
        let py = slf.py();
        let method =
            if direction == Interest::READ { intern!(py, "_read_ready") } else { intern!(py, "_sendto_ready") };
        watch::remove_method(self.event_loop.bind(py), self.fd, direction, &slf.getattr(method)?)
    }
}

struct Types {
    transport: TransportType,
    /// asyncio's class, for what is left to it.
    base: Py<PyAny>,
    /// `fileno` of the class below Python's sockets, written in C.
    fileno: Py<PyAny>,
}

impl Types {
    fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static TYPES: PyOnceLock<Types> = PyOnceLock::new();
        TYPES.get_or_try_init(py, || {
            let base = ("selector_events", "_SelectorDatagramTransport");
            let transport = TransportType::make(py, base, "DatagramTransport", "A datagram socket on a zloop loop.")?;
            let class = transport.class(py);
            METHODS.iter().try_for_each(|method| method.install(class))?;
            let property = py.import("builtins")?.getattr("property")?;
            for (name, getter, setter) in &PROPERTIES {
                class.setattr(*name, property.invoke((getter.bind(class)?, setter.bind(class)?))?)?;
            }
            let base = class.getattr("__base__")?.unbind();
            let fileno = py.import("_socket")?.getattr("socket")?.getattr("fileno")?.unbind();
            Ok(Self { transport, base, fileno })
        })
    }
}

fn native<'py>(slf: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Datagram>> {
    Types::get(slf.py())?.transport.native(slf)
}

/// Adds the class to the module, and the method that makes transports to the loop.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("DatagramTransport", Types::get(py)?.transport.class(py))?;
    let event_loop: Bound<'_, PyType> = py.get_type::<EventLoop>();
    MAKE.install(&event_loop)
}

static MAKE: Method = method!(c"_try_datagram_transport", make, c"Make a datagram socket's transport, or None.");

static METHODS: [Method; 3] = [
    method!(c"sendto", send_to, c"Send a datagram, to the address given or to the only one."),
    method!(c"_read_ready", fn() read_ready, c"Receive the datagrams that are there."),
    method!(c"_sendto_ready", fn() sendto_ready, c"Send what the kernel did not take before."),
];

static PROPERTIES: [(&str, Method, Method); 5] = [
    (
        "_protocol",
        method!(c"_get_protocol", fn() get_protocol, c"The protocol, or None once closed."),
        method!(c"_set_protocol", set_protocol, c"Set the protocol."),
    ),
    (
        "_address",
        method!(c"_get_address", fn() get_address, c"The only address that may be sent to, or None."),
        method!(c"_set_address", set_address, c"Set the only address."),
    ),
    (
        "_conn_lost",
        method!(c"_get_conn_lost", fn() get_conn_lost, c"Whether connection_lost() is scheduled, and more."),
        method!(c"_set_conn_lost", set_conn_lost, c"Set that."),
    ),
    (
        "_closing",
        method!(c"_get_closing", fn() get_closing, c"Whether the transport is closing or closed."),
        method!(c"_set_closing", set_closing, c"Set that."),
    ),
    (
        "_paused",
        method!(c"_get_paused", fn() get_paused, c"Whether reading is paused."),
        method!(c"_set_paused", set_paused, c"Set that."),
    ),
];

/// `_try_datagram_transport(sock, protocol, address, waiter, extra)`; None for sockets that are not known here.
fn make<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let py = slf.py();
    let this = slf.cast::<EventLoop>()?;
    let sock = args.get(0).ok_or_else(|| PyTypeError::new_err("a socket is missing"))?;
    this.get().state.with(py, |state| state.has_datagrams = true);
    if !socket::is_plain(&sock)? {
        return Ok(none(py));
    }
    let (fd, family) = (fileno(&sock)?, socket::family_of(&sock)?);
    let (event_loop, state) = (this.clone().unbind(), Guarded::new(State::default()));
    let native = Bound::new(py, Datagram { fd, family, sock: sock.to_owned().unbind(), event_loop, state })?;
    let types = Types::get(py)?;
    let transport = types.transport.instance(native.clone(), None)?;
    args.call(&transport.getattr(intern!(py, "__init__"))?, slf)?;
    let peer = transport.invoke_method(intern!(py, "get_extra_info"), (intern!(py, "peername"),))?;
    let connected = peer.is_truthy()?;
    native.get().state(py, |state| state.connected = connected);
    Ok(transport)
}

/// Receives what is there, at most a batch. An exception of the protocol ends it, as any callback; what is left is
/// reported again.
fn read_ready<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    let py = slf.py();
    let native = native(slf)?;
    let this = native.get();
    let tick = System.coarse();
    for count in 0..BATCH {
        let over = this.state(py, |state| state.conn_lost > 0 || (count > 0 && (state.closing || state.paused)));
        if over || (count > 0 && System.coarse() != tick) {
            break;
        }
        if !this.is_open(py)? {
            // asyncio's selector forgets a file that was closed; not every backend here does.
            this.stop_watching(slf, Interest::READ)?;
            break;
        }
        let received = this.event_loop.get().state.with(py, |owner| {
            let scratch = owner.scratch();
            attempt::recv_from(this.fd, scratch, ReadSize::LARGEST).map(|sender| (PyBytes::new(py, scratch), sender))
        });
        match received {
            Ok((data, sender)) => {
                let sender = this.name(py, &sender)?;
                this.protocol(py).invoke_method(intern!(py, "datagram_received"), (data, sender))?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => this.report(py, &error)?,
        }
    }
    Ok(none(py))
}

/// `sendto(data, addr=None)`.
fn send_to<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let py = slf.py();
    let native = native(slf)?;
    let this = native.get();
    let (Some(data), address) = (args.get(0), args.get(1)) else { return leave_to_asyncio(slf, this, args) };
    if args.len() > 2 || args.has_keywords() {
        return leave_to_asyncio(slf, this, args);
    }
    let (exact, lent);
    let data = if data.is_exact_instance_of::<PyBytes>() {
        exact = data.to_owned().cast_into::<PyBytes>()?;
        exact.as_bytes()
    } else if data.is_instance_of::<PyByteArray>() || data.is_instance_of::<PyMemoryView>() {
        let Ok(buffer) = ReadableBuffer::of(&data) else { return leave_to_asyncio(slf, this, args) };
        lent = buffer;
        lent.as_slice()
    } else {
        return leave_to_asyncio(slf, this, args);
    };
    // Until Python 3.12 empty datagrams are dropped.
    if data.is_empty() && !cfg!(Py_3_13) {
        return leave_to_asyncio(slf, this, args);
    }
    let target = this.target(py, address.as_deref())?;
    if let Target::Address(_, shown) = &target {
        call::audit(c"socket.sendto", this.sock.bind(py), shown)?;
    }
    // Behind all that may run Python code.
    if !this.is_open(py)? {
        return leave_to_asyncio(slf, this, args);
    }
    let sent = match target {
        Target::Connected => attempt::send(this.fd, &[io::IoSlice::new(data)]),
        Target::Address(kernel, _) => attempt::send_to(this.fd, data, &kernel),
        Target::Unknown => return leave_to_asyncio(slf, this, args),
    };
    match sent {
        Ok(_) => Ok(none(py)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => leave_to_asyncio(slf, this, args),
        Err(error) => this.report(py, &error).map(|()| none(py)),
    }
}

/// Where a datagram goes.
enum Target<'py> {
    Connected,
    /// For the kernel, and as Python shows it.
    Address(SockAddr, Bound<'py, PyAny>),
    /// For asyncio's code: the transport is full or closed, or the address is no plain one.
    Unknown,
}

impl Datagram {
    fn target<'py>(&self, py: Python<'py>, given: Option<&Bound<'py, PyAny>>) -> PyResult<Target<'py>> {
        let given = given.filter(|address| !address.is_none());
        let (busy, connected, only) = self.state(py, |state| {
            let only = state.address.as_ref().map(|only| only.bind(py).clone());
            (state.full || state.conn_lost > 0, state.connected, only)
        });
        if busy {
            return Ok(Target::Unknown);
        }
        if let (Some(only), Some(given)) = (&only, given)
            && !given.is(only)
            && !given.eq(only)?
        {
            return Ok(Target::Unknown);
        }
        if connected {
            return Ok(Target::Connected);
        }
        let Some(shown) = only.or_else(|| given.cloned()) else { return Ok(Target::Unknown) };
        let known = self.state(py, |state| state.names.kernel_address(&shown));
        let kernel = known.or_else(|| address::from_python(&shown, self.family));
        Ok(kernel.map_or(Target::Unknown, |kernel| Target::Address(kernel, shown)))
    }

    /// A sender's address as Python shows it; those that come often are made once.
    fn name<'py>(&self, py: Python<'py>, sender: &SockAddr) -> PyResult<Bound<'py, PyAny>> {
        if let Some(name) = self.state(py, |state| state.names.python_address(py, sender)) {
            return Ok(name);
        }
        let name = address::to_python(py, sender)?;
        let kept = name.clone().unbind();
        let _old = self.state(py, |state| state.names.remember(*sender, kept));
        Ok(name)
    }

    /// Tells the protocol of an error, which leaves the transport open.
    #[cold]
    fn report(&self, py: Python<'_>, error: &io::Error) -> PyResult<()> {
        let error = errors::os_error(py, error).into_value(py);
        self.protocol(py).invoke_method(intern!(py, "error_received"), (error,)).map(drop)
    }
}

/// `super().sendto(...)`, which may keep the datagram. After the end of a transport it stumbles over the missing socket;
/// then the datagram is dropped, as a stream drops what is written.
#[cold]
fn leave_to_asyncio<'py>(slf: &Bound<'py, PyAny>, this: &Datagram, args: Args<'_, 'py>) -> Answer<'py> {
    let py = slf.py();
    let base = Types::get(py)?.base.bind(py).getattr(intern!(py, "sendto"))?;
    // It may keep the datagram and call `pause_writing()`, and what that sends goes behind it.
    this.state(py, |state| state.full = true);
    let sent = args.call(&base, slf);
    look_for_room(slf, this)?;
    match sent {
        Err(error) if error.is_instance_of::<PyAttributeError>(py) && slf.getattr(intern!(py, "_sock"))?.is_none() => {
            Ok(none(py))
        }
        sent => sent,
    }
}

fn sendto_ready<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    let py = slf.py();
    let native = native(slf)?;
    let this = native.get();
    let sent = Types::get(py)?.base.bind(py).invoke_method(intern!(py, "_sendto_ready"), (slf,));
    look_for_room(slf, this)?;
    sent
}

/// Notes whether asyncio's code has datagrams that wait. Behind the end none does: that code tries even then, waits for
/// room, and does not stop when the socket is closed.
fn look_for_room(slf: &Bound<'_, PyAny>, this: &Datagram) -> PyResult<()> {
    let py = slf.py();
    let buffer = slf.getattr(intern!(py, "_buffer"))?;
    let over = this.state(py, |state| state.conn_lost > 0) || slf.getattr(intern!(py, "_sock"))?.is_none();
    if over {
        buffer.invoke_method(intern!(py, "clear"), ())?;
        this.stop_watching(slf, Interest::WRITE)?;
    }
    let full = buffer.is_truthy()?;
    this.state(py, |state| state.full = full);
    Ok(())
}

/// Shows an object of the state, or None.
fn show<'py>(slf: &Bound<'py, PyAny>, pick: impl FnOnce(&State) -> &Option<Py<PyAny>>) -> Answer<'py> {
    let py = slf.py();
    Ok(native(slf)?.get().state(py, |state| pick(state).as_ref().map_or_else(|| none(py), |it| it.bind(py).clone())))
}

/// Changes the state by the argument of a setter. What was there is dropped outside.
fn set<'py, T>(
    slf: &Bound<'py, PyAny>,
    args: Args<'_, 'py>,
    read: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
    change: impl FnOnce(&mut State, T) -> T,
) -> Answer<'py> {
    let py = slf.py();
    let value = args.get(0).ok_or_else(|| PyTypeError::new_err("a value is missing"))?;
    let value = read(&value)?;
    let _old = native(slf)?.get().state(py, |state| change(state, value));
    Ok(none(py))
}

fn object(value: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
    Ok((!value.is_none()).then(|| value.clone().unbind()))
}

fn get_protocol<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    show(slf, |state| &state.protocol)
}

fn set_protocol<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    set(slf, args, object, |state, value| std::mem::replace(&mut state.protocol, value))
}

fn get_address<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    show(slf, |state| &state.address)
}

fn set_address<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let truthy = |value: &Bound<'py, PyAny>| if value.is_truthy()? { object(value) } else { Ok(None) };
    set(slf, args, truthy, |state, value| std::mem::replace(&mut state.address, value))
}

fn get_conn_lost<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    let py = slf.py();
    Ok(native(slf)?.get().state(py, |state| state.conn_lost).into_pyobject(py)?.into_any())
}

fn set_conn_lost<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    set(slf, args, |value| value.extract(), |state, value| std::mem::replace(&mut state.conn_lost, value))
}

fn get_closing<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    Ok(flag(slf.py(), native(slf)?.get().state(slf.py(), |state| state.closing)))
}

fn set_closing<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    set(slf, args, |value| value.is_truthy(), |state, value| std::mem::replace(&mut state.closing, value))
}

fn get_paused<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    Ok(flag(slf.py(), native(slf)?.get().state(slf.py(), |state| state.paused)))
}

fn set_paused<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    set(slf, args, |value| value.is_truthy(), |state, value| std::mem::replace(&mut state.paused, value))
}

#[pymethods]
impl Datagram {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        visit.call(&self.sock)?;
        self.state
            .try_with(|state| {
                [&state.protocol, &state.address].into_iter().flatten().try_for_each(|object| visit.call(object))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        let garbage = self.state.try_with(|state| (state.protocol.take(), state.address.take()));
        drop(garbage);
    }
}
