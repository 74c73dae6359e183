//! Which backends there are on this machine: for loops that open one, and for the doctor.
#![forbid(unsafe_code)]

use super::invoke::Invoke;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use zloop_backends::{AnyBackend, Backend, Kind, Unavailable, available, open, open_auto};

/// Opens the backend of that name, or the best one.
///
/// # Errors
/// `ValueError` for an unknown name, `zloop.BackendUnavailable` where this machine cannot.
pub fn open_named(py: Python<'_>, name: Option<&str>) -> PyResult<AnyBackend> {
    let opened = match name {
        None => open_auto(),
        Some(name) => open(kind_of(name)?),
    };
    opened.map_err(|error| unavailable(py, &error))
}

/// # Errors
/// `ValueError`, listing the names that work here, for an unknown one.
fn kind_of(name: &str) -> PyResult<Kind> {
    Kind::from_name(name).ok_or_else(|| {
        let names: Vec<_> = available().into_iter().map(Kind::name).collect();
        PyValueError::new_err(format!("unknown backend {name:?}; available: auto, {}", names.join(", ")))
    })
}

/// `zloop.BackendUnavailable`, which is an `OSError` with the kernel's errno.
fn unavailable(py: Python<'_>, error: &Unavailable) -> PyErr {
    let class = py.import("zloop").and_then(|zloop| zloop.getattr("BackendUnavailable"));
    let made = class.and_then(|class| class.invoke((error.errno, error.to_string())));
    made.map_or_else(|error| error, PyErr::from_value)
}

/// What every backend says of itself on this machine, for the doctor: dicts with `name`, `available`, `candidate` (an
/// automatic choice may take it), `automatic` (it does), and `model` and `features`, or `errno` and `reason`.
#[pyfunction]
pub fn diagnose(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    let automatic = open_auto().ok().map(|backend| backend.profile().name);
    let examine = |kind: Kind| {
        let report = PyDict::new(py);
        report.set_item("name", kind.name())?;
        report.set_item("candidate", Kind::AUTO.contains(&kind))?;
        report.set_item("automatic", automatic == Some(kind.name()))?;
        match open(kind).map(|backend| backend.profile()) {
            Ok(profile) => {
                report.set_item("available", true)?;
                report.set_item("model", profile.model)?;
                report.set_item("features", profile.features)?;
            }
            Err(error) => {
                report.set_item("available", false)?;
                report.set_item("errno", error.errno)?;
                report.set_item("reason", error.reason)?;
            }
        }
        Ok(report)
    };
    Kind::ALL.iter().copied().map(examine).collect()
}

/// Names of the backends that open on this machine, in the order of `Kind::ALL`.
#[pyfunction]
pub fn available_backends() -> Vec<&'static str> {
    available().into_iter().map(Kind::name).collect()
}
