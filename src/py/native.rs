//! Types that extend asyncio's own Python classes, and methods without argument tuples.
//!
//! PyO3 classes cannot inherit from classes written in Python. So those types are made by calling `type(...)`, their
//! `__slots__` are read and written in place, and their methods are C functions added to the finished type.

use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::invoke::{self, Invoke};
use pyo3::PyTypeInfo;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::impl_::trampoline::{MethodDef, fastcall_cfunction_with_keywords, noargs};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

// Part of CPython's C API in every version, but not among PyO3's declarations.
unsafe extern "C" {
    static mut PyMethod_Type: ffi::PyTypeObject;
    fn PyMethod_Function(method: *mut ffi::PyObject) -> *mut ffi::PyObject;
    fn PyMethod_Self(method: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

/// Whether this is not a subinterpreter.
pub fn in_main_interpreter(_py: Python<'_>) -> bool {
    // SAFETY: attached, so there is a current interpreter.
    unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) == 0 }
}

/// Where a type keeps one of its `__slots__`: an offset into each of its instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(usize);

impl Slot {
    /// Finds the slot `name` of `class`, which its own `__slots__` must name.
    pub fn of(class: &Bound<'_, PyType>, name: &str) -> PyResult<Self> {
        let member = class.getattr("__dict__")?.get_item(name)?;
        // SAFETY: only compares the type of a live object.
        if unsafe { ffi::Py_TYPE(member.as_ptr()) } != &raw mut ffi::PyMemberDescr_Type {
            return Err(PyTypeError::new_err(format!("{class:?} has no slot {name:?}")));
        }
        let member: *mut ffi::PyMemberDescrObject = member.as_ptr().cast();
        // SAFETY: its type was checked, so this is its layout, and its definition lives as long as the class.
        let offset = unsafe { (*(*member).d_member).offset };
        Ok(Self(usize::try_from(offset)?))
    }

    /// The slot that lies `count` places behind this one.
    #[inline]
    pub fn after(self, count: usize) -> Self {
        Self(self.0 + count * size_of::<*mut ffi::PyObject>())
    }

    /// The object in the slot.
    ///
    /// # Safety
    /// `owner` is an instance of the class that the slot was found in.
    #[inline]
    pub unsafe fn get<'py>(self, owner: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        // SAFETY: the caller vouches for the place; it holds NULL or a strong reference.
        unsafe { Bound::from_borrowed_ptr_or_opt(owner.py(), *self.place(owner.as_ptr())) }
    }

    /// Whether exactly this object is in the slot.
    ///
    /// # Safety
    /// As for [`get`](Slot::get).
    #[inline]
    pub unsafe fn is(self, owner: *mut ffi::PyObject, object: *mut ffi::PyObject) -> bool {
        // SAFETY: the caller vouches for the place.
        unsafe { *self.place(owner) == object }
    }

    /// Puts an object into the slot and returns the one that was there.
    ///
    /// # Safety
    /// As for [`get`](Slot::get), and no other thread uses the slot.
    #[inline]
    pub unsafe fn replace<'py>(
        self,
        owner: &Bound<'py, PyAny>,
        object: Bound<'py, PyAny>,
    ) -> Option<Bound<'py, PyAny>> {
        // SAFETY: the caller vouches for the place; the slot takes over our reference and we take over its.
        unsafe {
            let old = std::mem::replace(&mut *self.place(owner.as_ptr()), object.into_ptr());
            Bound::from_owned_ptr_or_opt(owner.py(), old)
        }
    }

    /// Empties the slot and returns what was in it.
    ///
    /// # Safety
    /// As for [`get`](Slot::get), and no other thread uses the slot.
    #[inline]
    pub unsafe fn take<'py>(self, owner: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        // SAFETY: the caller vouches for the place; we take over the slot's reference.
        unsafe {
            let old = self.place(owner.as_ptr()).replace(std::ptr::null_mut());
            Bound::from_owned_ptr_or_opt(owner.py(), old)
        }
    }

    /// Puts the first object into the slot of a new instance.
    ///
    /// # Safety
    /// As for [`get`](Slot::get); nobody else has the instance, and the slot is empty.
    #[inline]
    pub unsafe fn fill(self, owner: &Bound<'_, PyAny>, object: Bound<'_, PyAny>) {
        // SAFETY: the caller vouches for the place; the slot takes over our reference.
        unsafe { self.place(owner.as_ptr()).write(object.into_ptr()) }
    }

    /// Empties the slot of an object that is being freed.
    ///
    /// # Safety
    /// As for [`get`](Slot::get), and nobody else has the object any more.
    #[cfg(not(Py_GIL_DISABLED))]
    #[inline]
    pub unsafe fn release(self, owner: *mut ffi::PyObject) {
        // SAFETY: the caller vouches for the place, which holds NULL or a reference that is ours to drop.
        unsafe { ffi::Py_XDECREF(self.place(owner).replace(std::ptr::null_mut())) }
    }

    /// The object in the slot, without a reference of its own.
    ///
    /// # Safety
    /// As for [`get`](Slot::get), and the slot keeps it for as long as the result is used.
    #[inline]
    pub unsafe fn peek<'a>(self, owner: *mut ffi::PyObject) -> Option<&'a Py<PyAny>> {
        // SAFETY: the caller vouches for the place; a `Py` is a pointer to an object, and NULL is its None.
        unsafe { (*self.place(owner).cast::<Option<Py<PyAny>>>().cast_const()).as_ref() }
    }

    /// Where the slot is.
    ///
    /// # Safety
    /// As for [`get`](Slot::get).
    #[inline]
    pub unsafe fn place(self, owner: *mut ffi::PyObject) -> *mut *mut ffi::PyObject {
        // SAFETY: the caller vouches that the offset lies inside the object.
        unsafe { owner.byte_add(self.0).cast() }
    }
}

/// A new instance of `class` with empty slots, without running `__new__` or `__init__`.
///
/// # Safety
/// All bases of `class` are Python classes made by `type(...)`, so that zeroed memory is a valid instance.
#[inline]
pub unsafe fn allocate<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached; this is the allocator of types that `type(...)` makes: it zeroes and starts tracking.
    unsafe { Bound::from_owned_ptr_or_err(class.py(), ffi::PyType_GenericAlloc(class.as_type_ptr(), 0)) }
}

/// Has `class` free its instances with `dealloc`; classes derived from it still do as any class does, and call it last.
///
/// # Safety
/// `dealloc` does what `tp_dealloc` of a heap type with a garbage collector must.
#[cfg(not(Py_GIL_DISABLED))]
pub unsafe fn set_dealloc(class: &Bound<'_, PyType>, dealloc: unsafe extern "C" fn(*mut ffi::PyObject)) {
    // SAFETY: the class is new, nobody has made an instance of it yet.
    unsafe { (*class.as_type_ptr()).tp_dealloc = Some(dealloc) }
}

/// The version of a class's attributes: another one after each change of the class or of one that it derives from, and 0
/// while CPython has not given it one.
#[inline]
pub fn type_version(class: &Bound<'_, PyType>) -> u32 {
    // SAFETY: a field of a live type; others may write it meanwhile, so it is read as they write it.
    unsafe { AtomicU32::from_ptr(&raw mut (*class.as_type_ptr()).tp_version_tag) }.load(Ordering::Relaxed)
}

/// Whether `method` is this function, bound to `owner`.
#[inline]
pub fn is_method(method: &Bound<'_, PyAny>, function: &Py<PyAny>, owner: &Bound<'_, PyAny>) -> bool {
    let method = method.as_ptr();
    // SAFETY: the type of a live object is checked before it is taken for a method.
    unsafe {
        ffi::Py_TYPE(method) == &raw mut PyMethod_Type
            && PyMethod_Function(method) == function.as_ptr()
            && PyMethod_Self(method) == owner.as_ptr()
    }
}

/// Makes a class as `class name(base): ...` would.
pub fn make_class<'py>(
    base: &Bound<'py, PyType>,
    name: &str,
    slots: &[&str],
    doc: &str,
) -> PyResult<Bound<'py, PyType>> {
    let py = base.py();
    let body = PyDict::new(py);
    body.set_item("__slots__", PyTuple::new(py, slots)?)?;
    body.set_item("__module__", "zloop")?;
    body.set_item("__qualname__", name)?;
    body.set_item("__doc__", doc)?;
    Ok(py.get_type::<PyType>().invoke((name, (base,), body))?.cast_into()?)
}

/// Sets or deletes an attribute as `object` does, for types that look at what is set.
pub fn set_attribute(
    owner: &Bound<'_, PyAny>,
    name: &Bound<'_, PyString>,
    value: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let value = value.map_or(std::ptr::null_mut(), |value| value.as_ptr());
    // SAFETY: live objects; NULL asks for the attribute to be deleted.
    match unsafe { ffi::PyObject_GenericSetAttr(owner.as_ptr(), name.as_ptr(), value) } {
        0 => Ok(()),
        _ => Err(PyErr::fetch(owner.py())),
    }
}

/// The signature that [`method!`] wants: `self`, then what was passed.
pub type Body<T> = for<'a, 'py> fn(&'a Bound<'py, T>, Args<'a, 'py>) -> PyResult<Bound<'py, PyAny>>;

/// One method of a native type.
pub struct Method {
    definition: ffi::PyMethodDef,
    /// Whether the instances of a class are what the method takes for `self`.
    fits: fn(&Bound<'_, PyType>) -> PyResult<bool>,
}

// SAFETY: a method definition is constant data: two strings and a function pointer.
unsafe impl Sync for Method {}

impl Method {
    /// For [`method!`] only.
    pub const fn of<N: Native>(name: &'static CStr, doc: &'static CStr) -> Self {
        let function = fastcall_cfunction_with_keywords::<Entry<N>>;
        let definition = ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: function },
            ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
            ml_doc: doc.as_ptr(),
        };
        Self { definition, fits: |class| class.is_subclass_of::<N::Owner>() }
    }

    /// For [`method!`] only.
    pub const fn of_noargs<N: NativeNoArgs>(name: &'static CStr, doc: &'static CStr) -> Self {
        let definition = ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: noargs::<Entry<N>> },
            ml_flags: ffi::METH_NOARGS,
            ml_doc: doc.as_ptr(),
        };
        Self { definition, fits: |class| class.is_subclass_of::<N::Owner>() }
    }

    /// The method as an attribute for `class`; it refuses objects of other types.
    pub fn bind<'py>(&'static self, class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
        if !(self.fits)(class)? {
            return Err(PyTypeError::new_err("the method is for another class"));
        }
        // SAFETY: the definition is static and never written to, whatever the C signature says.
        unsafe {
            Bound::from_owned_ptr_or_err(
                class.py(),
                ffi::PyDescr_NewMethod(class.as_type_ptr(), (&raw const self.definition).cast_mut()),
            )
        }
    }

    /// Adds the method to `class`.
    pub fn install(&'static self, class: &Bound<'_, PyType>) -> PyResult<()> {
        // SAFETY: `method!` wrote a C string literal there.
        let name = unsafe { CStr::from_ptr(self.definition.ml_name) };
        class.setattr(name.to_str().expect("names are ASCII"), self.bind(class)?)
    }
}

/// The same for methods that take nothing.
pub type BodyNoArgs<T> = for<'a, 'py> fn(&'a Bound<'py, T>) -> PyResult<Bound<'py, PyAny>>;

/// A [`Body`] as a type, so that each method has a C function of its own.
pub trait Native {
    type Owner: PyTypeInfo;
    const BODY: Body<Self::Owner>;
}

/// A [`BodyNoArgs`] as a type.
pub trait NativeNoArgs {
    type Owner: PyTypeInfo;
    const BODY: BodyNoArgs<Self::Owner>;
}

/// Joins a [`Native`] to PyO3's trampoline, which turns panics and errors into exceptions.
struct Entry<N>(N);

impl<N: Native> MethodDef<fastcall_cfunction_with_keywords::Func> for Entry<N> {
    const METH: fastcall_cfunction_with_keywords::Func = enter::<N>;
}

unsafe fn enter<N: Native>(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: the interpreter passes a live `self` of the class that the method was bound to, or of one derived from it,
    // and `nargs` plus the length of `kwnames` live arguments.
    let (slf, args) =
        unsafe { (Borrowed::from_ptr(py, slf).cast_unchecked(), Args::from_raw(py, args, nargs as usize, kwnames)) };
    (N::BODY)(&slf, args).map(Bound::into_ptr)
}

impl<N: NativeNoArgs> MethodDef<noargs::Func> for Entry<N> {
    const METH: noargs::Func = enter_noargs::<N>;
}

unsafe fn enter_noargs<N: NativeNoArgs>(py: Python<'_>, slf: *mut ffi::PyObject) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: the interpreter passes a live `self` of the class that the method was bound to, or of one derived from it.
    let slf = unsafe { Borrowed::from_ptr(py, slf).cast_unchecked() };
    (N::BODY)(&slf).map(Bound::into_ptr)
}

/// `method!(c"name", body, c"doc")`: a method that gets its arguments as the interpreter holds them. `body` is a
/// [`Body`], or with `fn() body` a [`BodyNoArgs`]. With a class before the body it takes a `Bound<Class>` for `self`,
/// without looking at its type again.
macro_rules! method {
    ($name:literal, fn() $body:path, $doc:literal) => {
        $crate::py::native::method!($name, pyo3::PyAny, fn() $body, $doc)
    };
    ($name:literal, $owner:ty, fn() $body:path, $doc:literal) => {{
        struct This;
        impl $crate::py::native::NativeNoArgs for This {
            type Owner = $owner;
            const BODY: $crate::py::native::BodyNoArgs<$owner> = $body;
        }
        $crate::py::native::Method::of_noargs::<This>($name, $doc)
    }};
    ($name:literal, $body:path, $doc:literal) => {
        $crate::py::native::method!($name, pyo3::PyAny, $body, $doc)
    };
    ($name:literal, $owner:ty, $body:path, $doc:literal) => {{
        struct This;
        impl $crate::py::native::Native for This {
            type Owner = $owner;
            const BODY: $crate::py::native::Body<$owner> = $body;
        }
        $crate::py::native::Method::of::<This>($name, $doc)
    }};
}
pub(crate) use method;

/// The arguments of one call.
#[derive(Clone, Copy)]
pub struct Args<'a, 'py> {
    py: Python<'py>,
    positional: &'a [*mut ffi::PyObject],
    keyword: &'a [*mut ffi::PyObject],
    names: Option<Borrowed<'a, 'py, PyTuple>>,
}

impl<'a, 'py> Args<'a, 'py> {
    /// For [`method!`] only.
    ///
    /// # Safety
    /// `args` points to `nargs` plus `len(kwnames)` live objects; `kwnames` is NULL or a tuple of strings.
    pub unsafe fn from_raw(
        py: Python<'py>,
        args: *const *mut ffi::PyObject,
        nargs: usize,
        kwnames: *mut ffi::PyObject,
    ) -> Self {
        // SAFETY: the caller's promise; an empty slice needs a pointer that is not NULL.
        unsafe {
            let names: Option<Borrowed<'a, 'py, PyTuple>> =
                (!kwnames.is_null()).then(|| Borrowed::from_ptr(py, kwnames).cast_unchecked());
            let named = names.map_or(0, |names| names.len());
            let args = if args.is_null() { std::ptr::NonNull::dangling().as_ptr() } else { args };
            Self {
                py,
                positional: std::slice::from_raw_parts(args, nargs),
                keyword: std::slice::from_raw_parts(args.add(nargs), named),
                names,
            }
        }
    }

    /// How many were passed by position.
    #[inline]
    pub fn len(self) -> usize {
        self.positional.len()
    }

    /// Whether any was passed by keyword.
    #[inline]
    pub fn has_keywords(self) -> bool {
        !self.keyword.is_empty()
    }

    /// The one at this position.
    #[inline]
    pub fn get(self, index: usize) -> Option<Borrowed<'a, 'py, PyAny>> {
        // SAFETY: live for the length of the call, which `'a` is.
        self.positional.get(index).map(|object| unsafe { Borrowed::from_ptr(self.py, *object) })
    }

    /// Those that were passed by keyword.
    pub fn keywords(self) -> impl Iterator<Item = (Borrowed<'a, 'py, PyAny>, Borrowed<'a, 'py, PyAny>)> {
        let names = self.names;
        self.keyword.iter().enumerate().filter_map(move |(index, object)| {
            // SAFETY: `from_raw` was told that it is a tuple with a name for each keyword argument; both live as long as
            // the call.
            unsafe {
                let name = ffi::PyTuple_GET_ITEM(names?.as_ptr(), index as ffi::Py_ssize_t);
                Some((Borrowed::from_ptr(self.py, name), Borrowed::from_ptr(self.py, *object)))
            }
        })
    }

    /// The positional ones from `start` on.
    #[inline]
    pub fn positional_from(self, start: usize) -> Positional<'a, 'py> {
        Positional { py: self.py, objects: self.positional.get(start..).unwrap_or_default() }
    }

    /// The value of the one keyword argument, if there is just one and it has this name.
    #[inline]
    pub fn only_keyword(self, keyword: &Keyword) -> Option<Borrowed<'a, 'py, PyAny>> {
        let (&[value], Some(names)) = (self.keyword, self.names) else { return None };
        // SAFETY: `from_raw` was told that it is a tuple with a name for each keyword argument; the value lives as long as
        // the call.
        unsafe {
            let given = Borrowed::from_ptr(self.py, ffi::PyTuple_GET_ITEM(names.as_ptr(), 0));
            keyword.is(names, given).then(|| Borrowed::from_ptr(self.py, value))
        }
    }

    /// Calls `function(*args, **kwargs)` with them as they lie.
    #[inline]
    pub fn pass_to(self, function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let names = self.names.map_or(std::ptr::null_mut(), |names| names.as_ptr());
        // SAFETY: live for the length of the call, which `'a` is: the positional ones, behind them one for each name.
        unsafe { invoke::vectorcall(function, self.positional.as_ptr(), self.len(), names) }
    }

    /// Calls `function(first, *args, **kwargs)` with them.
    pub fn call(self, function: &Bound<'py, PyAny>, first: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let mut all = vec![first.clone()];
        all.extend((0..self.len()).filter_map(|index| self.get(index)).map(|argument| argument.to_owned()));
        let named = PyDict::new(self.py);
        self.keywords().try_for_each(|(name, value)| named.set_item(name, value))?;
        function.invoke_with(PyTuple::new(self.py, all)?, &named)
    }

    /// The one at `index` or passed as `name`, for methods with few, fixed parameters.
    pub fn named(self, index: usize, name: &str) -> Option<Borrowed<'a, 'py, PyAny>> {
        self.get(index).or_else(|| {
            self.keywords().find(|(key, _)| key.extract::<&str>().is_ok_and(|key| key == name)).map(|(_, value)| value)
        })
    }
}

/// A keyword that is known by identity. The names in programs are interned, so that of each keyword is one object;
/// asyncio's tasks, written in C, pass a tuple of their own with a name that is not, but always the same tuple.
pub struct Keyword {
    text: &'static str,
    interned: PyOnceLock<Py<PyString>>,
    other: PyOnceLock<Py<PyTuple>>,
}

impl Keyword {
    pub const fn new(text: &'static str) -> Self {
        Self { text, interned: PyOnceLock::new(), other: PyOnceLock::new() }
    }

    /// Whether the one name in `names`, `given`, is this one.
    #[inline]
    fn is(&self, names: Borrowed<'_, '_, PyTuple>, given: Borrowed<'_, '_, PyAny>) -> bool {
        let py = names.py();
        let interned = self.interned.get_or_init(py, || PyString::intern(py, self.text).unbind());
        given.is(interned) || self.other.get(py).is_some_and(|other| names.is(other)) || self.learn(names, given)
    }

    #[cold]
    fn learn(&self, names: Borrowed<'_, '_, PyTuple>, given: Borrowed<'_, '_, PyAny>) -> bool {
        let same = given.extract::<&str>().is_ok_and(|given| given == self.text);
        if same {
            self.other.get_or_init(names.py(), || names.to_owned().unbind());
        }
        same
    }
}

/// Some arguments, as somebody else holds them.
#[derive(Clone, Copy)]
pub struct Positional<'a, 'py> {
    py: Python<'py>,
    objects: &'a [*mut ffi::PyObject],
}

impl<'a, 'py> Positional<'a, 'py> {
    /// The items of a tuple.
    #[inline]
    pub fn of(tuple: &'a Bound<'py, PyTuple>) -> Self {
        // SAFETY: the items of a live tuple lie in a row.
        let objects = unsafe {
            let items = (*tuple.as_ptr().cast::<ffi::PyTupleObject>()).ob_item.as_ptr();
            std::slice::from_raw_parts(items, tuple.len())
        };
        Self { py: tuple.py(), objects }
    }

    /// How many there are.
    #[inline]
    pub fn len(self) -> usize {
        self.objects.len()
    }

    /// The same as a tuple.
    pub fn tuple(self) -> PyResult<Bound<'py, PyTuple>> {
        // SAFETY: live for as long as `'a`.
        PyTuple::new(
            self.py,
            self.objects.iter().map(|object| unsafe { Borrowed::<PyAny>::from_ptr(self.py, *object) }),
        )
    }

    /// Puts them into a new object's slots from `first` on.
    ///
    /// # Safety
    /// As for [`Slot::fill`], for as many slots in a row as there are arguments.
    #[inline]
    pub unsafe fn fill(self, first: Slot, owner: &Bound<'py, PyAny>) {
        for (index, object) in self.objects.iter().enumerate() {
            // SAFETY: the caller's promise; the objects live, and the slots get references of their own.
            unsafe { first.after(index).fill(owner, Bound::from_borrowed_ptr(self.py, *object)) };
        }
    }
}
