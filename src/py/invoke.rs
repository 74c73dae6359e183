//! Calls into Python.
//!
//! Before 3.14, CPython ends a thread that asks for the GIL while the interpreter shuts down, wherever that thread is: most
//! often in Python code that the loop of a daemon thread called. The C library may do so by unwinding the stack (glibc
//! does), which would run the destructors of all our frames, and they let go of Python objects although the thread is not
//! attached any more. So the frame that calls Python keeps such a thread for good, as 3.14 does by itself. PyO3's own calls
//! do not; `clippy.toml` lists them, so that none is used by oversight.

use std::thread;

use pyo3::BoundObject;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

// PyO3 declares these as functions that never unwind.
unsafe extern "C-unwind" {
    fn PyObject_Call(function: *mut PyObject, args: *mut PyObject, options: *mut PyObject) -> *mut PyObject;
    fn PyObject_Vectorcall(
        function: *mut PyObject,
        args: *const *mut PyObject,
        count: usize,
        names: *mut PyObject,
    ) -> *mut PyObject;
    fn PyObject_VectorcallMethod(
        name: *mut PyObject,
        args: *const *mut PyObject,
        count: usize,
        names: *mut PyObject,
    ) -> *mut PyObject;
}

/// Objects that can be called, or have methods.
pub trait Invoke<'py> {
    /// `self(*args)`
    fn invoke(&self, args: impl Arguments<'py>) -> PyResult<Bound<'py, PyAny>>;

    /// `self(*args, **options)`
    fn invoke_with<A>(&self, args: A, options: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>>
    where
        A: IntoPyObject<'py, Target = PyTuple>;

    /// `self.name(*args)`
    fn invoke_method<N>(&self, name: N, args: impl Arguments<'py>) -> PyResult<Bound<'py, PyAny>>
    where
        N: IntoPyObject<'py, Target = PyString>;
}

impl<'py> Invoke<'py> for Bound<'py, PyAny> {
    #[inline]
    fn invoke(&self, args: impl Arguments<'py>) -> PyResult<Bound<'py, PyAny>> {
        args.lay_out(self.py(), |words| {
            let count = (words.len() - BEFORE) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
            // SAFETY: the words from `BEFORE` on are live objects, and the one before them is free to be written to.
            unsafe { vectorcall(self, words.as_ptr().add(BEFORE), count, std::ptr::null_mut()) }
        })
    }

    #[inline]
    fn invoke_with<A>(&self, args: A, options: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>>
    where
        A: IntoPyObject<'py, Target = PyTuple>,
    {
        let args = args.into_pyobject(self.py()).map_err(Into::into)?;
        // SAFETY: attached; a live object, a tuple and a dict.
        let result = keeping(|| unsafe { PyObject_Call(self.as_ptr(), args.as_borrowed().as_ptr(), options.as_ptr()) });
        // SAFETY: a new reference, or NULL with an exception set.
        unsafe { Bound::from_owned_ptr_or_err(self.py(), result) }
    }

    #[inline]
    fn invoke_method<N>(&self, name: N, args: impl Arguments<'py>) -> PyResult<Bound<'py, PyAny>>
    where
        N: IntoPyObject<'py, Target = PyString>,
    {
        let name = name.into_pyobject(self.py()).map_err(Into::into)?;
        args.lay_out(self.py(), |words| {
            words[BEFORE - 1] = self.as_ptr();
            let count = (words.len() - BEFORE + 1) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
            let first = &raw const words[BEFORE - 1];
            // SAFETY: attached; the name is a string, the words from `first` on are live objects, and there is one before
            // them that is free to be written to.
            unsafe {
                let name = name.as_borrowed().as_ptr();
                let result = keeping(|| PyObject_VectorcallMethod(name, first, count, std::ptr::null_mut()));
                Bound::from_owned_ptr_or_err(self.py(), result)
            }
        })
    }
}

/// Calls `function` with the objects from `first` on: `count` by position, then one for each of `names`, a tuple of strings
/// or NULL.
///
/// # Safety
/// They live as long as the call. `count` may carry `PY_VECTORCALL_ARGUMENTS_OFFSET` if the word before them may be
/// written to meanwhile.
#[inline]
pub unsafe fn vectorcall<'py>(
    function: &Bound<'py, PyAny>,
    first: *const *mut PyObject,
    count: usize,
    names: *mut PyObject,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached; the rest is the caller's promise. The result is a new reference, or NULL with an exception set.
    unsafe {
        let result = keeping(|| PyObject_Vectorcall(function.as_ptr(), first, count, names));
        Bound::from_owned_ptr_or_err(function.py(), result)
    }
}

/// Calls `body`. If CPython ends this thread meanwhile, it stays here.
#[inline]
fn keeping<R>(body: impl FnOnce() -> R) -> R {
    struct Keep;

    impl Drop for Keep {
        #[cold]
        fn drop(&mut self) {
            loop {
                thread::park();
            }
        }
    }

    let keep = Keep;
    let result = body();
    std::mem::forget(keep);
    result
}

/// How many words lie before the arguments: one for the object whose method is called, and one that callees may use.
const BEFORE: usize = 2;

/// Positional arguments: a tuple of whatever can become a Python object.
pub trait Arguments<'py>: Sized {
    /// Calls `body` with `BEFORE` free words and the arguments after them.
    fn lay_out<R>(self, py: Python<'py>, body: impl FnOnce(&mut [*mut PyObject]) -> PyResult<R>) -> PyResult<R>;
}

macro_rules! arguments {
    ($($name:ident)*) => {
        impl<'py, $($name: IntoPyObject<'py>),*> Arguments<'py> for ($($name,)*) {
            #[inline]
            #[expect(non_snake_case, reason = "each object is named after its type")]
            fn lay_out<R>(self, py: Python<'py>, body: impl FnOnce(&mut [*mut PyObject]) -> PyResult<R>) -> PyResult<R> {
                let ($($name,)*) = self;
                $(let $name = $name.into_pyobject(py).map_err(Into::into)?;)*
                body(&mut [std::ptr::null_mut(), std::ptr::null_mut(), $($name.as_borrowed().as_ptr()),*])
            }
        }
    };
}

impl<'py> Arguments<'py> for () {
    #[inline]
    fn lay_out<R>(self, _py: Python<'py>, body: impl FnOnce(&mut [*mut PyObject]) -> PyResult<R>) -> PyResult<R> {
        body(&mut [std::ptr::null_mut(); BEFORE])
    }
}

arguments!(A);
arguments!(A B);
arguments!(A B C);
arguments!(A B C D);
arguments!(A B C D E);
arguments!(A B C D E F);
arguments!(A B C D E F G);
arguments!(A B C D E F G H);
arguments!(A B C D E F G H I);
