//! What Python calls on handles: cancelling them and asking about them.

use std::time::Duration;

use pyo3::exceptions::{PyAttributeError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyTuple, PyType};

use super::{Class, HandleTypes, INLINE, truth};
use crate::py::context;
use crate::py::event_loop::EventLoop;
use crate::py::invoke::Invoke;
use crate::py::native::{Args, Method, method};

/// The methods of plain handles alone.
pub static CANCEL: [Method; 1] =
    [method!(c"cancel", fn() cancel, c"Cancel the callback; calling it again does nothing.")];
/// Those of timers.
pub static TIMER: [Method; 2] = [
    method!(c"cancel", fn() cancel_timer, c"Cancel the callback; calling it again does nothing."),
    method!(c"when", fn() when, c"The time at which the callback runs, in seconds of loop.time()."),
];
/// Those of handles that several threads may cancel.
pub static SHARED: [Method; 2] = [
    method!(c"cancel", fn() cancel_shared, c"Cancel the callback, from any thread; waits while it runs in another."),
    method!(c"cancelled", fn() cancelled_shared, c"Whether it was cancelled; waits while it runs in another thread."),
];
/// Those that all have.
pub static COMMON: [Method; 2] = [
    method!(c"cancelled", fn() cancelled, c"Whether the callback was cancelled."),
    method!(c"get_context", fn() get_context, c"The contextvars.Context in which the callback runs."),
];

/// Reading and writing the attributes that are made when somebody looks: name, getter, setter.
static ATTRIBUTES: [(&str, Method, Method); 2] = [
    ("_args", method!(c"_args", fn() get_args, c""), method!(c"_args", set_args, c"")),
    ("_context", method!(c"_context", fn() get_context, c""), method!(c"_context", set_context, c"")),
];

/// Adds methods, and the attributes of all handles, to the finished class.
pub fn install(class: &Bound<'_, PyType>, methods: &[&'static [Method]]) -> PyResult<()> {
    methods.iter().flat_map(|some| some.iter()).try_for_each(|method| method.install(class))?;
    let property = class.py().import("builtins")?.getattr("property")?;
    for (name, getter, setter) in &ATTRIBUTES {
        class.setattr(*name, property.invoke((getter.bind(class)?, setter.bind(class)?))?)?;
    }
    Ok(())
}

fn cancel<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let types = HandleTypes::get(py)?;
    try_cancel(types, handle, loop_of(types, handle)?, || true)?;
    Ok(py.None().into_bound(py))
}

fn cancel_timer<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let types = HandleTypes::get(py)?;
    let event_loop = loop_of(types, handle)?;
    let live = try_cancel(types, handle, event_loop, || true)? == Some(true);
    // SAFETY: a method of our timer class; only the loop's thread changes this slot.
    if live && unsafe { types.scheduled.is(handle.as_ptr(), ffi::Py_True()) } {
        event_loop.note_cancelled_timer(py);
    }
    Ok(py.None().into_bound(py))
}

/// The loop of a handle.
fn loop_of<'a>(types: &HandleTypes, handle: &'a Bound<'_, PyAny>) -> PyResult<&'a EventLoop> {
    // SAFETY: a method of our classes; the slot is set once, when the handle is made, and the caller keeps the handle.
    let event_loop = unsafe { types.event_loop.peek(handle.as_ptr()) };
    let event_loop = event_loop.ok_or_else(|| PyRuntimeError::new_err("the handle was never scheduled"))?;
    Ok(event_loop.bind(handle.py()).cast::<EventLoop>()?.get())
}

fn cancel_shared<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let types = HandleTypes::get(py)?;
    let event_loop = loop_of(types, handle)?;
    while try_cancel(types, handle, event_loop, || !is_busy(types, handle))?.is_none() {
        wait_while_busy(types, handle)?;
    }
    Ok(py.None().into_bound(py))
}

fn cancelled_shared<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    wait_while_busy(HandleTypes::get(handle.py())?, handle)?;
    cancelled(handle)
}

/// Whether the callback runs right now in another thread.
fn is_busy(types: &HandleTypes, handle: &Bound<'_, PyAny>) -> bool {
    // SAFETY: an instance of the class with these slots, and True is immortal.
    unsafe {
        let running = types.shared(handle.as_ptr()).is_some_and(|it| it.busy.is(handle.as_ptr(), ffi::Py_True()));
        let event_loop = types.event_loop.get(handle);
        running && event_loop.is_some_and(|it| it.cast::<EventLoop>().is_ok_and(|it| !it.get().runs_here()))
    }
}

/// Waits until the callback does not run in another thread. Hardly ever has to.
fn wait_while_busy(types: &HandleTypes, handle: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = handle.py();
    let mut pause = Duration::from_micros(20);
    while with_critical_section(handle, || is_busy(types, handle)) {
        py.detach(|| std::thread::sleep(pause));
        py.check_signals()?;
        pause = (pause * 2).min(Duration::from_millis(1));
    }
    Ok(())
}

/// Marks a handle as cancelled and lets go of its callback, unless `may` forbids it, which is asked while no other
/// thread can change the handle. Says whether it was live.
fn try_cancel(
    types: &HandleTypes,
    handle: &Bound<'_, PyAny>,
    event_loop: &EventLoop,
    may: impl FnOnce() -> bool,
) -> PyResult<Option<bool>> {
    let py = handle.py();
    // SAFETY: a method of our classes, and the critical section keeps other threads away from the slots.
    let live = with_critical_section(handle, || unsafe {
        if !may() {
            return None;
        }
        let live = !types.cancelled.is(handle.as_ptr(), ffi::Py_True());
        types.cancelled.replace(handle, truth(py, true));
        Some(live)
    });
    if live != Some(true) {
        return Ok(live);
    }
    if event_loop.is_debug() {
        // Keeps what the callback was, for the log of slow callbacks.
        let text = handle.repr()?.into_any();
        // SAFETY: as above.
        unsafe { types.repr.replace(handle, text) };
    }
    let none = || py.None().into_bound(py);
    let inline = types.class_of(handle.as_ptr()).map(|class| class.inline);
    // SAFETY: as above. What was there is dropped outside the critical section, for it may run code.
    let _old = with_critical_section(handle, || unsafe {
        let inline = inline.map(|first| std::array::from_fn::<_, INLINE, _>(|index| first.after(index).take(handle)));
        (types.callback.replace(handle, none()), types.args.replace(handle, none()), inline)
    });
    Ok(Some(true))
}

fn cancelled<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    // SAFETY: a method of our classes.
    Ok(truth(py, unsafe { HandleTypes::get(py)?.cancelled.is(handle.as_ptr(), ffi::Py_True()) }))
}

fn get_context<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    context_of(HandleTypes::get(handle.py())?, handle)
}

fn set_context<'py>(handle: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let types = HandleTypes::get(py)?;
    let context = args.get(0).map(|context| context.to_owned());
    // SAFETY: a method of our classes. What was there is dropped outside the critical section, for it may run code.
    let _old =
        context.map(|context| with_critical_section(handle, || unsafe { types.context.replace(handle, context) }));
    Ok(py.None().into_bound(py))
}

/// The context of a handle of ours, which is made now if it was a new one that nobody had seen.
pub fn context_of<'py>(types: &HandleTypes, handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: only handles of ours come here, and the critical section keeps other threads away from the slot.
    if let Some(context) = with_critical_section(handle, || unsafe { types.context.get(handle) }) {
        return Ok(context);
    }
    let made = context::new(handle.py())?;
    // SAFETY: as above.
    Ok(with_critical_section(handle, || unsafe {
        types.context.get(handle).unwrap_or_else(|| {
            types.context.fill(handle, made.clone());
            made
        })
    }))
}

fn get_args<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let types = HandleTypes::get(handle.py())?;
    match types.class_of(handle.as_ptr()) {
        Some(class) => arguments(types, class, handle),
        // A subclass, which only Python code can have made, and that sets them.
        // SAFETY: a method of our classes.
        None => unsafe { types.args.get(handle) }.ok_or_else(|| PyAttributeError::new_err("_args")),
    }
}

fn set_args<'py>(handle: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let types = HandleTypes::get(py)?;
    let new = args.get(0).map(|new| new.to_owned());
    // SAFETY: a method of our classes. What was there is dropped outside the critical section, for it may run code.
    let _old = new.map(|new| with_critical_section(handle, || unsafe { types.args.replace(handle, new) }));
    Ok(py.None().into_bound(py))
}

/// The arguments of a handle as asyncio has them: a tuple, or None once it is cancelled.
pub fn arguments<'py>(types: &HandleTypes, class: &Class, handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    // SAFETY: an instance of this class, and the critical section keeps other threads away from the slots.
    with_critical_section(handle, || unsafe {
        if let Some(args) = types.args.get(handle) {
            return Ok(args);
        }
        let inline = (0..INLINE).map_while(|index| class.inline.after(index).get(handle));
        let args = PyTuple::new(py, inline.collect::<Vec<_>>())?.into_any();
        types.args.fill(handle, args.clone());
        Ok(args)
    })
}

fn when<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    // SAFETY: a method of our timer class.
    let when = unsafe { HandleTypes::get(py)?.when.get(handle) };
    Ok(when.unwrap_or_else(|| py.None().into_bound(py)))
}
