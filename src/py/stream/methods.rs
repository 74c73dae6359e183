//! The methods of `StreamTransport`, asyncio's public ones and those that asyncio's own code calls.
#![forbid(unsafe_code)]

use pyo3::exceptions::PyResourceWarning;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::super::native::{Args, Method, method};
use super::super::tls::{TlsProtocol, note_replaced};
use super::super::transport::{Answer, flag, is_buffered, log, none, required, set_limits, warn};
use super::super::{context, errors};
use super::feed::Stock;
use super::{Conn, Kind, attach, close, file, hold, known, look_again, with_conn, write};
use crate::io::ReadSize;
use crate::py::invoke::Invoke;

static METHODS: [Method; 25] = [
    method!(c"write", write_data, c"Write some data; it is sent when the callback that wrote it returns."),
    method!(c"writelines", writelines, c"Write a list (or any iterable) of data."),
    method!(c"write_eof", fn() write_eof, c"Close the sending direction once all data has left."),
    method!(c"can_write_eof", fn() can_write_eof, c"True: stream sockets can."),
    method!(c"close", fn() close_transport, c"Stop reading; close once all data has left."),
    method!(c"abort", fn() abort, c"Close at once; data that the kernel does not have yet is lost."),
    method!(c"is_closing", fn() is_closing, c"Whether the transport is closing or closed."),
    method!(c"is_reading", fn() is_reading, c"Whether the transport is receiving."),
    method!(c"pause_reading", fn() pause_reading, c"Receive nothing until resume_reading()."),
    method!(c"resume_reading", fn() resume_reading, c"Receive again."),
    method!(c"get_extra_info", known::get_extra_info, c"What is known of the connection."),
    method!(c"set_protocol", set_protocol, c"Change the protocol, of either kind."),
    method!(c"get_protocol", fn() get_protocol, c"The current protocol."),
    method!(c"get_write_buffer_size", fn() get_write_buffer_size, c"How many bytes the kernel has not taken."),
    method!(c"get_write_buffer_limits", fn() get_write_buffer_limits, c"The marks of flow control: (low, high), in bytes."),
    method!(c"set_write_buffer_limits", set_write_buffer_limits, c"Set the marks of flow control, in bytes."),
    method!(c"_send_written", fn() send_written, c"Send what was written: somebody reaches for the socket."),
    method!(c"_start_reading", fn() start_reading, c"connection_made() has been called."),
    method!(c"_call_connection_lost", call_connection_lost, c"Tell the protocol, then close the socket."),
    method!(c"_force_close", force_close, c"Close at once because of an exception; asyncio's TLS uses it."),
    method!(c"_make_empty_waiter", fn() file::make_empty_waiter, c"A future done when all data has left; for sendfile."),
    method!(
        c"_send_part",
        file::send_part,
        c"Send a part of a file; how much, and a future for when more can be sent."
    ),
    method!(c"_reset_empty_waiter", fn() file::reset_empty_waiter, c"The file was sent."),
    method!(c"__repr__", fn() repr, c"State, fd and buffer size."),
    method!(c"__del__", fn() del, c"Warns about a transport that was never closed, and closes its socket."),
];

static PROPERTIES: [(&str, Method); 10] = [
    ("_extra", method!(c"_get_extra", fn() known::get_extra, c"What get_extra_info() looks into.")),
    ("_sock", method!(c"_get_sock", fn() get_sock, c"The socket, or None once closed.")),
    ("_sock_fd", method!(c"_get_sock_fd", fn() get_sock_fd, c"The socket's fd, or what it was.")),
    ("_loop", method!(c"_get_loop", fn() get_loop, c"The loop, or None once closed.")),
    ("_protocol", method!(c"_get_protocol", fn() get_protocol, c"The protocol, or None once closed.")),
    ("_server", method!(c"_get_server", fn() get_server, c"The server that accepted it, or None.")),
    ("_closing", method!(c"_get_closing", fn() is_closing, c"Whether the transport is closing or closed.")),
    (
        "_conn_lost",
        method!(c"_get_conn_lost", fn() get_conn_lost, c"Whether connection_lost() is scheduled, and more."),
    ),
    ("_protocol_paused", method!(c"_get_protocol_paused", fn() get_protocol_paused, c"Whether writing is paused.")),
    ("_paused", method!(c"_get_paused", fn() get_paused, c"Whether reading is paused.")),
];

/// Adds methods, properties and the marks that asyncio looks for.
pub fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    let py = class.py();
    for method in &METHODS {
        method.install(class)?;
    }
    let property = py.import("builtins")?.getattr("property")?;
    for (name, getter) in &PROPERTIES {
        class.setattr(*name, property.invoke((getter.bind(class)?,))?)?;
    }
    class.setattr("max_size", ReadSize::LARGEST)?;
    class.setattr("_start_tls_compatible", true)?;
    let mode = py.import("asyncio.constants")?.getattr("_SendfileMode")?.getattr("TRY_NATIVE")?;
    class.setattr("_sendfile_compatible", mode)
}

/// Runs `body` and answers None.
fn act<'py>(slf: &Bound<'py, PyAny>, body: impl FnOnce(Conn<'_, 'py>) -> PyResult<()>) -> Answer<'py> {
    with_conn(slf, body)?;
    Ok(none(slf.py()))
}

fn write_data<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let data = required(args, "StreamTransport.write", "data")?;
    act(slf, |conn| write::write(conn, &data))
}

fn writelines<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let lines = required(args, "StreamTransport.writelines", "list_of_data")?;
    act(slf, |conn| write::writelines(conn, &lines))
}

fn write_eof<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |conn| {
        // On asyncio, a write that found the connection broken has closed the transport by now.
        write::settle(conn)?;
        let first = conn.state(|state| !state.closing && !std::mem::replace(&mut state.eof, true));
        if first && conn.state(|state| state.is_idle()) { close::shutdown(conn) } else { Ok(()) }
    })
}

fn can_write_eof<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    Ok(flag(slf.py(), true))
}

fn close_transport<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, close::close)
}

fn abort<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |conn| {
        // What was written before has been sent by now on asyncio.
        write::settle(conn)?;
        close::force(conn, &none(conn.py()))
    })
}

fn is_closing<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_conn(slf, |conn| Ok(flag(conn.py(), conn.state(|state| state.closing))))
}

fn is_reading<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_conn(slf, |conn| Ok(flag(conn.py(), conn.state(|state| !state.closing && !state.paused))))
}

fn pause_reading<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |conn| {
        let first = conn.state(|state| !state.closing && !std::mem::replace(&mut state.paused, true));
        hold(conn);
        if first && conn.event_loop.get().is_debug() {
            return log(conn.py(), "debug", ("%r pauses reading", conn.transport));
        }
        Ok(())
    })
}

fn resume_reading<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |conn| {
        let py = conn.py();
        if conn.state(|state| state.closing || !state.paused) {
            return Ok(());
        }
        let context = if conn.state(|state| state.own_context) { None } else { Some(context::copy(py)?.unbind()) };
        let (readable, _old) = conn.state(|state| {
            state.paused = false;
            state.started = true;
            let old = context.map(|context| std::mem::replace(&mut state.context, context));
            (state.readable, old)
        });
        hold(conn);
        conn.event_loop.get().check_open()?;
        attach(conn).map_err(|error| errors::os_error(py, &error))?;
        if readable {
            look_again(conn);
        }
        if conn.event_loop.get().is_debug() {
            return log(py, "debug", ("%r resumes reading", conn.transport));
        }
        Ok(())
    })
}

fn send_written<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, write::send_first)
}

fn set_protocol<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let protocol = required(args, "StreamTransport.set_protocol", "protocol")?;
    act(slf, |conn| set_protocol_of(conn, &protocol))
}

/// Takes a protocol and finds out of which kind it is.
pub fn set_protocol_of(conn: Conn<'_, '_>, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
    let kind = if protocol.is_exact_instance_of::<TlsProtocol>() {
        Kind::Tls
    } else if is_buffered(protocol)? {
        Kind::Buffered
    } else if Stock::get(conn.py())?.is_protocol(protocol) {
        Kind::Reader
    } else {
        Kind::Bytes
    };
    let protocol = protocol.clone().unbind();
    let old = conn.state(|state| {
        state.kind = kind;
        state.protocol.replace(protocol)
    });
    note_replaced(conn.event_loop, old);
    Ok(())
}

fn get_protocol<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_conn(slf, |conn| Ok(conn.protocol().unwrap_or_else(|| none(conn.py()))))
}

fn get_write_buffer_size<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_conn(slf, |conn| {
        write::settle(conn)?;
        Ok(conn.state(|state| state.queue.len()).into_pyobject(conn.py())?.into_any())
    })
}

fn get_write_buffer_limits<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_conn(slf, |conn| Ok(conn.state(|state| state.mark.limits()).into_pyobject(conn.py())?.into_any()))
}

fn set_write_buffer_limits<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    act(slf, |conn| {
        set_limits(args, |(high, low)| conn.state(|state| state.mark.set(high, low)))?;
        write::settle(conn)?;
        write::pause_if_full(conn)
    })
}

fn start_reading<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    act(slf, |conn| {
        if conn.state(|state| state.conn_lost > 0) {
            return Ok(());
        }
        attach(conn).map_err(|error| errors::os_error(conn.py(), &error))?;
        let readable = conn.state(|state| {
            state.started = true;
            state.readable && state.reads()
        });
        if readable {
            look_again(conn);
        }
        Ok(())
    })
}

fn call_connection_lost<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let error = required(args, "StreamTransport._call_connection_lost", "exc")?;
    act(slf, |conn| close::lost(conn, &error))
}

fn force_close<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let error = required(args, "StreamTransport._force_close", "exc")?;
    act(slf, |conn| {
        write::settle(conn)?;
        close::force(conn, &error)
    })
}

fn get_sock<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    object_of(slf, |state| state.sock.as_ref())
}

fn get_server<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    object_of(slf, |state| state.server.as_ref())
}

/// One of the objects in the state, or None.
fn object_of<'py>(slf: &Bound<'py, PyAny>, pick: impl FnOnce(&super::State) -> Option<&Py<PyAny>>) -> Answer<'py> {
    with_conn(slf, |conn| {
        let py = conn.py();
        Ok(conn.state(|state| pick(state).map(|object| object.bind(py).clone())).unwrap_or_else(|| none(py)))
    })
}

fn get_sock_fd<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_conn(slf, |conn| Ok(conn.stream.get().fd.into_pyobject(conn.py())?.into_any()))
}

fn get_loop<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_conn(slf, |conn| {
        let open = conn.state(|state| state.sock.is_some());
        Ok(if open { conn.event_loop.clone().into_any() } else { none(conn.py()) })
    })
}

fn get_conn_lost<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_conn(slf, |conn| Ok(conn.state(|state| state.conn_lost).into_pyobject(conn.py())?.into_any()))
}

fn get_paused<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_conn(slf, |conn| Ok(flag(conn.py(), conn.state(|state| state.paused))))
}

fn get_protocol_paused<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_conn(slf, |conn| Ok(flag(conn.py(), conn.state(|state| state.mark.is_paused()))))
}

fn repr<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    let text = with_conn(slf, |conn| {
        let fd = conn.stream.get().fd;
        Ok(conn.state(|state| {
            if state.sock.is_none() {
                return format!("<StreamTransport closed fd={fd}>");
            }
            let life = if state.closing { " closing" } else { "" };
            let read = if state.reads() { "polling" } else { "idle" };
            let write = if state.blocked || state.in_flight { "polling" } else { "idle" };
            let size = state.queue.len();
            format!("<StreamTransport{life} fd={fd} read={read} write=<{write}, bufsize={size}>>")
        }))
    });
    // Half-made, as a debugger may see it.
    let text = text.unwrap_or_else(|_| String::from("<StreamTransport unconnected>"));
    Ok(text.into_pyobject(slf.py())?.into_any())
}

fn del<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    let py = slf.py();
    let open = with_conn(slf, |conn| Ok(conn.state(|state| state.sock.is_some())));
    if !open.unwrap_or(false) {
        return Ok(none(py));
    }
    let text = format!("unclosed transport {}", slf.repr()?);
    let options = pyo3::types::PyDict::new(py);
    options.set_item("source", slf)?;
    let category = py.get_type::<PyResourceWarning>();
    let warned = warn(py, (text, category), &options);
    let released = act(slf, close::collected);
    warned.and(released)
}
