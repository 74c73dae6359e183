//! Running a handle as asyncio's `Handle._run` does.

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyTuple};

use super::methods::{arguments, context_of};
use super::{Class, HandleTypes, INLINE, memory};
use crate::py::call;
use crate::py::context;
use crate::py::errors;
use crate::py::event_loop::EventLoop;
use crate::py::invoke::{self, Invoke};

/// Runs a handle as its `_run` does. What asyncio reports is reported, and only what escapes the loop is an error.
/// `shared` is the context for handles without one of their own.
#[inline]
pub fn run<'py>(
    types: &HandleTypes,
    event_loop: &Bound<'py, EventLoop>,
    shared: &mut context::Shared<'py>,
    handle: Bound<'py, PyAny>,
) -> PyResult<()> {
    let class = types.class_of(handle.as_ptr());
    if let Some(class) = class.filter(|class| class.memory.is_private(handle.as_ptr())) {
        // SAFETY: an instance of this class, and nobody else can reach it.
        return unsafe { run_private(types, class, event_loop, shared, handle) };
    }
    shared.leave()?;
    match class {
        Some(class) => run_known(types, class, event_loop, &handle),
        None => run_foreign(&handle),
    }
}

/// A subclass of asyncio's, or of ours, which may have ideas of its own.
#[cold]
fn run_foreign(handle: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = handle.py();
    if handle.getattr(intern!(py, "_cancelled"))?.is_truthy()? {
        return Ok(());
    }
    handle.invoke_method(intern!(py, "_run"), ()).map(drop)
}

/// Runs a handle that nobody but the loop has: it is not cancelled while it runs, so what is in it stays there.
///
/// # Safety
/// An instance of `class` that is [private](memory::Memory::is_private).
#[inline]
unsafe fn run_private<'py>(
    types: &HandleTypes,
    class: &Class,
    event_loop: &Bound<'py, EventLoop>,
    shared: &mut context::Shared<'py>,
    handle: Bound<'py, PyAny>,
) -> PyResult<()> {
    let py = handle.py();
    let object = handle.as_ptr();
    // SAFETY: an instance of the class that has these slots.
    unsafe {
        if types.cancelled.is(object, ffi::Py_True()) {
            return Ok(());
        }
        let (Some(callback), None) = (types.callback.peek(object), types.args.peek(object)) else {
            shared.leave()?;
            return run_known(types, class, event_loop, &handle);
        };
        let first = class.inline.place(object);
        let count = (0..INLINE).take_while(|index| !(*first.add(*index)).is_null()).count();
        // The callee may use the word before its arguments for the time of the call, which spares bound methods a copy of
        // them. It is a slot of the handle, which nobody looks at meanwhile.
        let count = count | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
        let call = || invoke::vectorcall(callback.bind(py), first, count, std::ptr::null_mut());
        let result = match types.context.peek(object) {
            Some(context) => {
                shared.leave()?;
                context::run(context.bind(py), call)
            }
            None if shared.enter(py)? => call(),
            None => {
                let made = context::new(py)?;
                let result = context::run(&made, call);
                types.context.fill(&handle, made);
                result
            }
        };
        match result {
            Ok(_) => {
                class.memory.recycle(types, class, handle);
                Ok(())
            }
            Err(error) => {
                if types.context.peek(object).is_none()
                    && let Some(context) = shared.give_up()?
                {
                    types.context.fill(&handle, context);
                }
                failed(types, class, event_loop, &handle, error)
            }
        }
    }
}

/// Runs a handle that others have too.
fn run_known(
    types: &HandleTypes,
    class: &Class,
    event_loop: &Bound<'_, EventLoop>,
    handle: &Bound<'_, PyAny>,
) -> PyResult<()> {
    // SAFETY: an instance of the class that has this slot, and True is immortal.
    if unsafe { types.cancelled.is(handle.as_ptr(), ffi::Py_True()) } {
        return Ok(());
    }
    let args = arguments(types, class, handle)?;
    let context = context_of(types, handle)?;
    // The callback may cancel its own handle, which empties the slots: hold on to what is running.
    // SAFETY: `class_of` checked the class, and the critical section keeps cancelling threads out.
    let callback = with_critical_section(handle, || unsafe {
        if types.cancelled.is(handle.as_ptr(), ffi::Py_True()) {
            return None;
        }
        if let Some(shared) = types.shared(handle.as_ptr()) {
            shared.set_busy(handle, true);
        }
        types.callback.get(handle)
    });
    let Some(callback) = callback else { return Ok(()) };
    let result = context::run(&context, || {
        let args = args.cast::<PyTuple>()?;
        // SAFETY: the items of a live tuple lie in a row, and our references keep it and the callback.
        unsafe {
            let items = (*args.as_ptr().cast::<ffi::PyTupleObject>()).ob_item.as_ptr();
            invoke::vectorcall(&callback, items, args.len(), std::ptr::null_mut())
        }
    });
    let result = match result {
        Ok(_) => Ok(()),
        Err(error) => failed(types, class, event_loop, handle, error),
    };
    if let Some(shared) = types.shared(handle.as_ptr()) {
        with_critical_section(handle, || shared.set_busy(handle, false));
    }
    result
}

#[cold]
fn failed(
    types: &HandleTypes,
    class: &Class,
    event_loop: &Bound<'_, EventLoop>,
    handle: &Bound<'_, PyAny>,
    error: PyErr,
) -> PyResult<()> {
    if call::escapes(handle.py(), &error) {
        return Err(error);
    }
    // The exception handler gets to see it.
    memory::track(handle.as_ptr());
    report(types, class, event_loop, handle, &error)
}
/// Tells the loop's exception handler that a callback failed, as `asyncio.Handle._run` does.
#[cold]
fn report(
    types: &HandleTypes,
    class: &Class,
    event_loop: &Bound<'_, EventLoop>,
    handle: &Bound<'_, PyAny>,
    error: &PyErr,
) -> PyResult<()> {
    let py = handle.py();
    // SAFETY: only handles of ours are run here.
    let (callback, traceback) = unsafe { (types.callback.get(handle), types.source_traceback.get(handle)) };
    let source = describe(event_loop, callback, arguments(types, class, handle)?)?;
    let context = PyDict::new(py);
    context.set_item("message", format!("Exception in callback {source}"))?;
    context.set_item("exception", error.value(py))?;
    context.set_item("handle", handle)?;
    if let Some(traceback) = traceback.filter(|traceback| traceback.is_truthy().unwrap_or(false)) {
        context.set_item("source_traceback", traceback)?;
    }
    errors::tell_handler(event_loop, context, error)
}

/// asyncio's words for a callback and its arguments. Since 3.14 it hides the arguments outside debug mode.
fn describe<'py>(
    event_loop: &Bound<'py, EventLoop>,
    callback: Option<Bound<'py, PyAny>>,
    args: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = event_loop.py();
    let helpers = py.import("asyncio.format_helpers")?;
    let function = helpers.getattr("_format_callback_source")?;
    let options = PyDict::new(py);
    if takes_debug(py)? {
        options.set_item("debug", event_loop.get().is_debug())?;
    }
    function.invoke_with((callback, args), &options)
}

/// Whether this version's `_format_callback_source` has the parameter `debug`.
fn takes_debug(py: Python<'_>) -> PyResult<bool> {
    static TAKES_DEBUG: PyOnceLock<bool> = PyOnceLock::new();
    TAKES_DEBUG
        .get_or_try_init(py, || {
            let function = py.import("asyncio.format_helpers")?.getattr("_format_callback_source")?;
            let signature = py.import("inspect")?.invoke_method("signature", (function,))?;
            signature.getattr("parameters")?.contains("debug")
        })
        .copied()
}
