//! Contexts: copied when a callback is scheduled, entered when it runs, and made at all only if there is something in them.
//!
//! Most callbacks are scheduled where no context variable is set. Copies of an empty context are all alike until the
//! callback runs, so one is used for all, as long as none of them leaves anything in it or keeps it.

use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;

/// A copy of the calling thread's context, as `contextvars.copy_context()` makes it.
pub fn copy(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; returns a new reference or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A new context, in which no variable is set.
pub fn new(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; returns a new reference or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_New()) }
}

/// Runs `body` inside `context`, as `context.run(...)` does. The outer error is that of entering it.
#[inline]
pub fn run<R>(context: &Bound<'_, PyAny>, body: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    let py = context.py();
    // SAFETY: attached; the context is alive and both calls check its type.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    let result = body();
    // SAFETY: as above; this thread entered it just now, and every Python frame since has left.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    result
}

/// Whether no variable is set in the calling thread's context. False if this interpreter does not let us find out.
#[inline]
pub fn is_empty(py: Python<'_>) -> bool {
    let Some(layout) = LAYOUT.get_or_init(|| Layout::probe(py)) else { return false };
    // SAFETY: attached; the layout was found on this very interpreter, and the thread's context stays while it runs no
    // Python code.
    unsafe {
        let context = *ffi::PyThreadState_Get().cast::<*mut ffi::PyObject>().add(layout.field);
        context.is_null() || (layout.len)(context) == 0
    }
}

/// An empty context in which callbacks run one after the other, for as long as none of them leaves anything in it.
///
/// Entering and leaving a context costs more than calling a small function. So it is entered once for a row of callbacks,
/// and only where the context around it is empty too: what runs between two callbacks (the end of their arguments) then
/// sees the same from inside as from outside.
#[derive(Default)]
pub struct Shared<'py> {
    context: Option<Bound<'py, PyAny>>,
    /// While it is entered: how many references there are to it if nobody keeps it.
    entered: Option<ffi::Py_ssize_t>,
}

impl<'py> Shared<'py> {
    /// Makes sure that an empty context is entered that nobody has seen, or says that it must not be shared.
    #[inline]
    pub fn enter(&mut self, py: Python<'py>) -> PyResult<bool> {
        if self.is_as_new() {
            return Ok(true);
        }
        self.leave()?;
        self.enter_new(py)
    }

    /// Whether it is entered, and nothing has been left in it.
    #[inline]
    fn is_as_new(&self) -> bool {
        let (Some(context), Some(count), Some(Some(layout))) = (&self.context, self.entered, LAYOUT.get()) else {
            return false;
        };
        // SAFETY: attached, and it is a context.
        unsafe { ffi::Py_REFCNT(context.as_ptr()) == count && (layout.len)(context.as_ptr()) == 0 }
    }

    fn enter_new(&mut self, py: Python<'py>) -> PyResult<bool> {
        if !is_empty(py) {
            return Ok(false);
        }
        let context = match self.context.take() {
            Some(context) => context,
            None => new(py)?,
        };
        // SAFETY: attached; the context is alive.
        if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: attached, and it is alive.
        self.entered = Some(unsafe { ffi::Py_REFCNT(context.as_ptr()) });
        self.context = Some(context);
        Ok(true)
    }

    /// Leaves it if it is entered. It is kept for the next time if it is as good as new.
    #[inline]
    pub fn leave(&mut self) -> PyResult<()> {
        if self.entered.is_none() { Ok(()) } else { self.leave_entered() }
    }

    fn leave_entered(&mut self) -> PyResult<()> {
        let as_new = self.is_as_new();
        self.entered = None;
        let Some(context) = self.context.take() else { return Ok(()) };
        // SAFETY: attached; this thread entered it, and whatever was entered since has been left.
        if unsafe { ffi::PyContext_Exit(context.as_ptr()) } != 0 {
            return Err(PyErr::fetch(context.py()));
        }
        self.context = Some(context).filter(|_| as_new);
        Ok(())
    }

    /// Leaves it for good, and gives it to who wants to keep it.
    #[cold]
    pub fn give_up(&mut self) -> PyResult<Option<Bound<'py, PyAny>>> {
        let context = self.context.clone();
        self.leave()?;
        self.context = None;
        Ok(context)
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        let py = self.context.as_ref().map(Bound::py);
        if let (Err(error), Some(py)) = (self.leave(), py) {
            error.write_unraisable(py, None);
        }
    }
}

/// How to look at a thread's context. The C API has no way to ask whether it is empty, and copying it to see costs what
/// this is meant to save.
struct Layout {
    /// Which word of the thread's state points to its context.
    field: usize,
    /// The function behind `len(context)`.
    len: ffi::lenfunc,
}

static LAYOUT: OnceLock<Option<Layout>> = OnceLock::new();

/// So many words of a thread's state are looked at. In all versions it is longer.
const WORDS: usize = 40;

impl Layout {
    /// Finds the field by entering contexts and looking where they turn up.
    fn probe(py: Python<'_>) -> Option<Self> {
        // SAFETY: reads a field of a type object, which is static.
        let len = unsafe { (*ffi::PyContext_Type.tp_as_mapping).mp_length }?;
        let (first, second) = (new(py).ok()?, new(py).ok()?);
        let inside_first = || {
            let found = Self::places(&first);
            let inside_second = run(&second, || Ok((Self::places(&second), Self::places(&first)))).ok()?;
            (found == Self::places(&first)).then_some((found, inside_second))
        };
        let (found, (then, still)) = run(&first, || Ok(inside_first())).ok()??;
        let &[field] = found.as_slice() else { return None };
        (then == found && still.is_empty() && Self::places(&first).is_empty()).then_some(Self { field, len })
    }

    /// The words of the thread's state that point to `context`.
    fn places(context: &Bound<'_, PyAny>) -> Vec<usize> {
        // SAFETY: attached, and the state of a thread is longer than that; no other thread changes it.
        let words = unsafe { std::slice::from_raw_parts(ffi::PyThreadState_Get().cast::<usize>(), WORDS) };
        (0..WORDS).filter(|index| words[*index] == context.as_ptr() as usize).collect()
    }
}
