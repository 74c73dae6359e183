//! `SSLTransport`, what the program sees: a subclass of asyncio's own class, so that `isinstance` says what it did.
//!
//! Every method is native. The state is that of the protocol, in a slot.
#![forbid(unsafe_code)]

use pyo3::exceptions::{PyNotImplementedError, PyResourceWarning};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use super::super::native::{Args, Method, method};
use super::super::transport::{Answer, TransportType, exact_bytes, flag, none, required, set_limits, warn};
use super::{Session, TlsProtocol, read, shutdown, write};
use crate::py::invoke::Invoke;

static METHODS: [Method; 22] = [
    method!(c"get_extra_info", get_extra_info, c"What is known of the session, or of the socket."),
    method!(c"set_protocol", set_protocol, c"Change the protocol, of either kind."),
    method!(c"get_protocol", fn() get_protocol, c"The current protocol."),
    method!(c"is_closing", fn() is_closing, c"Whether the transport is closing or closed."),
    method!(c"close", fn() close, c"Announce the end and close once all data has left and the peer has answered."),
    method!(c"abort", fn() abort, c"Close at once; data that the kernel does not have yet is lost."),
    method!(c"_force_close", force_close, c"Close at once because of an exception."),
    method!(c"is_reading", fn() is_reading, c"Whether the protocol gets data."),
    method!(c"pause_reading", fn() pause_reading, c"Give the protocol no data until resume_reading()."),
    method!(c"resume_reading", fn() resume_reading, c"Give the protocol data again."),
    method!(c"write", write_data, c"Write some data; it is sent when the callback that wrote it returns."),
    method!(c"writelines", writelines, c"Write a list (or any iterable) of data."),
    method!(c"write_eof", fn() write_eof, c"Not possible: TLS has no half-closed connections in asyncio."),
    method!(c"can_write_eof", fn() can_write_eof, c"False: TLS transports cannot."),
    method!(c"set_write_buffer_limits", set_write_limits, c"Set the marks of flow control for writing, in bytes."),
    method!(c"get_write_buffer_limits", fn() get_write_limits, c"The marks for writing: (low, high), in bytes."),
    method!(c"get_write_buffer_size", fn() get_write_size, c"How many bytes the transport below has not taken."),
    method!(c"set_read_buffer_limits", set_read_limits, c"Set the marks of flow control for reading, in bytes."),
    method!(c"get_read_buffer_limits", fn() get_read_limits, c"The marks for reading: (low, high), in bytes."),
    method!(c"get_read_buffer_size", fn() get_read_size, c"How many received bytes have not been looked at."),
    method!(c"_test__append_write_backlog", append_backlog, c"For asyncio's own tests."),
    method!(c"__del__", fn() del, c"Warns about a transport that was never closed."),
];

static PROPERTIES: [(&str, Method); 3] = [
    ("_ssl_protocol", method!(c"_get_ssl_protocol", fn() get_ssl_protocol, c"The protocol of the transport below.")),
    ("_closed", method!(c"_get_closed", fn() get_closed, c"Whether the program has closed it, or cannot any more.")),
    ("_protocol_paused", method!(c"_get_protocol_paused", fn() get_protocol_paused, c"Whether writing is paused.")),
];

/// The transport class.
fn transport_type(py: Python<'_>) -> PyResult<&'static TransportType> {
    static TYPE: PyOnceLock<TransportType> = PyOnceLock::new();
    TYPE.get_or_try_init(py, || {
        let base = ("sslproto", "_SSLProtocolTransport");
        let made = TransportType::make(py, base, "SSLTransport", "A TLS connection on a zloop loop.")?;
        let class = made.class(py);
        METHODS.iter().try_for_each(|method| method.install(class))?;
        let property = py.import("builtins")?.getattr("property")?;
        for (name, getter) in &PROPERTIES {
            class.setattr(*name, property.invoke((getter.bind(class)?,))?)?;
        }
        Ok(made)
    })
}

/// Whether this is such a transport.
pub fn is_native(transport: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(transport_type(transport.py())?.holds(transport))
}

/// Adds both classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<TlsProtocol>()?;
    module.add("SSLTransport", transport_type(module.py())?.class(module.py()))
}

/// The program's transport for a session.
pub fn create<'py>(protocol: &Bound<'py, TlsProtocol>, extra: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = protocol.py();
    let transport = transport_type(py)?.instance(protocol.clone(), Some(extra))?;
    transport.setattr(intern!(py, "_loop"), Session(protocol).event_loop())?;
    Ok(transport)
}

/// Runs `body` on the session of a transport.
fn with<'py, R>(slf: &Bound<'py, PyAny>, body: impl FnOnce(Session<'_, 'py>) -> PyResult<R>) -> PyResult<R> {
    body(Session(&transport_type(slf.py())?.native(slf)?))
}

/// Runs `body` and answers None.
fn act<'py>(slf: &Bound<'py, PyAny>, body: impl FnOnce(Session<'_, 'py>) -> PyResult<()>) -> Answer<'py> {
    with(slf, body)?;
    Ok(none(slf.py()))
}

/// Runs `body` and answers True or False.
fn ask<'py>(slf: &Bound<'py, PyAny>, body: impl FnOnce(Session<'_, 'py>) -> PyResult<bool>) -> Answer<'py> {
    Ok(flag(slf.py(), with(slf, body)?))
}

fn get_extra_info<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let name = required(args, "SSLTransport.get_extra_info", "name")?;
    let default = args.named(1, "default").map_or_else(|| none(slf.py()), |default| default.to_owned());
    with(slf, |session| session.extra_info(&name, default))
}

fn set_protocol<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let protocol = required(args, "SSLTransport.set_protocol", "protocol")?;
    act(slf, |session| session.set_protocol(&protocol))
}

fn get_protocol<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with(slf, |session| Ok(session.protocol().unwrap_or_else(|| none(slf.py()))))
}

/// Whether `is_closing()` asks the transport below too: asyncio does since it has a name for that.
fn asks_below(py: Python<'_>) -> PyResult<bool> {
    static ASKS: PyOnceLock<bool> = PyOnceLock::new();
    let find = || py.import("asyncio.sslproto")?.getattr("SSLProtocol")?.hasattr("_is_transport_closing");
    ASKS.get_or_try_init(py, find).copied()
}

fn is_closing<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    let asks_below = asks_below(slf.py())?;
    ask(slf, |session| {
        if session.state(|state| state.closed) {
            return Ok(true);
        }
        match session.object(|state| state.below.as_ref()).filter(|_| asks_below) {
            Some(below) => below.invoke_method(intern!(slf.py(), "is_closing"), ())?.is_truthy(),
            None => Ok(false),
        }
    })
}

fn close<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |session| {
        let again = session.state(|state| std::mem::replace(&mut state.closed, true));
        if !again {
            return shutdown::start(session);
        }
        session.state(|state| state.done_with = true);
        session.let_go();
        Ok(())
    })
}

fn abort<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    force(slf, &none(slf.py()))
}

fn force_close<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let error = required(args, "SSLTransport._force_close", "exc")?;
    force(slf, &error)
}

fn force<'py>(slf: &Bound<'py, PyAny>, error: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |session| {
        session.state(|state| state.closed = true);
        shutdown::abort(session, error)
    })
}

fn is_reading<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    ask(slf, |session| Ok(session.state(|state| !state.paused)))
}

fn pause_reading<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |session| {
        read::pause(session);
        Ok(())
    })
}

fn resume_reading<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, read::resume)
}

fn write_data<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let data = required(args, "SSLTransport.write", "data")?;
    let data = PyBackedBytes::from(exact_bytes(&data, ("sslproto", "_SSLProtocolTransport"))?);
    act(slf, |session| if data.is_empty() { Ok(()) } else { write::write(session, std::iter::once(data)) })
}

fn writelines<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let lines = required(args, "SSLTransport.writelines", "list_of_data")?;
    let data = lines.try_iter()?.map(|line| write::owned(&line?)).collect::<PyResult<Vec<_>>>()?;
    act(slf, |session| write::write(session, data))
}

fn write_eof<'py>(_slf: &Bound<'py, PyAny>) -> Answer<'py> {
    Err(PyNotImplementedError::new_err(()))
}

fn can_write_eof<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    ask(slf, |_| Ok(false))
}

fn set_write_limits<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    act(slf, |session| {
        set_limits(args, |(high, low)| session.state(|state| state.write_mark.set(high, low)))?;
        write::settle(session)?;
        write::control_program(session)
    })
}

fn get_write_limits<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with(slf, |session| Ok(session.state(|state| state.write_mark.limits()).into_pyobject(slf.py())?.into_any()))
}

fn get_write_size<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with(slf, |session| {
        write::settle(session)?;
        Ok(write::size(session)?.into_pyobject(slf.py())?.into_any())
    })
}

fn set_read_limits<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    act(slf, |session| {
        set_limits(args, |(high, low)| session.state(|state| state.read_mark.set(high, low)))?;
        read::control_below(session)
    })
}

fn get_read_limits<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with(slf, |session| Ok(session.state(|state| state.read_mark.limits()).into_pyobject(slf.py())?.into_any()))
}

fn get_read_size<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with(slf, |session| Ok(session.engine()?.incoming(slf.py())?.into_pyobject(slf.py())?.into_any()))
}

fn append_backlog<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let data = write::owned(&*required(args, "SSLTransport._test__append_write_backlog", "data")?)?;
    act(slf, |session| {
        session.state(|state| state.backlog.push(data));
        Ok(())
    })
}

fn get_ssl_protocol<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with(slf, |session| Ok(session.0.clone().into_any()))
}

fn get_closed<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    ask(slf, |session| Ok(session.state(|state| state.closed)))
}

fn get_protocol_paused<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    ask(slf, |session| Ok(session.state(|state| state.write_mark.is_paused())))
}

fn del<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    let py = slf.py();
    let open = with(slf, |session| Ok(!session.state(|state| std::mem::replace(&mut state.closed, true))));
    if open.unwrap_or(false) {
        let category = py.get_type::<PyResourceWarning>();
        warn(py, ("unclosed transport <zloop.SSLTransport object>", category), &PyDict::new(py))?;
    }
    Ok(none(py))
}
