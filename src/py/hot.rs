//! The methods that programs call millions of times: scheduling, time, futures and tasks.
//!
//! They take their arguments as the interpreter holds them, without a tuple or a dict in between.
#![forbid(unsafe_code)]

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyType};

use super::classes::{BASE_LOOP, FUTURE, TASK, of_loop};
use super::event_loop::EventLoop;
use super::handle::{Callback, HandleTypes, new_handle, new_shared_handle, new_timer};
use super::invoke::Invoke;
use super::native::{Args, Keyword, Method, method};
use crate::sched::monotonic;

// Tools such as `unittest.mock` read the signatures at the start of the texts.
static METHODS: [Method; 8] = [
    method!(
        c"call_soon",
        EventLoop,
        call_soon,
        c"call_soon($self, callback, *args, context=None)\n--\n\n\
        Call callback(*args) as soon as possible, after what is ready already."
    ),
    method!(
        c"call_soon_threadsafe",
        EventLoop,
        call_soon_threadsafe,
        c"call_soon_threadsafe($self, callback, *args, context=None)\n--\n\n\
        Like call_soon(), from any thread."
    ),
    method!(
        c"call_later",
        EventLoop,
        call_later,
        c"call_later($self, delay, callback, *args, context=None)\n--\n\n\
        Call callback(*args) after delay seconds."
    ),
    method!(
        c"call_at",
        EventLoop,
        call_at,
        c"call_at($self, when, callback, *args, context=None)\n--\n\n\
        Call callback(*args) at a time of loop.time()."
    ),
    method!(
        c"time",
        EventLoop,
        fn() time,
        c"time($self)\n--\n\n\
        The loop's clock in seconds, the same as time.monotonic()."
    ),
    method!(
        c"get_debug",
        EventLoop,
        fn() get_debug,
        c"get_debug($self)\n--\n\n\
        Whether debug mode is on."
    ),
    method!(
        c"create_future",
        EventLoop,
        fn() create_future,
        c"create_future($self)\n--\n\n\
        A new asyncio.Future of this loop."
    ),
    // asyncio's signature of this one changed in the middle of 3.13.
    method!(c"create_task", EventLoop, create_task, c"Schedule a coroutine as an asyncio.Task of this loop."),
];

/// Adds the methods to the finished class.
pub fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    METHODS.iter().try_for_each(|method| method.install(class))
}

fn call_soon<'py>(this: &Bound<'py, EventLoop>, args: Args<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let core = this.get();
    core.check_open()?;
    let callback = callback(args, "call_soon", &["callback"])?;
    if core.is_debug() {
        check(this, &callback, "call_soon", true)?;
    }
    let types = HandleTypes::get(this.py())?;
    let handle = new_handle(types, this, &callback)?;
    core.push_new(types, &handle);
    Ok(handle)
}

fn call_soon_threadsafe<'py>(this: &Bound<'py, EventLoop>, args: Args<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let core = this.get();
    core.check_open()?;
    let callback = callback(args, "call_soon_threadsafe", &["callback"])?;
    if core.is_debug() {
        check(this, &callback, "call_soon_threadsafe", false)?;
    }
    let types = HandleTypes::get(this.py())?;
    let handle = new_shared_handle(types, this, &callback)?;
    core.push_threadsafe(types, &handle);
    Ok(handle)
}

fn call_later<'py>(this: &Bound<'py, EventLoop>, args: Args<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    if this.get().has_own_timers() {
        return args.call(&BASE_LOOP.get(py)?.getattr(intern!(py, "call_later"))?, this);
    }
    let delay = args.named(0, "delay").ok_or_else(|| missing("call_later", "delay"))?;
    let now = EventLoop::now(this)?;
    // What can be added to a float, as the interpreter adds it.
    let when = match delay.cast_exact::<PyFloat>() {
        Ok(delay) => now + delay.value(),
        Err(_) if delay.is_exact_instance_of::<PyInt>() => now + delay.extract::<f64>()?,
        Err(_) if delay.is_none() => return Err(PyTypeError::new_err("delay must not be None")),
        Err(_) => return schedule(this, PyFloat::new(py, now).add(delay)?, None, args, "call_later", &AFTER),
    };
    schedule(this, PyFloat::new(py, when).into_any(), Some(when), args, "call_later", &AFTER)
}

const AFTER: [&str; 2] = ["delay", "callback"];

fn call_at<'py>(this: &Bound<'py, EventLoop>, args: Args<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let when = args.named(0, "when").ok_or_else(|| missing("call_at", "when"))?;
    if when.is_none() {
        return Err(PyTypeError::new_err("when cannot be None"));
    }
    schedule(this, when.to_owned(), None, args, "call_at", &["when", "callback"])
}

/// Puts a timer into the heap. `when` is kept as the caller gave it; the heap's key is its value as a float.
#[inline]
fn schedule<'py>(
    this: &Bound<'py, EventLoop>,
    when: Bound<'py, PyAny>,
    key: Option<f64>,
    args: Args<'_, 'py>,
    method: &str,
    names: &[&str],
) -> PyResult<Bound<'py, PyAny>> {
    let core = this.get();
    core.check_open()?;
    let callback = callback(args, method, names)?;
    if core.is_debug() {
        check(this, &callback, "call_at", true)?;
    }
    let key = key.map_or_else(|| when.extract(), Ok)?;
    let types = HandleTypes::get(this.py())?;
    let handle = new_timer(types, this, when, &callback)?;
    core.push_timer(types, key, &handle);
    Ok(handle)
}

fn time<'py>(this: &Bound<'py, EventLoop>) -> PyResult<Bound<'py, PyAny>> {
    Ok(PyFloat::new(this.py(), monotonic()).into_any())
}

fn get_debug<'py>(this: &Bound<'py, EventLoop>) -> PyResult<Bound<'py, PyAny>> {
    Ok(PyBool::new(this.py(), this.get().is_debug()).to_owned().into_any())
}

fn create_future<'py>(this: &Bound<'py, EventLoop>) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let class = FUTURE.get(py)?;
    if FUTURE.finds_loop(&class, this)? {
        return class.invoke(());
    }
    class.invoke_with((), &of_loop(this)?)
}

fn create_task<'py>(this: &Bound<'py, EventLoop>, args: Args<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    this.get().check_open()?;
    // Factories and the options beside these differ from version to version: that is CPython's to know.
    let known = args.len() == 1 && args.keywords().all(|(name, _)| is_option(py, name));
    if !known || this.get().has_task_factory(py) || this.get().is_debug() {
        return args.call(&BASE_LOOP.get(py)?.getattr(intern!(py, "create_task"))?, this);
    }
    let class = TASK.get(py)?;
    // None for an option is what it is without one. Before 3.14 CPython's functions pass them on even if they were not given.
    let plain = args.keywords().all(|(_, value)| value.is_none());
    match (TASK.finds_loop(&class, this)?, plain) {
        (true, true) => class.invoke((args.get(0),)),
        (true, false) => args.pass_to(&class),
        (false, _) => {
            let options = of_loop(this)?;
            args.keywords().try_for_each(|(name, value)| options.set_item(name, value))?;
            class.invoke_with((args.get(0),), &options)
        }
    }
}

/// Whether `create_task` takes this option, in every release of the version that this is built for.
#[inline]
fn is_option(py: Python<'_>, name: Borrowed<'_, '_, PyAny>) -> bool {
    name.is(intern!(py, "name"))
        || name.is(intern!(py, "context"))
        || cfg!(Py_3_14) && name.is(intern!(py, "eager_start"))
}

/// The callback among the arguments of `method`: the last of `names`, then its own arguments, and `context=`.
#[inline]
fn callback<'a, 'py>(args: Args<'a, 'py>, method: &str, names: &[&str]) -> PyResult<Callback<'a, 'py>> {
    static CONTEXT: Keyword = Keyword::new("context");
    let context = if args.has_keywords() { args.only_keyword(&CONTEXT) } else { None };
    match args.get(names.len() - 1) {
        Some(function) if context.is_some() || !args.has_keywords() => Ok(Callback {
            function,
            args: args.positional_from(names.len()),
            context: context.filter(|context| !context.is_none()),
        }),
        _ => callback_by_name(args, method, names),
    }
}

/// The same for arguments that may have any names.
#[cold]
fn callback_by_name<'a, 'py>(args: Args<'a, 'py>, method: &str, names: &[&str]) -> PyResult<Callback<'a, 'py>> {
    let position = names.len() - 1;
    let mut function = args.get(position);
    let mut context = None;
    for (name, value) in args.keywords() {
        match name.extract::<&str>()? {
            "context" => context = Some(value).filter(|context| !context.is_none()),
            "callback" if function.is_none() => function = Some(value),
            name if names[..position].contains(&name) && args.len() == 0 => {}
            name => {
                let text = format!("{method}() got an unexpected keyword argument '{name}'");
                return Err(PyTypeError::new_err(text));
            }
        }
    }
    let function = function.ok_or_else(|| missing(method, "callback"))?;
    Ok(Callback { function, args: args.positional_from(names.len()), context })
}

#[cold]
fn missing(method: &str, name: &str) -> PyErr {
    PyTypeError::new_err(format!("{method}() missing 1 required positional argument: '{name}'"))
}

/// Debug mode's checks, which are asyncio's own methods.
#[cold]
fn check(this: &Bound<'_, EventLoop>, callback: &Callback<'_, '_>, method: &str, thread: bool) -> PyResult<()> {
    if thread {
        this.invoke_method("_check_thread", ())?;
    }
    this.invoke_method("_check_callback", (&callback.function, method)).map(drop)
}
