//! Child processes whose end the backend reports, where the kernel does.
#![forbid(unsafe_code)]

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use zloop_backends::Backend;

use super::errors;
use super::event_loop::EventLoop;
use super::handle::new_watcher;
use super::state::Source;

/// Calls `function(*args)` once, when the child has ended and waits to be reaped.
///
/// # Errors
/// `OSError` with `ENOSYS` if this backend does not tell, `ProcessLookupError` if the child has ended already.
pub fn watch<'py>(
    this: &Bound<'py, EventLoop>,
    pid: i32,
    function: Bound<'py, PyAny>,
    args: Bound<'py, PyTuple>,
) -> PyResult<()> {
    let py = this.py();
    let core = this.get();
    core.check_open()?;
    let handle = new_watcher(this, &function, &args, None)?;
    let told = core.state.with(py, |state| {
        let token = state.sources.insert(Source::Exit(handle.clone().unbind()));
        let told = state.backend().and_then(|backend| backend.watch_exit(pid, token));
        if told.is_err() {
            // We hold the handle too, so nothing is freed here.
            state.sources.remove(token);
        }
        told
    });
    told.map_err(|error| errors::os_error(py, &error))
}
