//! `Handle` and `TimerHandle`: asyncio's own classes, created, cancelled and run without a Python frame.
//!
//! They are subclasses of asyncio's with the same attributes, so that whatever Python code does with a handle of asyncio
//! works with ours: `repr`, ordering, debuggers. Two attributes are made only when somebody looks: up to three arguments
//! lie in the object itself instead of a tuple, and a context that was empty is no object until then.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the classes, and making handles |
//! | `run.rs` | running them |
//! | `methods.rs` | what Python calls: cancelling, asking |
//! | `memory.rs` | recycling them, and keeping them from the garbage collector while only the loop has them |

mod memory;
mod methods;
mod run;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyTuple, PyType};

use super::context;
use super::event_loop::EventLoop;
use super::native::{Positional, Slot, make_class};
use crate::py::invoke::Invoke;
pub use memory::{Fresh, visit};
pub use run::run;

/// So many arguments lie in the handle itself.
const INLINE: usize = 3;
/// Their slots. Python does not see them.
const INLINE_NAMES: [&str; INLINE] = ["_argument_1", "_argument_2", "_argument_3"];

/// The classes and where they keep what.
#[derive(Debug)]
pub struct HandleTypes {
    plain: Class,
    timer: Class,
    /// Since 3.14 there is a class of its own for handles that several threads may cancel.
    shared: Option<SharedClass>,
    callback: Slot,
    /// Empty while the arguments are inline.
    args: Slot,
    cancelled: Slot,
    event_loop: Slot,
    source_traceback: Slot,
    repr: Slot,
    /// Empty while it is a new, empty context that nobody has seen.
    context: Slot,
    scheduled: Slot,
    when: Slot,
}

/// One of the classes.
#[derive(Debug)]
struct Class {
    object: Py<PyType>,
    /// The first of the inline arguments; the others follow it. Those that are missing are empty.
    inline: Slot,
    memory: memory::Memory,
}

#[derive(Debug)]
struct SharedClass {
    class: Class,
    /// asyncio keeps a lock here that `cancel()` waits for while the callback runs. Making one for each handle costs more
    /// than everything else; ours is True while the callback runs.
    busy: Slot,
}

static TYPES: PyOnceLock<HandleTypes> = PyOnceLock::new();

impl HandleTypes {
    /// The types of this process, made on first use.
    #[inline]
    pub fn get(py: Python<'_>) -> PyResult<&'static Self> {
        TYPES.get_or_try_init(py, || Self::make(py))
    }

    fn make(py: Python<'_>) -> PyResult<Self> {
        let events = py.import("asyncio.events")?;
        let base: Bound<'_, PyType> = events.getattr("Handle")?.cast_into()?;
        let timer_base: Bound<'_, PyType> = events.getattr("TimerHandle")?.cast_into()?;
        let plain = Class::make(&base, "Handle", "A callback scheduled on a zloop loop.")?;
        let timer = Class::make(&timer_base, "TimerHandle", "A callback scheduled for a time on a zloop loop.")?;
        methods::install(plain.object.bind(py), &[&methods::CANCEL, &methods::COMMON])?;
        methods::install(timer.object.bind(py), &[&methods::TIMER, &methods::COMMON])?;
        let shared =
            events.getattr_opt("_ThreadSafeHandle")?.map(|base| SharedClass::make(&base.cast_into()?)).transpose()?;
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
            plain,
            timer,
            shared,
        })
    }

    /// Adds the classes to the module.
    pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        let types = Self::get(py)?;
        module.add("Handle", types.plain.object.bind(py))?;
        if let Some(shared) = &types.shared {
            module.setattr("_ThreadSafeHandle", shared.class.object.bind(py))?;
        }
        module.add("TimerHandle", types.timer.object.bind(py))
    }

    /// The class of a handle, if it is one of ours and its slots may be used.
    #[inline]
    fn class_of(&self, object: *mut ffi::PyObject) -> Option<&Class> {
        // SAFETY: reads the type of a live object.
        let class = unsafe { ffi::Py_TYPE(object) }.cast();
        let known = |it: &&Class| it.object.as_ptr() == class;
        Some(&self.plain)
            .filter(known)
            .or_else(|| Some(&self.timer).filter(known))
            .or_else(|| self.shared.as_ref().map(|shared| &shared.class).filter(known))
    }

    /// The class of handles for several threads, if this is one.
    #[inline]
    fn shared(&self, object: *mut ffi::PyObject) -> Option<&SharedClass> {
        // SAFETY: reads the type of a live object.
        let class = unsafe { ffi::Py_TYPE(object) }.cast();
        self.shared.as_ref().filter(|shared| shared.class.object.as_ptr() == class)
    }

    /// The slots that are the same in all new handles, and what is in them.
    #[inline]
    fn constants(&self) -> [(Slot, *mut ffi::PyObject); 3] {
        // SAFETY: objects that live as long as the interpreter.
        let (none, no) = unsafe { (ffi::Py_None(), ffi::Py_False()) };
        [(self.cancelled, no), (self.source_traceback, none), (self.repr, none)]
    }

    /// Fills those slots.
    ///
    /// # Safety
    /// A new handle of one of our classes, whose slots are empty.
    #[inline]
    unsafe fn fill_constants(&self, handle: &Bound<'_, PyAny>) {
        for (slot, constant) in self.constants() {
            // SAFETY: the caller's promise.
            unsafe { slot.fill(handle, Bound::from_borrowed_ptr(handle.py(), constant)) };
        }
    }
}

impl Class {
    fn make(base: &Bound<'_, PyType>, name: &str, doc: &str) -> PyResult<Self> {
        let class = make_class(base, name, &INLINE_NAMES, doc)?;
        let inline: Vec<_> = INLINE_NAMES.iter().map(|name| Slot::of(&class, name)).collect::<PyResult<_>>()?;
        if (0..INLINE).any(|index| inline[index] != inline[0].after(index)) {
            return Err(PyTypeError::new_err("this interpreter does not lay slots out in a row"));
        }
        INLINE_NAMES.iter().try_for_each(|name| class.delattr(*name))?;
        let memory = memory::Memory::of(&class);
        Ok(Self { object: class.unbind(), inline: inline[0], memory })
    }
}

impl SharedClass {
    fn make(base: &Bound<'_, PyType>) -> PyResult<Self> {
        let class = Class::make(base, "_ThreadSafeHandle", "A callback that another thread scheduled.")?;
        methods::install(class.object.bind(base.py()), &[&methods::COMMON, &methods::SHARED])?;
        Ok(Self { busy: Slot::of(base, "_lock")?, class })
    }

    fn set_busy(&self, handle: &Bound<'_, PyAny>, busy: bool) {
        // SAFETY: an instance of the class with this slot, inside a critical section.
        unsafe { self.busy.replace(handle, truth(handle.py(), busy)) };
    }
}

/// A callback about to be scheduled.
pub struct Callback<'a, 'py> {
    pub function: Borrowed<'a, 'py, PyAny>,
    pub args: Positional<'a, 'py>,
    /// None: a copy of the caller's.
    pub context: Option<Borrowed<'a, 'py, PyAny>>,
}

/// Makes a handle that is neither queued nor cancelled. Whoever does not give it to the loop as
/// [fresh](Fresh) says so to the garbage collector with [`track`].
#[inline]
pub fn new_handle<'py>(
    types: &'static HandleTypes,
    event_loop: &Bound<'py, EventLoop>,
    callback: &Callback<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    fill(types, &types.plain, event_loop, callback)
}

/// Makes a handle that the loop runs whenever something happens, or when it does.
pub fn new_watcher<'py>(
    event_loop: &Bound<'py, EventLoop>,
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    context: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let context = context.map(Bound::as_borrowed);
    let callback = Callback { function: function.as_borrowed(), args: Positional::of(args), context };
    let handle = new_handle(HandleTypes::get(event_loop.py())?, event_loop, &callback)?;
    memory::track(handle.as_ptr());
    Ok(handle)
}

/// Makes a handle that any thread may cancel, of the class that this Python has for it.
#[inline]
pub fn new_shared_handle<'py>(
    types: &'static HandleTypes,
    event_loop: &Bound<'py, EventLoop>,
    callback: &Callback<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let Some(shared) = &types.shared else { return new_handle(types, event_loop, callback) };
    let handle = fill(types, &shared.class, event_loop, callback)?;
    // SAFETY: an instance of the class that has this slot, it is empty, and nobody else has it yet.
    unsafe { shared.busy.fill(&handle, truth(event_loop.py(), false)) };
    Ok(handle)
}

/// Makes a timer's handle, marked as scheduled.
#[inline]
pub fn new_timer<'py>(
    types: &'static HandleTypes,
    event_loop: &Bound<'py, EventLoop>,
    when: Bound<'py, PyAny>,
    callback: &Callback<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let handle = fill(types, &types.timer, event_loop, callback)?;
    // SAFETY: an instance of the class that has these slots, they are empty, and nobody else has it yet.
    unsafe {
        types.when.fill(&handle, when);
        types.scheduled.fill(&handle, truth(event_loop.py(), true));
    }
    Ok(handle)
}

/// Lets the garbage collector see a handle that has just been made.
#[inline]
pub fn track(handle: &Bound<'_, PyAny>) {
    memory::track(handle.as_ptr());
}

#[inline]
fn fill<'py>(
    types: &'static HandleTypes,
    class: &'static Class,
    event_loop: &Bound<'py, EventLoop>,
    callback: &Callback<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = event_loop.py();
    let context = match callback.context {
        Some(context) => Some(context.to_owned()),
        None if context::is_empty(py) => None,
        None => Some(context::copy(py)?),
    };
    let long = if callback.args.len() > INLINE { Some(callback.args.tuple()?) } else { None };
    let handle = class.memory.allocate(types, class.object.bind(py))?;
    // SAFETY: an instance of the class that has these slots, they are empty, and nobody else has it yet.
    unsafe {
        types.callback.fill(&handle, callback.function.to_owned());
        match long {
            Some(args) => types.args.fill(&handle, args.into_any()),
            None => callback.args.fill(class.inline, &handle),
        }
        if let Some(context) = context {
            types.context.fill(&handle, context);
        }
        types.event_loop.fill(&handle, event_loop.clone().into_any());
    }
    if event_loop.get().is_debug() {
        // The innermost frame is the caller's: native functions have none.
        let traceback = py.import("asyncio.format_helpers")?.invoke_method("extract_stack", ())?;
        // SAFETY: an instance of the class that has this slot, and nobody else has it yet.
        unsafe { types.source_traceback.replace(&handle, traceback) };
    }
    Ok(handle)
}

#[inline]
fn truth(py: Python<'_>, value: bool) -> Bound<'_, PyAny> {
    PyBool::new(py, value).to_owned().into_any()
}

/// Whether a handle, ours or asyncio's, was cancelled. Runs no Python code for ours; others count as live.
#[inline]
pub fn is_cancelled(types: &HandleTypes, handle: &Py<PyAny>) -> bool {
    // SAFETY: `class_of` checked the class, and True is immortal.
    types.class_of(handle.as_ptr()).is_some() && unsafe { types.cancelled.is(handle.as_ptr(), ffi::Py_True()) }
}

/// The timer has left the heap.
#[inline]
pub fn unschedule(types: &HandleTypes, handle: &Bound<'_, PyAny>) {
    // SAFETY: only timers come here, which `new_timer` made; only the loop's thread changes this slot.
    unsafe { types.scheduled.replace(handle, truth(handle.py(), false)) };
}
