//! Children of the process: their end is a readable file, so waiting for it needs no signal handler and no thread.
#![forbid(unsafe_code)]

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};
use zloop_backends::Interest;
use zloop_backends::child::{Child, Exit};

use super::event_loop::EventLoop;
use super::invoke::Invoke;
use super::native::{Args, Method, method};
use super::state::Waiter;
use super::transport::{Answer, flag, log, required};
use super::{errors, watch};

/// What asyncio answers for a child that somebody else has reaped.
const UNKNOWN: i32 = 255;

/// A child that a loop waits for: the callback of its watch.
#[pyclass(name = "Child", module = "zloop._zloop", frozen)]
pub struct Waited {
    pid: i32,
    child: Child,
    event_loop: Py<EventLoop>,
    callback: Py<PyAny>,
    argument: Py<PyAny>,
}

static WAIT: Method = method!(
    c"_wait_for_child",
    wait_for_child,
    c"Have callback(pid, returncode, argument) called when a child has ended. False if this system cannot."
);

/// Adds the method to the loop.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let event_loop: Bound<'_, PyType> = module.py().get_type::<EventLoop>();
    WAIT.install(&event_loop)
}

fn wait_for_child<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let py = slf.py();
    let this = slf.cast::<EventLoop>()?;
    let pid = required(args, "_wait_for_child", "pid")?.extract()?;
    let missing =
        || pyo3::exceptions::PyTypeError::new_err("_wait_for_child() takes a pid, a callback and its argument");
    let callback = args.get(1).ok_or_else(missing)?.to_owned().unbind();
    let argument = args.get(2).ok_or_else(missing)?.to_owned().unbind();
    // Too old a kernel, a sandbox, too many open files: whatever it is, a thread can do without.
    let Ok(child) = Child::open(pid) else { return Ok(flag(py, false)) };
    let fd = child.fd().into_pyobject(py)?.into_any();
    let waited = Bound::new(py, Waited { pid, child, event_loop: this.clone().unbind(), callback, argument })?;
    watch::add(this, &fd, Interest::READ, (waited.into_any(), PyTuple::empty(py), None), Waiter::Handle)?;
    Ok(flag(py, true))
}

#[pymethods]
impl Waited {
    /// The child has ended.
    fn __call__(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let code = match this.child.reap() {
            Ok(None) => return Ok(()),
            Ok(Some(Exit::Status(status))) => status,
            Ok(Some(Exit::Signal(signal))) => -signal,
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                let text = "child process pid %d exit status already read:  will report returncode 255";
                log(py, "warning", (text, this.pid))?;
                UNKNOWN
            }
            Err(error) => return Err(errors::os_error(py, &error)),
        };
        let fd = this.child.fd().into_pyobject(py)?.into_any();
        watch::remove(this.event_loop.bind(py), &fd, Interest::READ)?;
        this.callback.bind(py).invoke((this.pid, code, &this.argument)).map(drop)
    }

    fn __repr__(&self) -> String {
        format!("<Child pid={}>", self.pid)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        visit.call(&self.callback)?;
        visit.call(&self.argument)
    }
}
