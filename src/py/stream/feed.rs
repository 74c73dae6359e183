//! asyncio's own streams: what was received goes into the buffer of a `StreamReader` without running the Python code that
//! would put it there, as long as nobody has changed that code.
//!
//! A program may replace anything of it: by a subclass, in the class, in one object. So both classes must be exactly
//! asyncio's, unchanged as far as this path goes (looked at anew whenever CPython says that a class was modified), and
//! the two public methods must not be shadowed in the objects. Whatever is out of the ordinary goes the ordinary way,
//! which raises what asyncio raises.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::{PyAttributeError, PyNotImplementedError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyFunction, PyModule, PyString, PyType, PyWeakrefReference};
use pyo3::{PyTypeInfo, intern};

use super::super::native::{is_method, type_version};
use super::super::receive::{self, Read};
use super::{Conn, close, read};
use crate::py::invoke::Invoke;

/// Reads once for a protocol that was a `StreamReaderProtocol` when it was set.
pub fn once(conn: Conn<'_, '_>) -> PyResult<()> {
    let Some(protocol) = conn.protocol() else { return Ok(()) };
    let Some(Reader { reader, buffer, limit }) = Stock::get(conn.py())?.reader_of(&protocol) else {
        return read::as_bytes(conn);
    };
    let (fd, origin) = (conn.stream.get().fd, conn.stream.get().origin);
    let size = conn.state(|state| state.read_size);
    let stray = match receive::receive_onto(conn.event_loop, fd, size, origin, &buffer)? {
        Read::Some(stray, count, more) => {
            read::follow_up(conn, count, more)?;
            stray
        }
        other => return read::no_data(conn, other),
    };
    let fed = match stray {
        None => arrived(&reader, &buffer, limit),
        // Somebody holds a view of the buffer: asyncio's error.
        Some(data) => protocol.invoke_method(intern!(conn.py(), "data_received"), (data,)).map(drop),
    };
    fed.or_else(|error| close::failed(conn, error, read::CALL_FAILED))
}

/// What `feed_data` does once the data is in the buffer: wakes who waits, and stops the transport if there is too much.
fn arrived(reader: &Bound<'_, PyAny>, buffer: &Bound<'_, PyByteArray>, limit: usize) -> PyResult<()> {
    let py = reader.py();
    let waiter = reader.getattr(intern!(py, "_waiter"))?;
    if !waiter.is_none() {
        reader.setattr(intern!(py, "_waiter"), py.None())?;
        if !waiter.invoke_method(intern!(py, "cancelled"), ())?.is_truthy()? {
            waiter.invoke_method(intern!(py, "set_result"), (py.None(),))?;
        }
    }
    if buffer.len() <= limit.saturating_mul(2) {
        return Ok(());
    }
    let transport = reader.getattr(intern!(py, "_transport"))?;
    if transport.is_none() || reader.getattr(intern!(py, "_paused"))?.is_truthy()? {
        return Ok(());
    }
    match transport.invoke_method(intern!(py, "pause_reading"), ()) {
        Ok(_) => reader.setattr(intern!(py, "_paused"), true),
        Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
            reader.setattr(intern!(py, "_transport"), py.None())
        }
        Err(error) => Err(error),
    }
}

/// A reader that can be fed.
struct Reader<'py> {
    reader: Bound<'py, PyAny>,
    buffer: Bound<'py, PyByteArray>,
    /// Half of how many bytes may wait, in bytes.
    limit: usize,
}

/// Both classes of `asyncio.streams` that take part.
pub struct Stock {
    protocol: Class,
    reader: Class,
}

impl Stock {
    pub fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static STOCK: PyOnceLock<Stock> = PyOnceLock::new();
        STOCK.get_or_try_init(py, || {
            let module = py.import("asyncio.streams")?;
            let protocol = ("data_received", &["_stream_reader"][..], &["_stream_reader_wr"][..]);
            let reader = ("feed_data", &["_wakeup_waiter"][..], &["_eof", "_buffer", "_limit", "_waiter"][..]);
            Ok(Self {
                protocol: Class::of(&module, "StreamReaderProtocol", protocol)?,
                reader: Class::of(&module, "StreamReader", reader)?,
            })
        })
    }

    /// Whether this is a protocol of asyncio's streams, of no class derived from it.
    pub fn is_protocol(&self, object: &Bound<'_, PyAny>) -> bool {
        object.get_type().is(&self.protocol.class)
    }

    /// The reader behind a protocol, if `data_received` would do with the data what is done here.
    fn reader_of<'py>(&self, protocol: &Bound<'py, PyAny>) -> Option<Reader<'py>> {
        let py = protocol.py();
        if !self.protocol.runs_own(protocol) {
            return None;
        }
        let reference = protocol.getattr(intern!(py, "_stream_reader_wr")).ok()?;
        let reader = reference.cast::<PyWeakrefReference>().ok()?.upgrade()?;
        if !self.reader.runs_own(&reader) || reader.getattr(intern!(py, "_eof")).ok()?.is_truthy().ok()? {
            return None;
        }
        let buffer = reader.getattr(intern!(py, "_buffer")).ok()?.cast_into_exact().ok()?;
        let limit = reader.getattr(intern!(py, "_limit")).ok()?.extract().ok()?;
        Some(Reader { reader, buffer, limit })
    }
}

/// A class, and what must be as asyncio made it.
struct Class {
    class: Py<PyType>,
    /// The method that is done without.
    method: Py<PyString>,
    /// What the class has under that name, or had when it was looked at last.
    function: PyOnceLock<Py<PyAny>>,
    /// Properties and methods that this one uses.
    used: &'static [&'static str],
    /// Plain attributes of the objects.
    plain: &'static [&'static str],
    /// The version of the class that was looked at last, shifted by one, and whether that one was asyncio's.
    known: AtomicU64,
}

type Names = (&'static str, &'static [&'static str], &'static [&'static str]);

impl Class {
    fn of(module: &Bound<'_, PyModule>, name: &str, (method, used, plain): Names) -> PyResult<Self> {
        let class = module.getattr(name)?.cast_into()?.unbind();
        let method = PyString::intern(module.py(), method).unbind();
        Ok(Self { class, method, function: PyOnceLock::new(), used, plain, known: AtomicU64::new(0) })
    }

    /// Whether calling the method of this object would run asyncio's code.
    #[inline]
    fn runs_own(&self, object: &Bound<'_, PyAny>) -> bool {
        let py = object.py();
        std::ptr::eq(object.get_type_ptr().cast(), self.class.as_ptr())
            && self.is_own(py)
            && self.function.get(py).is_some_and(|function| {
                object.getattr(self.method.bind(py)).is_ok_and(|method| is_method(&method, function, object))
            })
    }

    #[inline]
    fn is_own(&self, py: Python<'_>) -> bool {
        let version = type_version(self.class.bind(py));
        version != 0 && self.known.load(Ordering::Relaxed) == known(version, true) || self.look(py)
    }

    /// The class was modified, or is looked at for the first time.
    #[cold]
    fn look(&self, py: Python<'_>) -> bool {
        let class = self.class.bind(py);
        let version = type_version(class);
        if version != 0 && self.known.load(Ordering::Relaxed) == known(version, false) {
            return false;
        }
        let own = self.examine(class).unwrap_or(false);
        // Looking at attributes gave it a new version, if there are any left.
        self.known.store(known(type_version(class), own), Ordering::Relaxed);
        own
    }

    fn examine(&self, class: &Bound<'_, PyType>) -> PyResult<bool> {
        let py = class.py();
        let object = pyo3::types::PyAny::type_object(py);
        for name in ["__getattribute__", "__setattr__"] {
            if !class.getattr(name)?.is(&object.getattr(name)?) {
                return Ok(false);
            }
        }
        if class.hasattr("__getattr__")? || self.plain.iter().any(|name| class.hasattr(*name).unwrap_or(true)) {
            return Ok(false);
        }
        let members = class.getattr("__dict__")?;
        for name in self.used {
            if !is_asyncio(class, name, &members.get_item(name)?)? {
                return Ok(false);
            }
        }
        let name = self.method.to_str(py)?;
        let function = members.get_item(name)?;
        if !is_asyncio(class, name, &function)? {
            return Ok(false);
        }
        Ok(self.function.get_or_init(py, || function.clone().unbind()).is(&function))
    }
}

fn known(version: u32, own: bool) -> u64 {
    u64::from(version) << 1 | u64::from(own)
}

/// Whether a function, or the one behind a property, was defined in the class under that name, in asyncio's module.
fn is_asyncio(class: &Bound<'_, PyType>, name: &str, member: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = class.py();
    let function = match member.getattr(intern!(py, "fget")) {
        Ok(getter) => getter,
        Err(error) if error.is_instance_of::<PyAttributeError>(py) => member.clone(),
        Err(error) => return Err(error),
    };
    if !function.is_exact_instance_of::<PyFunction>() {
        return Ok(false);
    }
    let module = py.import("asyncio.streams")?.getattr("__dict__")?;
    let named: String = function.getattr("__code__")?.getattr("co_qualname")?.extract()?;
    Ok(function.getattr("__globals__")?.is(&module) && named == format!("{}.{name}", class.name()?))
}
