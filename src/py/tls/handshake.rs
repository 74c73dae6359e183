//! The beginning of a session.
#![forbid(unsafe_code)]

use pyo3::exceptions::{PyConnectionAbortedError, PyConnectionResetError, PyException};
use pyo3::intern;
use pyo3::prelude::*;

use super::super::event_loop::EventLoop;
use super::super::transport::log;
use super::engine::{Names, Step};
use super::{Session, read, shutdown, write};
use crate::py::invoke::Invoke;
use crate::tls::{Phase, Told};

/// Begins, with a timer that ends it when it takes too long.
pub fn start(session: Session<'_, '_>) -> PyResult<()> {
    let py = session.py();
    if session.is_debug() {
        log(py, "debug", ("%r starts SSL handshake", session.0))?;
        let now = EventLoop::now(session.event_loop())?;
        session.state(|state| state.began = Some(now));
    }
    session.advance(Phase::DoHandshake)?;
    let timer = session.later(&session.0.get().handshake_timeout, intern!(py, "_check_handshake_timeout"))?;
    session.state(|state| state.handshake_timer = Some(timer));
    go_on(session)
}

/// Goes as far as the peer's bytes suffice.
pub fn go_on(session: Session<'_, '_>) -> PyResult<()> {
    let py = session.py();
    match session.engine()?.handshake(py) {
        Ok(Step::Again) => write::hand_down(session),
        Ok(Step::Done) => completed(session),
        Err(error) if error.matches(py, &Names::get(py)?.ssl_error)? => failed(session, error),
        Err(error) => Err(error),
    }
}

/// The peer has ended the stream instead of answering.
pub fn cut_off(session: Session<'_, '_>) -> PyResult<()> {
    failed(session, PyConnectionResetError::new_err(()))
}

fn completed(session: Session<'_, '_>) -> PyResult<()> {
    cancel_timer(session)?;
    match session.advance(Phase::Wrapped).and_then(|()| describe(session)) {
        Ok(()) => {}
        Err(error) if error.is_instance_of::<PyException>(session.py()) => return failed(session, error),
        Err(error) => return Err(error),
    }
    log_duration(session)?;
    let first = session.state(|state| {
        state.told == Told::Nothing && {
            state.told = Told::Made;
            true
        }
    });
    if first && let Some(protocol) = session.protocol() {
        let transport = session.object(|state| state.transport.as_ref());
        session.call(&protocol, intern!(session.py(), "connection_made"), (transport,))?;
    }
    wake_waiter(session, None)?;
    read::read(session)
}

/// Adds what is known now to what the transport tells.
fn describe(session: Session<'_, '_>) -> PyResult<()> {
    let py = session.py();
    let engine = session.engine()?;
    let object = engine.object(py);
    let certificate = object.invoke_method(intern!(py, "getpeercert"), ())?;
    let extra = session.state(|state| state.extra.clone_ref(py));
    let extra = extra.bind(py);
    extra.set_item(intern!(py, "peercert"), certificate)?;
    extra.set_item(intern!(py, "cipher"), object.invoke_method(intern!(py, "cipher"), ())?)?;
    extra.set_item(intern!(py, "compression"), object.invoke_method(intern!(py, "compression"), ())?)?;
    extra.set_item(intern!(py, "ssl_object"), object)
}

fn log_duration(session: Session<'_, '_>) -> PyResult<()> {
    match session.state(|state| state.began) {
        Some(began) if session.is_debug() => {
            let took = (EventLoop::now(session.event_loop())? - began) * 1e3;
            log(session.py(), "debug", ("%r: SSL handshake took %.1f ms", session.0, took))
        }
        _ => Ok(()),
    }
}

fn failed(session: Session<'_, '_>, error: PyErr) -> PyResult<()> {
    let py = session.py();
    cancel_timer(session)?;
    session.advance(Phase::Unwrapped)?;
    let verifying = error.matches(py, &Names::get(py)?.certificate_error)?;
    let message = if verifying { "SSL handshake failed on verifying the certificate" } else { "SSL handshake failed" };
    shutdown::fatal(session, error.clone_ref(py), message)?;
    wake_waiter(session, Some(error.value(py).as_any()))
}

/// The peer took too long.
pub fn timed_out(session: Session<'_, '_>) -> PyResult<()> {
    if session.phase() != Phase::DoHandshake {
        return Ok(());
    }
    let limit = session.0.get().handshake_timeout.bind(session.py());
    let text = format!("SSL handshake is taking longer than {limit} seconds: aborting the connection");
    shutdown::fatal(session, PyConnectionAbortedError::new_err(text), "Fatal error on transport")
}

pub fn cancel_timer(session: Session<'_, '_>) -> PyResult<()> {
    match session.state(|state| state.handshake_timer.take()) {
        Some(timer) => timer.bind(session.py()).invoke_method(intern!(session.py(), "cancel"), ()).map(drop),
        None => Ok(()),
    }
}

/// Tells whoever waits for the handshake, once.
pub fn wake_waiter<'py>(session: Session<'_, 'py>, error: Option<&Bound<'py, PyAny>>) -> PyResult<()> {
    let py = session.py();
    let Some(waiter) = session.state(|state| state.waiter.take()) else { return Ok(()) };
    if waiter.bind(py).invoke_method(intern!(py, "cancelled"), ())?.is_truthy()? {
        return Ok(());
    }
    match error {
        Some(error) => waiter.bind(py).invoke_method(intern!(py, "set_exception"), (error,)),
        None => waiter.bind(py).invoke_method(intern!(py, "set_result"), (py.None(),)),
    }
    .map(drop)
}
