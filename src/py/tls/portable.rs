//! The engine that works with every interpreter: the methods of Python's SSL object over two `ssl.MemoryBIO`s.
//!
//! An object made by the `ssl` module itself wraps another one, in C, with the same methods: asked directly, it answers
//! without a Python frame for each record.

use std::ops::{Deref, Range};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyMemoryView, PySlice};

use super::super::call::{bytes_filled_by, lend};
use super::engine::{End, Names, again, join};
use crate::py::invoke::Invoke;

/// The most data of one record: no read brings more.
const RECORD_MAX: usize = 16 * 1024;
/// No read asks for less: what OpenSSL has seen of a record already is not counted among the bytes that wait.
const READ_MIN: usize = 512;

/// Python's object, and how it is asked.
pub struct Asked {
    /// What `wrap_bio` made.
    pub object: Py<PyAny>,
    /// Whose `read`, `write` and `pending` are called: the object, or the one in C within it.
    pub records: Py<PyAny>,
    /// Whether `records` is the ssl module's own object in C, whose methods are known.
    pub native: bool,
}

pub struct Portable {
    pub asked: Asked,
    /// `ssl.MemoryBIO`: bytes of the peer.
    pub incoming: Py<PyAny>,
    /// `ssl.MemoryBIO`: bytes for the peer.
    pub outgoing: Py<PyAny>,
}

impl Deref for Portable {
    type Target = Asked;

    fn deref(&self) -> &Asked {
        &self.asked
    }
}

impl Portable {
    /// Has `context` make the object.
    pub fn of(context: &Bound<'_, PyAny>, server_side: bool, hostname: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = context.py();
        let memory_bio = Names::get(py)?.memory_bio.bind(py);
        let (incoming, outgoing) = (memory_bio.invoke(())?, memory_bio.invoke(())?);
        let options = PyDict::new(py);
        options.set_item(intern!(py, "server_side"), server_side)?;
        options.set_item(intern!(py, "server_hostname"), hostname)?;
        let object = context.getattr(intern!(py, "wrap_bio"))?.invoke_with((&incoming, &outgoing), &options)?;
        let records = inner(&object)?.unwrap_or_else(|| object.clone());
        let class = py.import(intern!(py, "_ssl")).and_then(|module| module.getattr(intern!(py, "_SSLSocket")));
        let native = class.is_ok_and(|class| records.get_type().is(&class));
        let asked = Asked { object: object.unbind(), records: records.unbind(), native };
        Ok(Self { asked, incoming: incoming.unbind(), outgoing: outgoing.unbind() })
    }

    pub fn feed(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        self.incoming.bind(py).invoke_method(intern!(py, "write"), (data,)).map(drop)
    }

    pub fn read<'py>(&self, py: Python<'py>) -> PyResult<(Option<Bound<'py, PyBytes>>, End)> {
        let mut chunks: Vec<Bound<'py, PyAny>> = Vec::new();
        let end = loop {
            // Asked in vain, the object would raise an exception, which costs more than a small record.
            let waiting = self.waiting(py)?;
            if waiting == 0 {
                break End::Again;
            }
            if waiting > RECORD_MAX && self.native {
                let (data, end) = self.read_records(py, waiting + RECORD_MAX)?;
                let some = !data.as_bytes().is_empty();
                chunks.extend(some.then(|| data.into_any()));
                match end {
                    End::Again if some => continue,
                    end => break end,
                }
            }
            let size = waiting.clamp(READ_MIN, RECORD_MAX);
            match self.read_once(py, size)? {
                (Some(chunk), _) => chunks.push(chunk),
                (None, end) => break end,
            }
        };
        Ok((join(py, chunks)?, end))
    }

    /// Several records into one `bytes` of at most `size`.
    fn read_records<'py>(&self, py: Python<'py>, size: usize) -> PyResult<(Bound<'py, PyBytes>, End)> {
        let mut end = End::Again;
        let data = bytes_filled_by(py, size, |room| {
            let mut filled = 0;
            while filled < room.len() && self.waiting(py)? > 0 {
                let rest = &mut room[filled..];
                let size = rest.len();
                // SAFETY: `native` says that the method is the ssl module's own, in C: it fills the buffer, gives it
                // back, and shows it to nobody.
                match unsafe { lend(py, rest, |view| self.fill(size, view)) }?? {
                    (0, why) => {
                        end = why;
                        break;
                    }
                    (count, _) => filled += count,
                }
            }
            Ok::<_, PyErr>(filled)
        })??;
        Ok((data, end))
    }

    pub fn read_into(&self, buffer: &Bound<'_, PyAny>) -> PyResult<(usize, End)> {
        let py = buffer.py();
        let room = buffer.len()?;
        let mut filled = 0;
        while (room == 0 || filled < room) && self.waiting(py)? > 0 {
            match self.ask_into(buffer, filled)? {
                (0, end) => return Ok((filled, end)),
                (count, _) => filled += count,
            }
        }
        Ok((filled, End::Again))
    }

    pub fn take(&self, py: Python<'_>) -> PyResult<Option<PyBackedBytes>> {
        if self.outgoing(py)? == 0 {
            return Ok(None);
        }
        let data = self.outgoing.bind(py).invoke_method(intern!(py, "read"), ())?;
        Ok(Some(PyBackedBytes::from(data.cast_into::<PyBytes>()?)))
    }

    pub fn incoming(&self, py: Python<'_>) -> PyResult<usize> {
        self.incoming.bind(py).getattr(intern!(py, "pending"))?.extract()
    }

    pub fn outgoing(&self, py: Python<'_>) -> PyResult<usize> {
        self.outgoing.bind(py).getattr(intern!(py, "pending"))?.extract()
    }

    /// What a read could use: bytes of the peer, and data of a record that was begun.
    fn waiting(&self, py: Python<'_>) -> PyResult<usize> {
        let pending: usize = self.records.bind(py).invoke_method(intern!(py, "pending"), ())?.extract()?;
        Ok(pending + self.incoming(py)?)
    }
}

impl Asked {
    /// Asks the object, whatever it may say: data, or why there is none.
    pub fn ask<'py>(&self, py: Python<'py>) -> PyResult<(Option<Bound<'py, PyAny>>, End)> {
        self.read_once(py, RECORD_MAX)
    }

    fn read_once<'py>(&self, py: Python<'py>, size: usize) -> PyResult<(Option<Bound<'py, PyAny>>, End)> {
        match self.records.bind(py).invoke_method(intern!(py, "read"), (size,)) {
            Ok(chunk) if chunk.len()? == 0 => Ok((None, End::Closed)),
            Ok(chunk) => Ok((Some(chunk), End::Again)),
            Err(error) => Ok((None, again(error).map_or_else(End::Failed, |()| End::Again))),
        }
    }

    /// Asks the object, whatever it may say: how many bytes it has put behind the first `filled` of a buffer, or why none.
    pub fn ask_into(&self, buffer: &Bound<'_, PyAny>, filled: usize) -> PyResult<(usize, End)> {
        let (py, room) = (buffer.py(), buffer.len()?);
        let rest = PyMemoryView::from(buffer)?.get_item(slice(py, filled..room))?;
        self.fill(room - filled, &rest)
    }

    /// Has the object fill a buffer of `size` bytes: how many it did, or why none.
    fn fill(&self, size: usize, buffer: &Bound<'_, PyAny>) -> PyResult<(usize, End)> {
        let py = buffer.py();
        match self.records.bind(py).invoke_method(intern!(py, "read"), (size, buffer)) {
            Ok(count) => match count.extract()? {
                0 => Ok((0, End::Closed)),
                count => Ok((count, End::Again)),
            },
            Err(error) => Ok((0, again(error).map_or_else(End::Failed, |()| End::Again))),
        }
    }

    pub fn write(&self, py: Python<'_>, data: &PyBackedBytes, range: Range<usize>) -> PyResult<Option<usize>> {
        let mut part = data.into_pyobject(py)?.into_any();
        if range.len() < data.len() {
            part = PyMemoryView::from(&part)?.get_item(slice(py, range))?;
        }
        match self.records.bind(py).invoke_method(intern!(py, "write"), (part,)) {
            Ok(count) => count.extract().map(Some),
            Err(error) => again(error).map(|()| None),
        }
    }
}

fn slice(py: Python<'_>, range: Range<usize>) -> Bound<'_, PySlice> {
    PySlice::new(py, range.start as isize, range.end as isize, 1)
}

/// The object in C within `object`, if its methods do nothing but call that one's.
fn inner<'py>(object: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = object.py();
    let original = Names::get(py)?.ssl_object.bind(py);
    let class = object.get_type();
    for method in ["read", "write", "pending"] {
        let same =
            class.getattr_opt(method)?.is_some_and(|found| original.getattr(method).is_ok_and(|own| found.is(&own)));
        if !same {
            return Ok(None);
        }
    }
    object.getattr_opt(intern!(py, "_sslobj"))
}
