//! Debug mode: callbacks that take too long are logged, as asyncio logs them.
#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;

use super::event_loop::EventLoop;
use super::handle::{self, HandleTypes};
use super::invoke::Invoke;
use super::state::Item;

/// Runs one item and logs it if it took `slow_callback_duration` seconds or longer.
pub fn run(this: &Bound<'_, EventLoop>, item: Item, run: impl FnOnce(Item) -> PyResult<()>) -> PyResult<()> {
    let py = this.py();
    let handle = match &item {
        Item::Handle(handle) => Some(handle.bind(py).clone()),
        _ => None,
    };
    // asyncio passes over what was cancelled before it looks at the clock.
    if let Some(handle) = &handle
        && handle::is_cancelled(HandleTypes::get(py)?, handle.as_unbound())
    {
        return run(item);
    }
    let current = intern!(py, "_current_handle");
    this.setattr(current, &handle)?;
    let began = EventLoop::now(this)?;
    let result = run(item);
    let took = EventLoop::now(this)? - began;
    this.setattr(current, py.None())?;
    result?;
    if took >= this.getattr(intern!(py, "slow_callback_duration"))?.extract()? {
        let what = match handle {
            Some(handle) => py.import("asyncio.base_events")?.invoke_method("_format_handle", (handle,))?,
            None => "<Handle StreamTransport._read_ready()>".into_pyobject(py)?.into_any(),
        };
        // Programs may have put their own in this place, where asyncio's code looks for it.
        let logger = py.import("asyncio.base_events")?.getattr("logger")?;
        logger.invoke_method("warning", ("Executing %s took %.3f seconds", what, took))?;
    }
    Ok(())
}
