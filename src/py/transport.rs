//! What all kinds of transports share: how their classes are made, and the small answers of their methods.
//!
//! A transport is an instance of a Python class derived from one of asyncio's, with one native object in a slot. What
//! the class does not define is asyncio's.

use std::os::fd::RawFd;

use pyo3::PyClass;
use pyo3::exceptions::{PyAttributeError, PyOverflowError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyMemoryView, PyTuple, PyType};

use super::event_loop::EventLoop;
use super::invoke::{Arguments, Invoke};
use super::native::{Args, Slot, allocate, make_class};
use super::{call, errors};
use crate::io::LimitsError;

/// A class of transports and its slots.
pub struct TransportType {
    class: Py<PyType>,
    native: Slot,
    extra: Slot,
}

impl TransportType {
    /// Makes the class `name`, derived from `base`, a class of the module `asyncio.<module>`.
    pub fn make(py: Python<'_>, (module, base): (&str, &str), name: &str, doc: &str) -> PyResult<Self> {
        warner(py)?;
        let base: Bound<'_, PyType> = py.import(format!("asyncio.{module}"))?.getattr(base)?.cast_into()?;
        let root = py.import("asyncio.transports")?.getattr("BaseTransport")?.cast_into()?;
        // Users set attributes of transports; not all of asyncio's classes have room for them.
        let open: isize = base.getattr("__dictoffset__")?.extract()?;
        let slots: &[_] = if open == 0 { &["_native", "__dict__", "__weakref__"] } else { &["_native"] };
        let class = make_class(&base, name, slots, doc)?;
        Ok(Self { native: Slot::of(&class, "_native")?, extra: Slot::of(&root, "_extra")?, class: class.unbind() })
    }

    /// The class itself.
    pub fn class<'py>(&self, py: Python<'py>) -> &Bound<'py, PyType> {
        self.class.bind(py)
    }

    /// A transport around its native object; `extra` is what `get_extra_info` knows, unless the class keeps that elsewhere.
    pub fn instance<'py, T: PyClass>(
        &self,
        native: Bound<'py, T>,
        extra: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = native.py();
        // SAFETY: all bases are Python classes, `make_class` made this one, and nobody else has the object yet.
        unsafe {
            let transport = allocate(self.class(py))?;
            self.native.replace(&transport, native.into_any());
            extra.map(|extra| self.extra.replace(&transport, extra));
            Ok(transport)
        }
    }

    /// What `get_extra_info` knows of a transport.
    pub fn extra<'py>(&self, transport: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if !self.holds(transport) {
            return Err(PyTypeError::new_err("not a transport of this kind"));
        }
        // SAFETY: an instance of a class derived from the one that the slot was found in.
        let extra = unsafe { self.extra.get(transport) };
        extra.ok_or_else(|| PyAttributeError::new_err("_extra"))
    }

    /// Whether an object is of this class.
    #[inline]
    pub fn holds(&self, object: &Bound<'_, PyAny>) -> bool {
        // SAFETY: compares types of live objects.
        unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), self.class.as_ptr().cast()) != 0 }
    }

    /// The native object of a transport.
    ///
    /// # Errors
    /// `TypeError` if it is of another class, `RuntimeError` if it was not made by [`instance`](Self::instance).
    #[inline]
    pub fn native<'py, T: PyClass>(&self, transport: &Bound<'py, PyAny>) -> PyResult<Bound<'py, T>> {
        if !self.holds(transport) {
            return Err(PyTypeError::new_err("not a transport of this kind"));
        }
        // SAFETY: an instance of the class that the slot was found in.
        let native = unsafe { self.native.get(transport) };
        let native = native.ok_or_else(|| PyRuntimeError::new_err("the transport was never connected"))?;
        Ok(native.cast_into()?)
    }
}

/// asyncio's number of writes after the connection was lost that are dropped in silence.
pub const SILENT_DROPS: u32 = 5;

/// What methods answer with.
pub type Answer<'py> = PyResult<Bound<'py, PyAny>>;

pub fn none(py: Python<'_>) -> Bound<'_, PyAny> {
    py.None().into_bound(py)
}

pub fn flag(py: Python<'_>, value: bool) -> Bound<'_, PyAny> {
    PyBool::new(py, value).to_owned().into_any()
}

/// Whether what is received goes into a buffer of the protocol's own. asyncio asks for its class alone; a protocol that has
/// the methods without that class, and no others to receive with, is served as well.
pub fn is_buffered(protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = protocol.py();
    if !protocol.hasattr(intern!(py, "get_buffer"))? {
        return Ok(false);
    }
    let kind = py.import("asyncio.protocols")?.getattr(intern!(py, "BufferedProtocol"))?;
    Ok(protocol.is_instance(&kind)? || !protocol.hasattr(intern!(py, "data_received"))?)
}

/// The argument `name`, which must be there.
pub fn required<'a, 'py>(args: Args<'a, 'py>, method: &str, name: &str) -> PyResult<Borrowed<'a, 'py, PyAny>> {
    args.named(0, name)
        .ok_or_else(|| PyTypeError::new_err(format!("{method}() missing 1 required positional argument: '{name}'")))
}

/// Sets marks of flow control from the arguments of `set_write_buffer_limits`.
pub fn set_limits(args: Args<'_, '_>, set: impl FnOnce(Limits) -> Result<(), LimitsError>) -> PyResult<()> {
    let limit = |index, name| args.named(index, name).filter(|limit| !limit.is_none()).map(|limit| whole(&limit));
    let (high, low) = (limit(0, "high").transpose()?, limit(1, "low").transpose()?);
    set((high, low)).map_err(|limits| {
        let (high, low) = (limits.high, limits.low);
        PyValueError::new_err(format!("high ({high}) must be >= low ({low}) must be >= 0"))
    })
}

/// A number of bytes, which may be given as any number: rounded down, and no larger than what can be counted.
fn whole(limit: &Bound<'_, PyAny>) -> PyResult<i64> {
    if let Ok(limit) = limit.cast::<PyFloat>() {
        let limit = limit.value();
        // The conversion saturates.
        return if limit.is_nan() {
            Err(PyValueError::new_err("a limit is not a number"))
        } else {
            Ok(limit.floor() as i64)
        };
    }
    match limit.extract::<i64>() {
        Err(error) if error.is_instance_of::<PyOverflowError>(limit.py()) => {
            Ok(if limit.lt(0)? { i64::MIN } else { i64::MAX })
        }
        limit => limit,
    }
}

/// High and low, as far as they were given.
pub type Limits = (Option<i64>, Option<i64>);

/// What was written as `bytes` that nobody can change: themselves if exact, else a copy. Anything else is refused by the
/// `write` of asyncio's class `oracle`, whose words differ from version to version and come before it looks at `self`.
pub fn exact_bytes<'py>(data: &Bound<'py, PyAny>, oracle: (&str, &str)) -> PyResult<Bound<'py, PyBytes>> {
    if let Ok(bytes) = data.cast_exact::<PyBytes>() {
        return Ok(bytes.clone());
    }
    if data.is_instance_of::<PyBytes>() || data.is_instance_of::<PyByteArray>() || data.is_instance_of::<PyMemoryView>()
    {
        return snapshot(data);
    }
    let py = data.py();
    let class = py.import(format!("asyncio.{}", oracle.0))?.getattr(oracle.1)?;
    class.invoke_method(intern!(py, "write"), (py.None(), data))?;
    Err(PyTypeError::new_err("data argument must be a bytes-like object"))
}

/// The number of a file's descriptor, as its `fileno()` says.
pub fn fileno(file: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let number = file.invoke_method(intern!(file.py(), "fileno"), ())?;
    number.extract().map_err(|error: PyErr| match error.is_instance_of::<PyOverflowError>(file.py()) {
        true => too_large(),
        false => error,
    })
}

/// What CPython says of a number that no file can have.
pub fn too_large() -> PyErr {
    PyOverflowError::new_err("Python int too large to convert to C int")
}

/// A copy of what the buffer protocol shows. `bytes(data)` would ask a subclass for its opinion.
pub fn snapshot<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if let Ok(lent) = call::ReadableBuffer::of(data) {
        return Ok(PyBytes::new(data.py(), lent.as_slice()));
    }
    // In pieces, or not at all.
    let view = PyMemoryView::from(data)?;
    Ok(view.invoke_method(intern!(data.py(), "tobytes"), ())?.cast_into()?)
}

/// Tells a protocol to pause or to resume writing, and reports what it raises.
pub fn tell_protocol(
    event_loop: &Bound<'_, EventLoop>,
    transport: &Bound<'_, PyAny>,
    protocol: Option<Bound<'_, PyAny>>,
    method: &str,
) -> PyResult<()> {
    let py = transport.py();
    let Some(protocol) = protocol else { return Ok(()) };
    match protocol.invoke_method(method, ()) {
        Ok(_) => Ok(()),
        Err(error) if call::escapes(py, &error) => Err(error),
        Err(error) => {
            let context = PyDict::new(py);
            context.set_item("message", format!("protocol.{method}() failed"))?;
            context.set_item("exception", error.value(py))?;
            context.set_item("transport", transport)?;
            context.set_item("protocol", protocol)?;
            errors::tell_handler(event_loop, context, &error)
        }
    }
}

/// Says why a transport is closed: an ordinary network error (`quiet`) only in debug mode's log.
pub fn explain(
    event_loop: &Bound<'_, EventLoop>,
    (transport, protocol): (&Bound<'_, PyAny>, Option<Bound<'_, PyAny>>),
    (error, message): (&PyErr, &str),
    quiet: bool,
) -> PyResult<()> {
    let py = transport.py();
    if quiet {
        if event_loop.get().is_debug() {
            let options = PyDict::new(py);
            options.set_item("exc_info", error.value(py))?;
            let logger = py.import("asyncio.log")?.getattr("logger")?;
            logger.getattr("debug")?.invoke_with(("%r: %s", transport, message), &options)?;
        }
        return Ok(());
    }
    let context = PyDict::new(py);
    context.set_item("message", message)?;
    context.set_item("exception", error.value(py))?;
    context.set_item("transport", transport)?;
    context.set_item("protocol", protocol)?;
    errors::tell_handler(event_loop, context, error)
}

/// `logger.<level>(*arguments)` of asyncio's logger.
pub fn log<'py>(py: Python<'py>, level: &str, arguments: impl Arguments<'py>) -> PyResult<()> {
    let logger = py.import("asyncio.log")?.getattr("logger")?;
    logger.invoke_method(level, arguments).map(drop)
}

/// `warnings.warn(*arguments, **options)`. It is found when the first class of transports is made: at the interpreter's end,
/// when transports that were left open are collected, nothing can be imported any more.
pub fn warn<'py>(
    py: Python<'py>,
    arguments: impl IntoPyObject<'py, Target = PyTuple>,
    options: &Bound<'py, PyDict>,
) -> PyResult<()> {
    warner(py)?.bind(py).invoke_with(arguments, options).map(drop)
}

fn warner(py: Python<'_>) -> PyResult<&'static Py<PyAny>> {
    static WARN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    WARN.get_or_try_init(py, || py.import("warnings")?.getattr("warn").map(Bound::unbind))
}
