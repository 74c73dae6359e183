//! The classes of asyncio's that the loop makes objects of.
#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

use super::event_loop::EventLoop;
use super::invoke::Invoke;

pub static FUTURE: Class = Class::of("asyncio.futures", "Future");
pub static TASK: Class = Class::of("asyncio.tasks", "Task");
pub static BASE_LOOP: Class = Class::of("asyncio.base_events", "BaseEventLoop");

/// A class of one of asyncio's modules, looked up anew each time as asyncio's own code does: programs and tests put their
/// own, or the pure Python ones, in these places.
pub struct Class {
    module: &'static str,
    name: &'static str,
    found: PyOnceLock<Found>,
}

struct Found {
    /// What is in the module.
    names: Py<PyDict>,
    name: Py<PyString>,
    /// The class of this name that is written in C, and how it finds the loop that runs.
    native: Option<(Py<PyAny>, Py<PyAny>)>,
}

impl Class {
    const fn of(module: &'static str, name: &'static str) -> Self {
        Self { module, name, found: PyOnceLock::new() }
    }

    /// The class that is there now.
    #[inline]
    pub fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let found = self.found(py)?;
        match found.names.bind(py).get_item(found.name.bind(py))? {
            Some(class) => Ok(class),
            None => py.import(self.module)?.getattr(found.name.bind(py)),
        }
    }

    /// Whether an object of `class` that is made without a loop gets this one. What is written in C asks for the running
    /// loop then, in far less time than it takes to pass it by keyword.
    #[inline]
    pub fn finds_loop(&self, class: &Bound<'_, PyAny>, this: &Bound<'_, EventLoop>) -> PyResult<bool> {
        match &self.found(class.py())?.native {
            Some((native, running_loop)) if class.is(native) => Ok(running_loop.bind(class.py()).invoke(())?.is(this)),
            _ => Ok(false),
        }
    }

    #[inline]
    fn found(&self, py: Python<'_>) -> PyResult<&Found> {
        self.found.get_or_try_init(py, || {
            let native = || {
                let module = py.import("_asyncio").ok()?;
                let running_loop = module.getattr_opt(intern!(py, "_get_running_loop")).ok()??;
                Some((module.getattr_opt(self.name).ok()??.unbind(), running_loop.unbind()))
            };
            let names = py.import(self.module)?.dict().unbind();
            Ok(Found { names, name: PyString::intern(py, self.name).unbind(), native: native() })
        })
    }
}

/// The keyword arguments of something that belongs to this loop.
pub fn of_loop<'py>(this: &Bound<'py, EventLoop>) -> PyResult<Bound<'py, PyDict>> {
    let options = PyDict::new(this.py());
    options.set_item(intern!(this.py(), "loop"), this)?;
    Ok(options)
}
