//! What a session asks of OpenSSL, whichever way it is asked.
#![forbid(unsafe_code)]

use std::ops::Range;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyType};

use super::direct::Direct;
use super::portable::{Asked, Portable};
use crate::py::invoke::Invoke;
use crate::tls::OpenSsl;

/// How a step of a handshake, or of its inverse, came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Done,
    /// It goes on with the peer's next bytes.
    Again,
}

/// Why reading stopped.
pub enum End {
    /// All that has come was read, or the buffer is full.
    Again,
    /// The peer has announced the end.
    Closed,
    Failed(PyErr),
}

/// The engine of one session.
pub enum Engine {
    /// Calls the methods of Python's own object.
    Portable(Portable),
    /// Calls OpenSSL for records, and those methods for everything else.
    Direct(Direct),
}

/// Calls the same method of whichever engine it is.
macro_rules! each {
    ($engine:expr, $inner:ident => $call:expr) => {
        match $engine {
            Engine::Portable($inner) => $call,
            Engine::Direct($inner) => $call,
        }
    };
}

impl Engine {
    /// Has `context` make the object that everything is asked of, whatever kind of object that is.
    ///
    /// `openssl` is None for an engine that only calls Python.
    pub fn of(
        context: &Bound<'_, PyAny>,
        server_side: bool,
        hostname: &Bound<'_, PyAny>,
        openssl: Option<&'static OpenSsl>,
    ) -> PyResult<Self> {
        let portable = Portable::of(context, server_side, hostname)?;
        let Some(openssl) = openssl else { return Ok(Self::Portable(portable)) };
        Ok(Direct::over(context.py(), openssl, portable).map_or_else(Self::Portable, Self::Direct))
    }

    /// Its name, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Portable(_) => "portable",
            Self::Direct(_) => "direct",
        }
    }

    /// How Python is asked.
    fn asked(&self) -> &Asked {
        match self {
            Self::Portable(engine) => &engine.asked,
            Self::Direct(engine) => &engine.asked,
        }
    }

    /// The `ssl.SSLObject`, which knows everything but the records.
    pub fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.asked().object.bind(py)
    }

    /// All Python objects in it, for the garbage collector.
    pub fn objects(&self) -> impl Iterator<Item = &Py<PyAny>> {
        let Asked { object, records, .. } = self.asked();
        let bios = match self {
            Self::Portable(engine) => Some([&engine.incoming, &engine.outgoing]),
            Self::Direct(_) => None,
        };
        [object, records].into_iter().chain(bios.into_iter().flatten())
    }

    /// Takes bytes of the peer.
    pub fn feed(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        each!(self, engine => engine.feed(data))
    }

    /// Goes on with the handshake. Errors are those of `do_handshake()`.
    pub fn handshake(&self, py: Python<'_>) -> PyResult<Step> {
        self.step(|| self.object(py).invoke_method(intern!(py, "do_handshake"), ()))
    }

    /// Goes on with the end of the session. Errors are those of `unwrap()`.
    pub fn unwrap(&self, py: Python<'_>) -> PyResult<Step> {
        let unwrap = || self.object(py).invoke_method(intern!(py, "unwrap"), ());
        self.step(|| match unwrap() {
            // The program has asked for a certificate, and nothing was written since. Asked for data, OpenSSL sends that
            // first; reading in vain, as asyncio does each time, is saved elsewhere.
            Err(error) if is_in_handshake(py, &error) => {
                self.asked().ask(py)?;
                unwrap()
            }
            other => other,
        })
    }

    /// Makes a call, and tells "not yet" from a failure.
    fn step<'py>(&self, call: impl FnOnce() -> PyResult<Bound<'py, PyAny>>) -> PyResult<Step> {
        let result = match self {
            Self::Portable(_) => Some(call()),
            Self::Direct(engine) => engine.alone(call),
        };
        match result {
            Some(Ok(_)) => Ok(Step::Done),
            Some(Err(error)) => again(error).map(|()| Step::Again),
            None => Ok(Step::Again),
        }
    }

    /// Everything that has come, in one `bytes`, and why there is no more.
    pub fn read<'py>(&self, py: Python<'py>) -> PyResult<(Option<Bound<'py, PyBytes>>, End)> {
        each!(self, engine => engine.read(py))
    }

    /// Fills the buffer of a protocol, as far as what has come suffices. Answers how many bytes that were.
    pub fn read_into(&self, buffer: &Bound<'_, PyAny>) -> PyResult<(usize, End)> {
        each!(self, engine => engine.read_into(buffer))
    }

    /// Turns a part of the data into records. Answers how many bytes were taken, or None if the peer has to speak first.
    pub fn write(&self, py: Python<'_>, data: &PyBackedBytes, range: Range<usize>) -> PyResult<Option<usize>> {
        each!(self, engine => engine.write(py, data, range))
    }

    /// The bytes for the peer, if there are any.
    pub fn take(&self, py: Python<'_>) -> PyResult<Option<PyBackedBytes>> {
        each!(self, engine => engine.take(py))
    }

    /// How many bytes of the peer have not been looked at.
    pub fn incoming(&self, py: Python<'_>) -> PyResult<usize> {
        each!(self, engine => engine.incoming(py))
    }

    /// How many bytes for the peer have not been taken.
    pub fn outgoing(&self, py: Python<'_>) -> PyResult<usize> {
        each!(self, engine => engine.outgoing(py))
    }
}

/// Chunks of data as one.
pub fn join<'py>(py: Python<'py>, mut chunks: Vec<Bound<'py, PyAny>>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let data = match chunks.len() {
        0 | 1 => chunks.pop(),
        _ => Some(PyBytes::new(py, b"").invoke_method(intern!(py, "join"), (chunks,))?),
    };
    Ok(data.map(Bound::cast_into).transpose()?)
}

/// What the `ssl` module calls things.
pub struct Names {
    pub memory_bio: Py<PyAny>,
    pub ssl_object: Py<PyAny>,
    pub ssl_error: Py<PyType>,
    pub certificate_error: Py<PyType>,
    want_read: Py<PyType>,
    syscall_error: Py<PyType>,
}

impl Names {
    pub fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static NAMES: PyOnceLock<Names> = PyOnceLock::new();
        NAMES.get_or_try_init(py, || {
            let ssl = py.import("ssl")?;
            let class = |name: &str| Ok::<_, PyErr>(ssl.getattr(name)?.cast_into::<PyType>()?.unbind());
            Ok(Self {
                memory_bio: ssl.getattr("MemoryBIO")?.unbind(),
                ssl_object: ssl.getattr("SSLObject")?.unbind(),
                ssl_error: class("SSLError")?,
                certificate_error: class("CertificateError")?,
                want_read: class("SSLWantReadError")?,
                syscall_error: class("SSLSyscallError")?,
            })
        })
    }
}

/// Whether a session could not be ended because a handshake was due.
fn is_in_handshake(py: Python<'_>, error: &PyErr) -> bool {
    let reason = error.value(py).getattr_opt(intern!(py, "reason")).ok().flatten();
    reason.is_some_and(|reason| reason.eq("SHUTDOWN_WHILE_IN_INIT").unwrap_or(false))
}

/// Lets the errors pass which say that more bytes of the peer are needed; asyncio counts two kinds among them.
#[cold]
pub fn again(error: PyErr) -> PyResult<()> {
    Python::attach(|py| {
        let names = Names::get(py)?;
        let waits =
            [&names.want_read, &names.syscall_error].iter().any(|class| error.matches(py, class).unwrap_or(false));
        if waits { Ok(()) } else { Err(error) }
    })
}
