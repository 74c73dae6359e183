//! Buffers that Python lends, and bytes made in place: the calls that PyO3 has no safe form for.

use std::convert::Infallible;
use std::ffi::{CStr, c_char, c_int};
use std::mem::MaybeUninit;

use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyByteArray, PyBytes};
use pyo3::{PyErr, ffi};

// Part of CPython's C API in every version that zloop runs on, but not among PyO3's declarations.
unsafe extern "C" {
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> c_int;
    fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;
}

/// Whether asyncio lets this exception out of the loop instead of reporting it.
pub fn escapes(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyKeyboardInterrupt>(py) || error.is_instance_of::<PySystemExit>(py)
}

/// Runs `body` as in an `except` block for this exception: `sys.exc_info()` tells of it, and so does what is raised there.
pub fn handling<R>(py: Python<'_>, error: &PyErr, body: impl FnOnce() -> R) -> R {
    // SAFETY: attached; it answers with a new reference, or NULL if nothing is being handled.
    let before = unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyErr_GetHandledException()) };
    // SAFETY: attached; it takes no reference over.
    unsafe { ffi::PyErr_SetHandledException(error.value(py).as_ptr()) };
    let result = body();
    let before = before.as_ref().map_or(std::ptr::null_mut(), Bound::as_ptr);
    // SAFETY: as above; NULL stands for nothing.
    unsafe { ffi::PyErr_SetHandledException(before) };
    result
}

/// Makes a `bytes` of at most `capacity` bytes, which `fill` writes straight into its final place. `fill` says how many
/// it wrote.
pub fn bytes_filled_by<'py, E>(
    py: Python<'py>,
    capacity: usize,
    fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<usize, E>,
) -> PyResult<Result<Bound<'py, PyBytes>, E>> {
    // SAFETY: attached; with NULL the bytes are left uninitialised and nobody else has the object yet.
    let mut object = unsafe { ffi::PyBytes_FromStringAndSize(std::ptr::null(), capacity as ffi::Py_ssize_t) };
    if object.is_null() {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: the object owns `capacity` bytes there, and only this function knows it.
    let room = unsafe { std::slice::from_raw_parts_mut(ffi::PyBytes_AS_STRING(object) as *mut _, capacity) };
    match fill(room) {
        Ok(count) => {
            assert!(count <= capacity, "more was written than fits");
            // SAFETY: the only reference to an object that was never hashed; on failure it frees it and writes NULL.
            let resized = unsafe { _PyBytes_Resize(&raw mut object, count as ffi::Py_ssize_t) };
            if resized != 0 {
                return Err(PyErr::fetch(py));
            }
            // SAFETY: a new reference to a `bytes`, which is what PyBytes_FromStringAndSize makes.
            Ok(Ok(unsafe { Bound::from_owned_ptr(py, object).cast_into_unchecked() }))
        }
        Err(error) => {
            // SAFETY: our own, only reference.
            unsafe { ffi::Py_DECREF(object) };
            Ok(Err(error))
        }
    }
}

/// Shows Python a place as a `memoryview`, for one call that writes to it and keeps nothing of it.
///
/// # Safety
/// Whoever gets the view only writes, and neither keeps it nor takes another view of it beyond `body`.
pub unsafe fn lend<'py, R>(
    py: Python<'py>,
    room: &mut [MaybeUninit<u8>],
    body: impl FnOnce(&Bound<'py, PyAny>) -> R,
) -> PyResult<R> {
    // SAFETY: the place is as long as is said, and there until the view is dropped, by the caller's promise.
    let view = unsafe {
        let view =
            ffi::PyMemoryView_FromMemory(room.as_mut_ptr().cast(), room.len() as ffi::Py_ssize_t, ffi::PyBUF_WRITE);
        Bound::from_owned_ptr_or_err(py, view)?
    };
    Ok(body(&view))
}

/// Appends at most `capacity` bytes to a `bytearray`, which `fill` writes straight into their place. `fill` says how many
/// it wrote.
///
/// # Errors
/// Python's, before `fill` is called: somebody holds a view of the bytes, or there is no memory.
pub fn extended_by<E>(
    buffer: &Bound<'_, PyByteArray>,
    capacity: usize,
    fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<usize, E>,
) -> PyResult<Result<usize, E>> {
    with_critical_section(buffer, || {
        let start = buffer.len();
        buffer.resize(start + capacity)?;
        assert_eq!(buffer.len(), start + capacity, "somebody else changed the size");
        // SAFETY: the array owns `capacity` bytes from `start` on. It is locked, and `fill` knows nothing of it, so nobody
        // else has a look at it or moves it meanwhile.
        let room = unsafe { std::slice::from_raw_parts_mut(buffer.data().add(start).cast(), capacity) };
        let filled = fill(room);
        let count = *filled.as_ref().unwrap_or(&0);
        assert!(count <= capacity, "more was written than fits");
        if count < capacity {
            buffer.resize(start + count)?;
        }
        Ok(filled)
    })
}

/// Appends bytes to a `bytearray`.
///
/// # Errors
/// As [`extended_by`].
#[inline]
pub fn append(buffer: &Bound<'_, PyByteArray>, bytes: &[u8]) -> PyResult<()> {
    let filled = extended_by(buffer, bytes.len(), |room| {
        for (slot, byte) in room.iter_mut().zip(bytes) {
            slot.write(*byte);
        }
        Ok::<_, Infallible>(bytes.len())
    });
    filled.map(drop)
}

/// Tells audit hooks, if there are any, of what a socket is about to do, as its own methods do.
pub fn audit(event: &CStr, sock: &Bound<'_, PyAny>, address: &Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: attached; the format asks for two live objects, and both are given.
    let refused = unsafe { PySys_Audit(event.as_ptr(), c"OO".as_ptr(), sock.as_ptr(), address.as_ptr()) };
    if refused == 0 { Ok(()) } else { Err(PyErr::fetch(sock.py())) }
}

/// A contiguous buffer lent by a Python object, given back when dropped.
struct Lent<'py> {
    view: Box<ffi::Py_buffer>,
    _py: Python<'py>,
}

impl<'py> Lent<'py> {
    fn of(object: &Bound<'py, PyAny>, flags: c_int) -> PyResult<Self> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: attached, and `view` outlives the call; it is released in `drop`, only if this succeeded.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *view, flags) } != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        Ok(Self { view, _py: object.py() })
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        // SAFETY: filled by PyObject_GetBuffer, released once, attached.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.view) };
    }
}

/// Memory of a Python object that is lent to be written to.
pub struct WritableBuffer<'py>(Lent<'py>);

impl<'py> WritableBuffer<'py> {
    /// Borrows the memory of `object`.
    ///
    /// # Errors
    /// `TypeError` or `BufferError` if it has none that can be written to.
    pub fn of(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        Lent::of(object, ffi::PyBUF_WRITABLE).map(Self)
    }

    /// Whether there is no room at all.
    pub fn is_empty(&self) -> bool {
        self.0.view.len == 0
    }

    /// The memory lent.
    pub fn as_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        if self.is_empty() {
            return &mut [];
        }
        // SAFETY: a simple writable buffer is `len` contiguous bytes at `buf`, and the exporter keeps them there until
        // the release. Python code that changes them meanwhile is its own problem, as with `socket.recv_into`: the
        // kernel writes them, and this reference does not outlive that call.
        unsafe { std::slice::from_raw_parts_mut(self.0.view.buf.cast(), self.0.view.len as usize) }
    }
}

/// Memory of a Python object that is lent to be read.
pub struct ReadableBuffer<'py>(Lent<'py>);

impl<'py> ReadableBuffer<'py> {
    /// Borrows the memory of `object`.
    ///
    /// # Errors
    /// `TypeError` or `BufferError` if it has none in one piece.
    pub fn of(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        Lent::of(object, ffi::PyBUF_SIMPLE).map(Self)
    }

    /// The memory lent.
    pub fn as_slice(&self) -> &[u8] {
        if self.0.view.len == 0 {
            return &[];
        }
        // SAFETY: as for `WritableBuffer`: the bytes are only copied, by the kernel or into others, within one call.
        unsafe { std::slice::from_raw_parts(self.0.view.buf.cast(), self.0.view.len as usize) }
    }
}
