//! The methods that programs call millions of times: scheduling, time, futures and tasks.
//!
//! They take their arguments as the interpreter holds them, without a tuple or a dict in between.
#![forbid(unsafe_code)]

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyString, PyTuple, PyType};

use super::call;
use super::event_loop::EventLoop;
use super::handle::{Callback, HandleTypes, new_handle, new_shared_handle, new_timer};
use super::native::{Args, Method, method};
use super::state::Item;
use crate::sched::monotonic;

static METHODS: [Method; 8] = [
    method!(c"call_soon", call_soon, c"Call callback(*args) as soon as possible, after what is ready already."),
    method!(c"call_soon_threadsafe", call_soon_threadsafe, c"Like call_soon(), from any thread."),
    method!(c"call_later", call_later, c"Call callback(*args) after delay seconds."),
    method!(c"call_at", call_at, c"Call callback(*args) at a time of loop.time()."),
    method!(c"time", fn() time, c"The loop's clock in seconds, the same as time.monotonic()."),
    method!(c"get_debug", fn() get_debug, c"Whether debug mode is on."),
    method!(c"create_future", fn() create_future, c"A new asyncio.Future of this loop."),
    method!(c"create_task", create_task, c"Schedule a coroutine as an asyncio.Task of this loop."),
];

/// Adds the methods to the finished class.
pub fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    METHODS.iter().try_for_each(|method| method.install(class))
}

fn call_soon<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let this = slf.cast::<EventLoop>()?;
    let core = this.get();
    core.check_open()?;
    let callback = callback(args, "call_soon", &["callback"])?;
    if core.is_debug() {
        check(this, &callback, "call_soon", true)?;
    }
    let handle = new_handle(HandleTypes::get(slf.py())?, this, callback)?;
    core.push(slf.py(), Item::Handle(handle.clone().unbind()));
    Ok(handle)
}

fn call_soon_threadsafe<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let this = slf.cast::<EventLoop>()?;
    let core = this.get();
    core.check_open()?;
    let callback = callback(args, "call_soon_threadsafe", &["callback"])?;
    if core.is_debug() {
        check(this, &callback, "call_soon_threadsafe", false)?;
    }
    let py = slf.py();
    let handle = new_shared_handle(HandleTypes::get(py)?, this, callback)?;
    core.push_threadsafe(py, handle.clone().unbind());
    Ok(handle)
}

fn call_later<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let this = slf.cast::<EventLoop>()?;
    let py = slf.py();
    let delay = args.named(0, "delay").ok_or_else(|| missing("call_later", "delay"))?;
    if delay.is_none() {
        return Err(PyTypeError::new_err("delay must not be None"));
    }
    let when = PyFloat::new(py, EventLoop::now(this)?);
    let when = match delay.cast_exact::<PyFloat>() {
        Ok(delay) => PyFloat::new(py, when.value() + delay.value()).into_any(),
        // Anything that can be added to a float, and the interpreter's error for what cannot.
        Err(_) => when.add(delay)?,
    };
    schedule(this, when, args, "call_later", &["delay", "callback"])
}

fn call_at<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let this = slf.cast::<EventLoop>()?;
    let when = args.named(0, "when").ok_or_else(|| missing("call_at", "when"))?;
    if when.is_none() {
        return Err(PyTypeError::new_err("when cannot be None"));
    }
    schedule(this, when.to_owned(), args, "call_at", &["when", "callback"])
}

/// Puts a timer into the heap. `when` is kept as the caller gave it; the heap's key is its value as a float.
fn schedule<'py>(
    this: &Bound<'py, EventLoop>,
    when: Bound<'py, PyAny>,
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
    let key: f64 = when.extract()?;
    let handle = new_timer(HandleTypes::get(this.py())?, this, when, callback)?;
    core.push_timer(this.py(), key, handle.clone().unbind());
    Ok(handle)
}

fn time<'py>(slf: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    Ok(PyFloat::new(slf.py(), monotonic()).into_any())
}

fn get_debug<'py>(slf: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let debug = slf.cast::<EventLoop>()?.get().is_debug();
    Ok(PyBool::new(slf.py(), debug).to_owned().into_any())
}

fn create_future<'py>(slf: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let options = PyDict::new(py);
    options.set_item(intern!(py, "loop"), slf)?;
    class(py, &FUTURES, "asyncio.futures", intern!(py, "Future"))?.call((), Some(&options))
}

fn create_task<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let this = slf.cast::<EventLoop>()?;
    let py = slf.py();
    this.get().check_open()?;
    let options = PyDict::new(py);
    for (name, value) in args.keywords() {
        options.set_item(name, value)?;
    }
    // Factories and options differ from version to version: that is CPython's to know.
    if args.len() != 1 || args.has_keywords() || this.get().has_task_factory(py) || this.get().is_debug() {
        let base = class(py, &BASE_EVENTS, "asyncio.base_events", intern!(py, "BaseEventLoop"))?;
        let arguments: Vec<_> = std::iter::once(slf.clone()).chain(args.tuple_from(0)?).collect();
        let arguments = PyTuple::new(py, arguments)?;
        return base.getattr(intern!(py, "create_task"))?.call(arguments, Some(&options));
    }
    options.set_item(intern!(py, "loop"), slf)?;
    class(py, &TASKS, "asyncio.tasks", intern!(py, "Task"))?.call((args.get(0),), Some(&options))
}

static FUTURES: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
static TASKS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
static BASE_EVENTS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// A class of one of asyncio's modules, looked up anew each time as asyncio's own code does: programs and tests put their
/// own, or the pure Python ones, in these places.
fn class<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyModule>>,
    module: &str,
    name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    let module = cell.get_or_try_init(py, || py.import(module).map(Bound::unbind))?;
    module.bind(py).getattr(name)
}

/// The callback among the arguments of `method`: the last of `names`, then its own arguments, and `context=`.
#[inline]
fn callback<'py>(args: Args<'_, 'py>, method: &str, names: &[&str]) -> PyResult<Callback<'py>> {
    let position = names.len() - 1;
    let mut function = args.get(position).map(|function| function.to_owned());
    let mut context = None;
    for (name, value) in args.keywords() {
        match name.extract::<&str>()? {
            "context" => context = Some(value.to_owned()).filter(|context| !context.is_none()),
            "callback" if function.is_none() => function = Some(value.to_owned()),
            name if names[..position].contains(&name) && args.len() == 0 => {}
            name => {
                let text = format!("{method}() got an unexpected keyword argument '{name}'");
                return Err(PyTypeError::new_err(text));
            }
        }
    }
    Ok(Callback {
        function: function.ok_or_else(|| missing(method, "callback"))?,
        args: args.tuple_from(names.len())?,
        context: context.map_or_else(|| call::copy_context(args.py()), Ok)?,
    })
}

#[cold]
fn missing(method: &str, name: &str) -> PyErr {
    PyTypeError::new_err(format!("{method}() missing 1 required positional argument: '{name}'"))
}

/// Debug mode's checks, which are asyncio's own methods.
#[cold]
fn check(this: &Bound<'_, EventLoop>, callback: &Callback<'_>, method: &str, thread: bool) -> PyResult<()> {
    if thread {
        this.call_method0("_check_thread")?;
    }
    this.call_method1("_check_callback", (&callback.function, method)).map(drop)
}
