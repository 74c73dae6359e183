//! The memory of handles: recycled, and out of the garbage collector's sight while only the loop has them.
//!
//! Programs schedule far more callbacks than they keep handles of. One that nobody keeps can be part of a cycle only
//! through the loop that queues it, so the loop shows the collector what is in it as if it were the loop's own, and the
//! collector need not know it: a burst of callbacks then triggers no collection and makes none slower.
//!
//! A handle is made untracked only while the loop runs, and a moment later (when the next one is queued, or when the
//! running callback returns) it is asked whether anybody else has it by now. If so, it is tracked from then on. If not,
//! nobody ever gets it before it has run, since nothing but the queue leads to it. Such a handle is *private*: it runs
//! without references counted for the time of the call, since no one can cancel it meanwhile.
//!
//! Without a GIL counts of references are not to be relied on, and all handles are tracked and freed by the interpreter.

#[cfg(not(Py_GIL_DISABLED))]
pub use recycling::*;

#[cfg(Py_GIL_DISABLED)]
pub use general::*;

#[cfg(not(Py_GIL_DISABLED))]
mod recycling {
    use std::cell::UnsafeCell;
    use std::ptr::NonNull;

    use pyo3::ffi;
    use pyo3::prelude::*;
    use pyo3::types::PyType;

    use crate::py::handle::{Class, HandleTypes, INLINE, TYPES};
    use crate::py::native::{allocate, set_dealloc};

    // Part of CPython's C API in every version that zloop runs on, but not among PyO3's declarations.
    unsafe extern "C" {
        fn _Py_NewReference(object: *mut ffi::PyObject);
    }

    /// So many handles of a class wait for their next use.
    const SPARES: usize = 1024;
    /// So deep a chain of handles, each an argument of the next, is freed by recursion.
    const DEEPEST: usize = 32;

    /// Where handles of one class come from and go to.
    #[derive(Debug)]
    pub struct Memory {
        /// Handles that were freed: of exactly this class, untracked, their slots as those of a [new](Memory::allocate)
        /// one.
        spares: UnsafeCell<Vec<NonNull<ffi::PyObject>>>,
        /// Where a handle keeps its weak references.
        weak: isize,
        /// Whether the word where CPython links what the collector sees is where it always was.
        linked: bool,
    }

    /// The word before an object that is not 0 while the collector sees the object.
    const LINK: isize = -2 * size_of::<usize>() as isize;

    // SAFETY: only threads that hold the GIL use it, and they run no Python code meanwhile.
    unsafe impl Sync for Memory {}
    // SAFETY: likewise.
    unsafe impl Send for Memory {}

    impl Memory {
        pub fn of(class: &Bound<'_, PyType>) -> Self {
            // SAFETY: the class comes from `make_class`, and `dealloc` empties exactly its slots. The word lies in the
            // header that all objects of classes with a collector have.
            unsafe {
                set_dealloc(class, dealloc);
                let weak = (*class.as_type_ptr()).tp_weaklistoffset;
                let linked = allocate(class).is_ok_and(|probe| {
                    let link = probe.as_ptr().byte_offset(LINK).cast::<usize>();
                    let tracked = link.read_volatile();
                    ffi::PyObject_GC_UnTrack(probe.as_ptr().cast());
                    tracked != 0 && link.read_volatile() == 0
                });
                Self { spares: UnsafeCell::default(), weak, linked }
            }
        }

        /// A handle that the collector does not know. Its slots are empty, but for those that are
        /// [the same in all new handles](HandleTypes::constants).
        #[inline]
        pub fn allocate<'py>(&self, types: &HandleTypes, class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
            // SAFETY: under the GIL, with no reference left behind; spares are as described, and reviving one is what
            // the interpreter's own lists of spare objects do.
            unsafe {
                if let Some(spare) = (*self.spares.get()).pop() {
                    _Py_NewReference(spare.as_ptr());
                    return Ok(Bound::from_owned_ptr(class.py(), spare.as_ptr()));
                }
                let handle = allocate(class)?;
                ffi::PyObject_GC_UnTrack(handle.as_ptr().cast());
                types.fill_constants(&handle);
                Ok(handle)
            }
        }

        /// Takes back a handle that has run.
        ///
        /// # Safety
        /// The handle is of `class`, whose memory this is.
        #[inline]
        pub unsafe fn recycle(&self, types: &HandleTypes, class: &Class, handle: Bound<'_, PyAny>) {
            // SAFETY: if it is still private, this is the last reference. Freeing what is in it may run code, which does
            // not find the handle.
            unsafe {
                if self.is_private(handle.as_ptr()) && (*self.spares.get()).len() < SPARES {
                    let object = handle.into_ptr();
                    empty(types, class, object);
                    (*self.spares.get()).push(NonNull::new_unchecked(object));
                }
            }
        }

        /// Whether only one reference leads to a handle of this class, and nothing else can.
        #[inline]
        pub fn is_private(&self, handle: *mut ffi::PyObject) -> bool {
            // SAFETY: a live instance of this class, under the GIL.
            unsafe {
                ffi::Py_REFCNT(handle) == 1
                    && self.linked
                    && *handle.byte_offset(LINK).cast::<usize>() == 0
                    && (*self.weak(handle)).is_null()
            }
        }

        /// The head of the handle's list of weak references.
        #[inline]
        unsafe fn weak(&self, handle: *mut ffi::PyObject) -> *mut *mut ffi::PyObject {
            // SAFETY: the class says that the field is there.
            unsafe { handle.byte_offset(self.weak).cast() }
        }
    }

    /// Lets the collector see a handle.
    #[inline]
    pub fn track(handle: *mut ffi::PyObject) {
        // SAFETY: a live handle, all of whose slots are set or empty.
        unsafe {
            if ffi::PyObject_GC_IsTracked(handle) == 0 {
                ffi::PyObject_GC_Track(handle.cast());
            }
        }
    }

    /// Handles that are being freed right now.
    struct Freeing {
        depth: usize,
        /// Those too deep for recursion: no reference is left, and their slots are still full.
        later: Vec<NonNull<ffi::PyObject>>,
    }

    struct Shared<T>(UnsafeCell<T>);

    // SAFETY: only threads that hold the GIL use it, and no reference is kept while Python code may run.
    unsafe impl<T> Sync for Shared<T> {}

    static FREEING: Shared<Freeing> = Shared(UnsafeCell::new(Freeing { depth: 0, later: Vec::new() }));

    /// Frees a handle. The interpreter's own function for classes made by `type(...)` finds each slot anew by walking all
    /// bases and their member tables, which costs more than creating the handle.
    unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
        let freeing = FREEING.0.get();
        // SAFETY: called by the interpreter, attached, with the last reference to an instance of one of our classes, or
        // of a class derived from one, whose own part is gone already.
        unsafe {
            ffi::PyObject_GC_UnTrack(object.cast());
            let weak: *mut *mut ffi::PyObject = object.byte_offset((*ffi::Py_TYPE(object)).tp_weaklistoffset).cast();
            if !(*weak).is_null() {
                ffi::PyObject_ClearWeakRefs(object);
            }
            if (*freeing).depth >= DEEPEST {
                (*freeing).later.extend(NonNull::new(object));
                return;
            }
            (*freeing).depth += 1;
            free(object);
            while (*freeing).depth == 1
                && let Some(object) = (*freeing).later.pop()
            {
                free(object.as_ptr());
            }
            (*freeing).depth -= 1;
        }
    }

    /// Empties a handle and gives its memory back, or keeps it for the next one.
    unsafe fn free(object: *mut ffi::PyObject) {
        // SAFETY: as in `dealloc`.
        unsafe {
            let Some(types) = TYPES.get(Python::assume_attached()) else { return };
            let class = ffi::Py_TYPE(object);
            if let Some(known) = types.class_of(object) {
                empty(types, known, object);
                let spares = &mut *known.memory.spares.get();
                if spares.len() < SPARES {
                    spares.push(NonNull::new_unchecked(object));
                    return;
                }
            }
            if let Some(known) = types.base_of(class) {
                clear(types, known, object);
            }
            if let Some(free) = (*class).tp_free {
                free(object.cast());
            }
            ffi::Py_DECREF(class.cast());
        }
    }

    /// Puts the slots of a handle back to what they are in a [new](Memory::allocate) one.
    #[inline]
    unsafe fn empty(types: &HandleTypes, class: &Class, object: *mut ffi::PyObject) {
        // SAFETY: an instance of this class that nobody else has.
        unsafe {
            types.callback.release(object);
            (0..INLINE).for_each(|index| class.inline.after(index).release(object));
            types.args.release(object);
            types.context.release(object);
            types.event_loop.release(object);
            for (slot, constant) in types.constants() {
                if !slot.is(object, constant) {
                    slot.release(object);
                    ffi::Py_INCREF(constant);
                    slot.place(object).write(constant);
                }
            }
            if std::ptr::eq(class, &raw const types.timer) {
                types.when.release(object);
                types.scheduled.release(object);
            } else if let Some(shared) = types.shared(object) {
                shared.busy.release(object);
            }
        }
    }

    /// Empties all slots.
    unsafe fn clear(types: &HandleTypes, class: &Class, object: *mut ffi::PyObject) {
        // SAFETY: as above.
        unsafe {
            empty(types, class, object);
            types.constants().iter().for_each(|(slot, _)| slot.release(object));
        }
    }

    impl HandleTypes {
        /// The class of ours that `class` is derived from.
        #[cold]
        fn base_of(&self, class: *mut ffi::PyTypeObject) -> Option<&Class> {
            let shared = self.shared.as_ref().map(|shared| &shared.class);
            let derived = |it: &&Class| {
                // SAFETY: two live classes.
                unsafe { ffi::PyType_IsSubtype(class, it.object.as_ptr().cast()) != 0 }
            };
            [Some(&self.plain), Some(&self.timer), shared].into_iter().flatten().find(derived)
        }
    }

    /// The handle that was queued last, while it is not known whether somebody keeps it.
    #[derive(Debug, Default)]
    pub struct Fresh(Option<NonNull<ffi::PyObject>>);

    // SAFETY: it lies in the guarded state of a loop.
    unsafe impl Send for Fresh {}

    impl Fresh {
        /// Takes note of a handle of ours that is being queued while the loop runs, and looks at the one before.
        #[inline]
        pub fn note(&mut self, types: &HandleTypes, handle: &Py<PyAny>) {
            self.settle(types);
            self.0 = NonNull::new(handle.as_ptr());
        }

        /// Has the collector see the handle if somebody keeps it. Called before anything is taken from a queue.
        #[inline]
        pub fn settle(&mut self, types: &HandleTypes) {
            if let Some(handle) = self.0.take() {
                // It is still queued: nothing has been taken out since it was noted.
                let object = handle.as_ptr();
                if types.class_of(object).is_some_and(|class| !class.memory.is_private(object)) {
                    track(object);
                }
            }
        }
    }

    /// Shows the collector a queued handle, or what is in it if the collector does not know the handle itself.
    pub fn visit(handle: &Py<PyAny>, mut visit: impl FnMut(&Py<PyAny>)) {
        let object = handle.as_ptr();
        // SAFETY: collectors run attached.
        let types = TYPES.get(unsafe { Python::assume_attached() });
        let class = types.and_then(|types| types.class_of(object).map(|class| (types, class)));
        let Some((types, class)) = class.filter(|(_, class)| class.memory.is_private(object)) else {
            return visit(handle);
        };
        let inline = (0..INLINE).map(|index| class.inline.after(index));
        for slot in [types.callback, types.args, types.context, types.event_loop].into_iter().chain(inline) {
            // SAFETY: an instance of this class, which only the queue has.
            if let Some(part) = unsafe { slot.peek(object) } {
                visit(part);
            }
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod general {
    use pyo3::ffi;
    use pyo3::prelude::*;
    use pyo3::types::PyType;

    use crate::py::handle::{Class, HandleTypes};
    use crate::py::native::allocate;

    /// Where handles of one class come from.
    #[derive(Debug)]
    pub struct Memory;

    impl Memory {
        pub fn of(_class: &Bound<'_, PyType>) -> Self {
            Self
        }

        /// A handle whose slots are empty, but for those that are [the same in all new handles](HandleTypes::constants).
        #[inline]
        pub fn allocate<'py>(&self, types: &HandleTypes, class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
            // SAFETY: made by `make_class` on asyncio's Python classes, and new.
            unsafe {
                let handle = allocate(class)?;
                types.fill_constants(&handle);
                Ok(handle)
            }
        }

        /// The interpreter frees handles.
        ///
        /// # Safety
        /// None; with a GIL there is something to it.
        #[inline]
        pub unsafe fn recycle(&self, _types: &HandleTypes, _class: &Class, _handle: Bound<'_, PyAny>) {}

        /// Nobody can tell.
        #[inline]
        pub fn is_private(&self, _handle: *mut ffi::PyObject) -> bool {
            false
        }
    }

    /// The collector sees them all.
    #[inline]
    pub fn track(_handle: *mut ffi::PyObject) {}

    /// Nothing to remember.
    #[derive(Debug, Default)]
    pub struct Fresh;

    impl Fresh {
        /// Nothing to do.
        #[inline]
        pub fn note(&mut self, _types: &HandleTypes, _handle: &Py<PyAny>) {}

        /// Nothing to do.
        #[inline]
        pub fn settle(&mut self, _types: &HandleTypes) {}
    }

    /// Shows the collector a queued handle.
    pub fn visit(handle: &Py<PyAny>, mut visit: impl FnMut(&Py<PyAny>)) {
        visit(handle);
    }
}
