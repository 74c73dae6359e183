//! The engine that calls OpenSSL itself: the session within Python's object, over a pipe of ours.
//!
//! Only records are read and written this way. Handshakes, ends and everything unusual are asked of the object, which uses
//! the same session and the same pipe, so its answers and errors are Python's own.
//!
//! One thread at a time has the session: the loop's. `busy` turns away whoever comes while it is used, be it another
//! thread or a callback out of OpenSSL; on free-threaded builds the object's own lock is held as well, so that other
//! threads may ask it for its version or cipher.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::PyBytes;
use pyo3::{ffi, intern};

use super::super::call::{WritableBuffer, bytes_filled_by};
use super::engine::{End, join};
use super::portable::{Asked, Portable};
use super::write::owned;
use crate::tls::{Claims, OpenSsl, Session, Stop};

pub struct Direct {
    /// The object, and how it is asked.
    pub asked: Asked,
    inner: UnsafeCell<Inner>,
    busy: AtomicBool,
}

struct Inner {
    session: Session,
    /// Records for the peer, older than those that lie in the session's pipe.
    ready: VecDeque<PyBackedBytes>,
}

// SAFETY: `inner` is only touched by who has set `busy`, one at a time.
unsafe impl Sync for Direct {}

impl Inner {
    /// Moves records that lie in the pipe behind those that are ready.
    fn collect(&mut self, py: Python<'_>) {
        if self.session.spilt() > 0 {
            let records = self.session.take_spill(|spill| PyBytes::new(py, spill));
            self.ready.push_back(records.into());
        }
    }
}

impl Direct {
    /// Takes over the session of a new object. Gives the object back if anything about it is not as expected.
    ///
    /// The memory BIOs are let go of: the session does not use them any more.
    pub fn over(py: Python<'_>, openssl: &'static OpenSsl, made: Portable) -> Result<Self, Portable> {
        let Some(session) = session_of(py, openssl, &made) else { return Err(made) };
        let inner = UnsafeCell::new(Inner { session, ready: VecDeque::new() });
        Ok(Self { asked: made.asked, inner, busy: AtomicBool::new(false) })
    }

    /// Runs `body` on the session, unless somebody has it.
    fn enter<R>(&self, py: Python<'_>, body: impl FnOnce(&mut Inner) -> R) -> Option<R> {
        self.alone(|| {
            with_critical_section(self.asked.records.bind(py), || {
                // SAFETY: `alone` has set `busy`, and it was not set before.
                body(unsafe { &mut *self.inner.get() })
            })
        })
    }

    /// Runs `body` while nobody else may have the session; None if somebody has it.
    pub fn alone<R>(&self, body: impl FnOnce() -> R) -> Option<R> {
        struct Release<'a>(&'a AtomicBool);
        impl Drop for Release<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        if self.busy.swap(true, Ordering::Acquire) {
            return None;
        }
        let _release = Release(&self.busy);
        Some(body())
    }

    pub fn feed(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let bytes = Box::new(owned(data)?);
        self.enter(data.py(), |inner| {
            drop(inner.session.spent());
            inner.session.feed(bytes);
        })
        .ok_or_else(in_use)
    }

    pub fn read<'py>(&self, py: Python<'py>) -> PyResult<(Option<Bound<'py, PyBytes>>, End)> {
        let mut chunks = Vec::new();
        let end = loop {
            let step = self.enter(py, |inner| {
                drop(inner.session.spent());
                let size = inner.session.readable();
                let mut stop = Stop::Again;
                if size == 0 {
                    return Ok((None, stop));
                }
                let data = bytes_filled_by(py, size, |room| {
                    let (count, why) = inner.session.read(room);
                    stop = why;
                    Ok::<_, std::convert::Infallible>(count)
                })?;
                let Ok(data) = data;
                drop(inner.session.spent());
                Ok::<_, PyErr>((Some(data), stop))
            });
            let (data, stop) = step.unwrap_or(Ok((None, Stop::Again)))?;
            chunks.extend(data.filter(|data| !data.as_bytes().is_empty()).map(Bound::into_any));
            match stop {
                Stop::Done => {}
                Stop::Again => break End::Again,
                Stop::Ask => match self.alone(|| self.asked.ask(py)).unwrap_or(Ok((None, End::Again)))? {
                    (Some(data), _) => chunks.push(data),
                    (None, end) => break end,
                },
            }
        };
        Ok((join(py, chunks)?, end))
    }

    pub fn read_into(&self, buffer: &Bound<'_, PyAny>) -> PyResult<(usize, End)> {
        let py = buffer.py();
        let mut filled = 0;
        loop {
            let mut lent = WritableBuffer::of(buffer)?;
            let room = &mut lent.as_mut()[filled..];
            let step = self.enter(py, |inner| {
                if inner.session.readable() == 0 {
                    return (0, Stop::Again);
                }
                let step = inner.session.read(room);
                drop(inner.session.spent());
                step
            });
            let (count, stop) = step.unwrap_or((0, Stop::Again));
            filled += count;
            drop(lent);
            match stop {
                // asyncio takes a buffer without room for the end.
                Stop::Done if filled == 0 => return Ok((0, End::Closed)),
                Stop::Done | Stop::Again => return Ok((filled, End::Again)),
                Stop::Ask => {
                    let asked = self.alone(|| self.asked.ask_into(buffer, filled));
                    match asked.unwrap_or(Ok((0, End::Again)))? {
                        (0, end) => return Ok((filled, end)),
                        (count, _) => filled += count,
                    }
                }
            }
        }
    }

    pub fn write(&self, py: Python<'_>, data: &PyBackedBytes, range: Range<usize>) -> PyResult<Option<usize>> {
        let part = &data[range.clone()];
        let step = self.enter(py, |inner| {
            inner.collect(py);
            let mut taken = Err(Stop::Again);
            let records = bytes_filled_by(py, inner.session.room_for(part.len()), |room| {
                let (filled, outcome) = inner.session.write(part, room);
                taken = outcome;
                Ok::<_, std::convert::Infallible>(filled)
            })?;
            let Ok(records) = records;
            if !records.as_bytes().is_empty() {
                inner.ready.push_back(records.into());
            }
            Ok::<_, PyErr>(taken)
        });
        match step.unwrap_or(Ok(Err(Stop::Again)))? {
            Ok(count) => Ok(Some(count)),
            Err(Stop::Ask) => self.alone(|| self.asked.write(py, data, range)).unwrap_or(Ok(None)),
            Err(_) => Ok(None),
        }
    }

    pub fn take(&self, py: Python<'_>) -> PyResult<Option<PyBackedBytes>> {
        let taken = self.enter(py, |inner| {
            inner.collect(py);
            inner.ready.pop_front()
        });
        Ok(taken.flatten())
    }

    pub fn incoming(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.enter(py, |inner| inner.session.unread()).unwrap_or(0))
    }

    pub fn outgoing(&self, py: Python<'_>) -> PyResult<usize> {
        let size =
            |inner: &mut Inner| inner.ready.iter().map(|records| records.len()).sum::<usize>() + inner.session.spilt();
        Ok(self.enter(py, size).unwrap_or(0))
    }
}

#[cold]
fn in_use() -> PyErr {
    PyRuntimeError::new_err("the TLS session is in use by another thread")
}

/// The session within a new object, with a pipe of ours in the place of its two memory BIOs.
fn session_of(py: Python<'_>, openssl: &'static OpenSsl, made: &Portable) -> Option<Session> {
    let records = made.records.bind(py);
    let module = py.import(intern!(py, "_ssl")).ok()?;
    let is =
        |object: &Bound<'_, PyAny>, class: &str| module.getattr(class).is_ok_and(|class| object.get_type().is(&class));
    let context = records.getattr(intern!(py, "context")).ok()?;
    let (incoming, outgoing) = (made.incoming.bind(py), made.outgoing.bind(py));
    let known = made.native && is(incoming, "MemoryBIO") && is(outgoing, "MemoryBIO");
    let base = module.getattr("_SSLContext").ok()?;
    // Such a callback is called for every record, and can raise: that is for the object to handle.
    let watched = !context.getattr(intern!(py, "_msg_callback")).is_ok_and(|callback| callback.is_none());
    if !known || watched || !context.is_instance(&base).ok()? {
        return None;
    }
    // SAFETY: the types are those of the ssl module itself, of a version whose objects begin like this: the socket (none,
    // since this one is for memory), the session, the context; the context's own; the BIO. What surrounds the session
    // is compared with what is known from Python, and then again by `Session::of`. The object outlives the session:
    // both are fields of the engine, and this one is dropped first or with it.
    unsafe {
        let ([socket, ssl, owner], [native]) = (words(records)?, words(&context)?);
        let ([incoming], [outgoing]) = (words(incoming)?, words(outgoing)?);
        if !socket.is_null() || owner != context.as_ptr().cast() || ssl.is_null() || native.is_null() {
            return None;
        }
        let claims = Claims { context: native.cast(), incoming: incoming.cast(), outgoing: outgoing.cast() };
        Session::of(openssl, ssl.cast(), &claims)
    }
}

/// The first words of an object behind its head; None if it is too small for them.
///
/// # Safety
/// They are pointers, whatever to.
unsafe fn words<const N: usize>(object: &Bound<'_, PyAny>) -> Option<[*mut c_void; N]> {
    let head = size_of::<ffi::PyObject>();
    // SAFETY: reads the size of a live type, and then no more of the object than that.
    unsafe {
        let size = usize::try_from((*object.get_type_ptr()).tp_basicsize).ok()?;
        (size >= head + size_of::<[*mut c_void; N]>())
            .then(|| object.as_ptr().byte_add(head).cast::<[*mut c_void; N]>().read())
    }
}
