//! Futures of `concurrent.futures` as futures of the loop, which is what `run_in_executor()` answers.
//!
//! As `asyncio.wrap_future()` does it, with one native object in place of the closures between the two futures.
#![forbid(unsafe_code)]

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::event_loop::EventLoop;
use super::invoke::Invoke;

/// The callback of both futures.
#[pyclass(frozen, module = "zloop._zloop")]
struct Bridge {
    event_loop: Py<EventLoop>,
    source: Py<PyAny>,
    target: Py<PyAny>,
    /// asyncio's newer versions copy a result in the loop's own thread at once.
    at_once: bool,
}

/// A future of the loop that gets what `source`, a `concurrent.futures.Future`, gets, and cancels it when it is
/// cancelled. `at_once`: if the source is done in the loop's own thread, the loop's future is at the same moment.
#[pyfunction]
pub fn wrap_future<'py>(
    event_loop: &Bound<'py, EventLoop>,
    source: &Bound<'py, PyAny>,
    at_once: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let py = event_loop.py();
    let target = event_loop.invoke_method(intern!(py, "create_future"), ())?;
    let bridge = Bridge {
        event_loop: event_loop.clone().unbind(),
        source: source.clone().unbind(),
        target: target.clone().unbind(),
        at_once,
    };
    let bridge = Bound::new(py, bridge)?;
    target.invoke_method(intern!(py, "add_done_callback"), (&bridge,))?;
    source.invoke_method(intern!(py, "add_done_callback"), (&bridge,))?;
    Ok(target)
}

#[pymethods]
impl Bridge {
    /// With the future that is done, in whatever thread it was; without one, in the loop's, to pass the result on.
    #[pyo3(signature = (done=None))]
    fn __call__(slf: &Bound<'_, Self>, done: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        match done {
            Some(done) if done.is(&this.target) => {
                if done.invoke_method(intern!(py, "cancelled"), ())?.is_truthy()? {
                    this.source.bind(py).invoke_method(intern!(py, "cancel"), ())?;
                }
                Ok(())
            }
            Some(_) if this.event_loop.get().check_open().is_err() => Ok(()),
            Some(_) if !(this.at_once && this.runs_here(py)?) => {
                this.event_loop.bind(py).invoke_method(intern!(py, "call_soon_threadsafe"), (slf,)).map(drop)
            }
            _ => this.copy(py),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        visit.call(&self.source)?;
        visit.call(&self.target)
    }
}

impl Bridge {
    /// Whether the loop is the one that runs in this thread.
    fn runs_here(&self, py: Python<'_>) -> PyResult<bool> {
        if !self.event_loop.get().runs_here() {
            return Ok(false);
        }
        static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let running = RUNNING.import(py, "asyncio.events", "_get_running_loop")?.invoke(())?;
        Ok(running.is(&self.event_loop))
    }

    fn copy(&self, py: Python<'_>) -> PyResult<()> {
        static COPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let copy = COPY.import(py, "asyncio.futures", "_copy_future_state")?;
        copy.invoke((&self.source, &self.target)).map(drop)
    }
}
