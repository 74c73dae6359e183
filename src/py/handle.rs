//! `Handle` and `TimerHandle`: asyncio's own classes, created, cancelled and run without a Python frame.
//!
//! They are subclasses with asyncio's `__slots__` and no others, so that whatever Python code does with a handle of
//! asyncio works with ours: `repr`, ordering, debuggers. Only the methods on the hot path are native.

use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyBool, PyDict, PyTuple, PyType};

use super::call;
use super::event_loop::EventLoop;
#[cfg(not(Py_GIL_DISABLED))]
use super::native::set_dealloc;
use super::native::{Method, Slot, allocate, make_class, method};

/// The two classes and where they keep what.
#[derive(Debug)]
pub struct HandleTypes {
    handle: Py<PyType>,
    timer: Py<PyType>,
    callback: Slot,
    args: Slot,
    cancelled: Slot,
    event_loop: Slot,
    source_traceback: Slot,
    repr: Slot,
    context: Slot,
    scheduled: Slot,
    when: Slot,
    /// Since 3.14 there is a class of its own for handles that several threads may cancel.
    shared: Option<SharedType>,
}

#[derive(Debug)]
struct SharedType {
    class: Py<PyType>,
    /// asyncio keeps a lock here that `cancel()` waits for while the callback runs. Making one for each handle costs more
    /// than everything else; ours is True while the callback runs.
    busy: Slot,
}

static TYPES: PyOnceLock<HandleTypes> = PyOnceLock::new();

static HANDLE_METHODS: [Method; 3] = [
    method!(c"cancel", fn() cancel, c"Cancel the callback; calling it again does nothing."),
    method!(c"cancelled", fn() cancelled, c"Whether the callback was cancelled."),
    method!(c"get_context", fn() get_context, c"The contextvars.Context in which the callback runs."),
];
static SHARED_METHODS: [Method; 2] = [
    method!(c"cancel", fn() cancel_shared, c"Cancel the callback, from any thread; waits while it runs in another."),
    method!(c"cancelled", fn() cancelled_shared, c"Whether it was cancelled; waits while it runs in another thread."),
];
static TIMER_METHODS: [Method; 2] = [
    method!(c"cancel", fn() cancel_timer, c"Cancel the callback; calling it again does nothing."),
    method!(c"when", fn() when, c"The time at which the callback runs, in seconds of loop.time()."),
];

impl HandleTypes {
    /// The types of this process, made on first use.
    pub fn get(py: Python<'_>) -> PyResult<&'static Self> {
        TYPES.get_or_try_init(py, || Self::make(py))
    }

    fn make(py: Python<'_>) -> PyResult<Self> {
        let events = py.import("asyncio.events")?;
        let base: Bound<'_, PyType> = events.getattr("Handle")?.cast_into()?;
        let timer_base: Bound<'_, PyType> = events.getattr("TimerHandle")?.cast_into()?;
        let handle = make_class(&base, "Handle", &[], "A callback scheduled on a zloop loop.")?;
        let timer = make_class(&timer_base, "TimerHandle", &[], "A callback scheduled for a time on a zloop loop.")?;
        for method in &HANDLE_METHODS {
            method.install(&handle)?;
        }
        for method in HANDLE_METHODS[1..].iter().chain(&TIMER_METHODS) {
            method.install(&timer)?;
        }
        let shared =
            events.getattr_opt("_ThreadSafeHandle")?.map(|base| SharedType::make(&base.cast_into()?)).transpose()?;
        // SAFETY: both classes come from `make_class`, have exactly the slots that `release` empties, and their bases
        // have no finalizer.
        #[cfg(not(Py_GIL_DISABLED))]
        unsafe {
            set_dealloc(&handle, dealloc::<false>);
            set_dealloc(&timer, dealloc::<true>);
        }
        Ok(Self {
            callback: Slot::of(&base, "_callback")?,
            args: Slot::of(&base, "_args")?,
            cancelled: Slot::of(&base, "_cancelled")?,
            event_loop: Slot::of(&base, "_loop")?,
            source_traceback: Slot::of(&base, "_source_traceback")?,
            repr: Slot::of(&base, "_repr")?,
            context: Slot::of(&base, "_context")?,
            scheduled: Slot::of(&timer_base, "_scheduled")?,
            when: Slot::of(&timer_base, "_when")?,
            handle: handle.unbind(),
            timer: timer.unbind(),
            shared,
        })
    }

    /// Adds both classes to the module.
    pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let types = Self::get(module.py())?;
        module.add("Handle", types.handle.bind(module.py()))?;
        if let Some(shared) = &types.shared {
            module.setattr("_ThreadSafeHandle", shared.class.bind(module.py()))?;
        }
        module.add("TimerHandle", types.timer.bind(module.py()))
    }

    /// Whether this is one of ours, so that its slots may be used.
    #[inline]
    fn owns(&self, object: *mut ffi::PyObject) -> bool {
        // SAFETY: reads the type of a live object.
        let class = unsafe { ffi::Py_TYPE(object) }.cast();
        class == self.handle.as_ptr() || class == self.timer.as_ptr() || self.shared(object).is_some()
    }

    /// The type of handles for several threads, if this is one.
    #[inline]
    fn shared(&self, object: *mut ffi::PyObject) -> Option<&SharedType> {
        // SAFETY: reads the type of a live object.
        let class = unsafe { ffi::Py_TYPE(object) }.cast();
        self.shared.as_ref().filter(|shared| shared.class.as_ptr() == class)
    }
}

impl SharedType {
    fn make(base: &Bound<'_, PyType>) -> PyResult<Self> {
        let class = make_class(base, "_ThreadSafeHandle", &[], "A callback that another thread scheduled.")?;
        for method in SHARED_METHODS.iter().chain(&HANDLE_METHODS[2..]) {
            method.install(&class)?;
        }
        Ok(Self { busy: Slot::of(base, "_lock")?, class: class.unbind() })
    }

    fn set_busy(&self, handle: &Bound<'_, PyAny>, busy: bool) {
        // SAFETY: an instance of the class with this slot, inside a critical section.
        unsafe { self.busy.replace(handle, truth(handle.py(), busy)) };
    }
}

/// Frees a handle. The interpreter's own function for classes made by `type(...)` finds each slot anew by walking all
/// bases and their member tables, which costs more than creating the handle.
#[cfg(not(Py_GIL_DISABLED))]
unsafe extern "C" fn dealloc<const TIMER: bool>(object: *mut ffi::PyObject) {
    // SAFETY: called by the interpreter, attached, with the last reference to an instance of one of our classes.
    unsafe {
        let py = Python::assume_attached();
        ffi::PyObject_GC_UnTrack(object.cast());
        let class = ffi::Py_TYPE(object);
        let weak: *mut *mut ffi::PyObject = object.byte_offset((*class).tp_weaklistoffset).cast();
        if !(*weak).is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        if let Some(types) = TYPES.get(py) {
            let common = [types.callback, types.args, types.context, types.event_loop, types.repr];
            common.into_iter().for_each(|slot| slot.release(object));
            types.cancelled.release(object);
            types.source_traceback.release(object);
            if TIMER {
                types.when.release(object);
                types.scheduled.release(object);
            }
        }
        if let Some(free) = (*class).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}

/// A callback about to be scheduled.
pub struct Callback<'py> {
    pub function: Bound<'py, PyAny>,
    pub args: Bound<'py, PyTuple>,
    /// The caller's, copied, unless one was given.
    pub context: Bound<'py, PyAny>,
}

/// Makes a handle that is neither queued nor cancelled.
#[inline]
pub fn new_handle<'py>(
    types: &HandleTypes,
    event_loop: &Bound<'py, EventLoop>,
    callback: Callback<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: made by `make_class` on asyncio's Python classes.
    let handle = unsafe { allocate(types.handle.bind(event_loop.py()))? };
    fill(types, &handle, event_loop, callback)?;
    Ok(handle)
}

/// Makes a handle that any thread may cancel, of the class that this Python has for it.
pub fn new_shared_handle<'py>(
    types: &HandleTypes,
    event_loop: &Bound<'py, EventLoop>,
    callback: Callback<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let Some(shared) = &types.shared else { return new_handle(types, event_loop, callback) };
    // SAFETY: made by `make_class` on asyncio's Python classes.
    let handle = unsafe { allocate(shared.class.bind(event_loop.py()))? };
    fill(types, &handle, event_loop, callback)?;
    // SAFETY: an instance of the class that has this slot, it is empty, and nobody else has it yet.
    unsafe { shared.busy.fill(&handle, truth(event_loop.py(), false)) };
    Ok(handle)
}

/// Makes a timer's handle, marked as scheduled.
#[inline]
pub fn new_timer<'py>(
    types: &HandleTypes,
    event_loop: &Bound<'py, EventLoop>,
    when: Bound<'py, PyAny>,
    callback: Callback<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = event_loop.py();
    // SAFETY: as above.
    let handle = unsafe { allocate(types.timer.bind(py))? };
    fill(types, &handle, event_loop, callback)?;
    // SAFETY: an instance of the class that has these slots, and nobody else has it yet.
    unsafe {
        types.when.fill(&handle, when);
        types.scheduled.fill(&handle, truth(py, true));
    }
    Ok(handle)
}

#[inline]
fn fill<'py>(
    types: &HandleTypes,
    handle: &Bound<'py, PyAny>,
    event_loop: &Bound<'py, EventLoop>,
    callback: Callback<'py>,
) -> PyResult<()> {
    let py = handle.py();
    let traceback = if event_loop.get().is_debug() {
        // The innermost frame is the caller's: native functions have none.
        py.import("asyncio.format_helpers")?.call_method0("extract_stack")?
    } else {
        py.None().into_bound(py)
    };
    // SAFETY: an instance of the class that has these slots, they are empty, and nobody else has it yet.
    unsafe {
        types.callback.fill(handle, callback.function);
        types.args.fill(handle, callback.args.into_any());
        types.context.fill(handle, callback.context);
        types.event_loop.fill(handle, event_loop.clone().into_any());
        types.cancelled.fill(handle, truth(py, false));
        types.source_traceback.fill(handle, traceback);
        types.repr.fill(handle, py.None().into_bound(py));
    }
    Ok(())
}

fn truth(py: Python<'_>, value: bool) -> Bound<'_, PyAny> {
    PyBool::new(py, value).to_owned().into_any()
}

/// Whether a handle, ours or asyncio's, was cancelled. Runs no Python code for ours; others count as live.
#[inline]
pub fn is_cancelled(types: &HandleTypes, handle: &Py<PyAny>) -> bool {
    // SAFETY: `owns` checked the class, and True is immortal.
    types.owns(handle.as_ptr()) && unsafe { types.cancelled.is(handle.as_ptr(), ffi::Py_True()) }
}

/// The timer has left the heap.
pub fn unschedule(types: &HandleTypes, handle: &Bound<'_, PyAny>) {
    // SAFETY: only timers come here, which `new_timer` made; only the loop's thread changes this slot.
    unsafe { types.scheduled.replace(handle, truth(handle.py(), false)) };
}

/// Runs a handle as its `_run` does. What asyncio reports is reported, and only what escapes the loop is an error.
#[inline]
pub fn run(types: &HandleTypes, event_loop: &Bound<'_, EventLoop>, handle: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = handle.py();
    if !types.owns(handle.as_ptr()) {
        // A subclass of asyncio's, which may have ideas of its own (3.14's thread-safe handles take a lock).
        if handle.getattr(intern!(py, "_cancelled"))?.is_truthy()? {
            return Ok(());
        }
        return handle.call_method0(intern!(py, "_run")).map(drop);
    }
    // The callback may cancel its own handle, which empties the slots: hold on to what is running.
    // SAFETY: `owns` checked the class, and the critical section keeps cancelling threads out.
    let taken = with_critical_section(handle, || unsafe {
        if types.cancelled.is(handle.as_ptr(), ffi::Py_True()) {
            return None;
        }
        if let Some(shared) = types.shared(handle.as_ptr()) {
            shared.set_busy(handle, true);
        }
        Some((types.callback.get(handle)?, types.args.get(handle)?, types.context.get(handle)?))
    });
    let Some((callback, args, context)) = taken else {
        return Ok(());
    };
    let result = call::in_context(&context, || call::apply(&callback, args.cast::<PyTuple>()?));
    let result = match result {
        Ok(_) => Ok(()),
        Err(error) if call::escapes(py, &error) => Err(error),
        Err(error) => report(types, event_loop, handle, &error),
    };
    if let Some(shared) = types.shared(handle.as_ptr()) {
        with_critical_section(handle, || shared.set_busy(handle, false));
    }
    result
}

/// Tells the loop's exception handler that a callback failed, as `asyncio.Handle._run` does.
#[cold]
fn report(
    types: &HandleTypes,
    event_loop: &Bound<'_, EventLoop>,
    handle: &Bound<'_, PyAny>,
    error: &PyErr,
) -> PyResult<()> {
    let py = handle.py();
    // SAFETY: only handles of ours are run here.
    let (callback, args, traceback) =
        unsafe { (types.callback.get(handle), types.args.get(handle), types.source_traceback.get(handle)) };
    let source = describe(event_loop, callback, args)?;
    let context = PyDict::new(py);
    context.set_item("message", format!("Exception in callback {source}"))?;
    context.set_item("exception", error.value(py))?;
    context.set_item("handle", handle)?;
    if let Some(traceback) = traceback.filter(|traceback| traceback.is_truthy().unwrap_or(false)) {
        context.set_item("source_traceback", traceback)?;
    }
    event_loop.call_method1(intern!(py, "call_exception_handler"), (context,)).map(drop)
}

/// asyncio's words for a callback and its arguments. Since 3.14 it hides the arguments outside debug mode.
fn describe<'py>(
    event_loop: &Bound<'py, EventLoop>,
    callback: Option<Bound<'py, PyAny>>,
    args: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = event_loop.py();
    let helpers = py.import("asyncio.format_helpers")?;
    let function = helpers.getattr("_format_callback_source")?;
    let options = PyDict::new(py);
    if takes_debug(py)? {
        options.set_item("debug", event_loop.get().is_debug())?;
    }
    function.call((callback, args), Some(&options))
}

/// Whether this version's `_format_callback_source` has the parameter `debug`.
fn takes_debug(py: Python<'_>) -> PyResult<bool> {
    static TAKES_DEBUG: PyOnceLock<bool> = PyOnceLock::new();
    TAKES_DEBUG
        .get_or_try_init(py, || {
            let function = py.import("asyncio.format_helpers")?.getattr("_format_callback_source")?;
            let signature = py.import("inspect")?.call_method1("signature", (function,))?;
            signature.getattr("parameters")?.contains("debug")
        })
        .copied()
}

fn cancel<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    cancel_once(HandleTypes::get(py)?, handle)?;
    Ok(py.None().into_bound(py))
}

fn cancel_timer<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let types = HandleTypes::get(py)?;
    if cancel_once(types, handle)? {
        // SAFETY: a method of our timer class; only the loop's thread changes this slot.
        let waits = unsafe { types.scheduled.is(handle.as_ptr(), ffi::Py_True()) };
        // SAFETY: likewise; the slot is set once, when the handle is made.
        if let Some(event_loop) = unsafe { types.event_loop.get(handle) }.filter(|_| waits) {
            event_loop.cast::<EventLoop>()?.get().note_cancelled_timer(py);
        }
    }
    Ok(py.None().into_bound(py))
}

fn cancel_shared<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let types = HandleTypes::get(py)?;
    while try_cancel(types, handle, || !is_busy(types, handle))?.is_none() {
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

/// Marks a handle as cancelled and lets go of its callback. Says whether it was live.
fn cancel_once(types: &HandleTypes, handle: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(try_cancel(types, handle, || true)?.unwrap_or(false))
}

/// As [`cancel_once`], unless `may` forbids it, which is asked while no other thread can change the handle.
fn try_cancel(types: &HandleTypes, handle: &Bound<'_, PyAny>, may: impl FnOnce() -> bool) -> PyResult<Option<bool>> {
    let py = handle.py();
    // SAFETY: a method of our classes; the slot is set once, when the handle is made.
    let event_loop = unsafe { types.event_loop.get(handle) };
    let event_loop = event_loop.ok_or_else(|| PyRuntimeError::new_err("the handle was never scheduled"))?;
    // SAFETY: as above, and the critical section keeps other threads away from the slots.
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
    if event_loop.cast::<EventLoop>()?.get().is_debug() {
        // Keeps what the callback was, for the log of slow callbacks.
        let text = handle.repr()?.into_any();
        // SAFETY: as above.
        unsafe { types.repr.replace(handle, text) };
    }
    let none = || py.None().into_bound(py);
    // SAFETY: as above. What was there is dropped outside the critical section, for it may run code.
    let _old = with_critical_section(handle, || unsafe {
        (types.callback.replace(handle, none()), types.args.replace(handle, none()))
    });
    Ok(Some(true))
}

fn cancelled<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    // SAFETY: a method of our classes.
    Ok(truth(py, unsafe { HandleTypes::get(py)?.cancelled.is(handle.as_ptr(), ffi::Py_True()) }))
}

fn get_context<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    // SAFETY: a method of our classes.
    let context = unsafe { HandleTypes::get(py)?.context.get(handle) };
    Ok(context.unwrap_or_else(|| py.None().into_bound(py)))
}

fn when<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    // SAFETY: a method of our timer class.
    let when = unsafe { HandleTypes::get(py)?.when.get(handle) };
    Ok(when.unwrap_or_else(|| py.None().into_bound(py)))
}
