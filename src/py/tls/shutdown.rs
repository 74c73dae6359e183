//! The end of a session: asked for, announced by the peer, or forced.
#![forbid(unsafe_code)]

use pyo3::exceptions::{PyException, PyOSError, PyTimeoutError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::super::call;
use super::super::transport::{explain, log};
use super::engine::{Names, Step};
use super::{Session, below, handshake, read, write};
use crate::py::invoke::Invoke;
use crate::tls::Phase;

/// `transport.close()`, and the answer to the peer's end: what was written leaves, then our end is announced.
pub fn start(session: Session<'_, '_>) -> PyResult<()> {
    let py = session.py();
    if session.phase().is_ending() {
        return Ok(());
    }
    session.state(|state| state.closed = true);
    if session.phase() == Phase::DoHandshake {
        return abort(session, py.None().bind(py));
    }
    session.advance(Phase::Flushing)?;
    limit_time(session)?;
    flush(session)
}

/// Has the connection end, whatever the peer does, unless it has ended by then.
fn limit_time(session: Session<'_, '_>) -> PyResult<()> {
    if session.state(|state| state.shutdown_timer.is_some()) {
        return Ok(());
    }
    let check = intern!(session.py(), "_check_shutdown_timeout");
    let timer = session.later(&session.0.get().shutdown_timeout, check)?;
    session.state(|state| state.shutdown_timer = Some(timer));
    Ok(())
}

/// The peer did not answer in time, or does not read what is to leave before the transport below closes.
pub fn timed_out(session: Session<'_, '_>) -> PyResult<()> {
    if !matches!(session.phase(), Phase::Flushing | Phase::Shutdown) {
        return Ok(());
    }
    let error = PyTimeoutError::new_err("SSL shutdown timed out");
    below::force_close(session, error.value(session.py()).as_any())
}

/// Delivers what has come and makes records of all that was written; behind those comes our end.
pub fn flush(session: Session<'_, '_>) -> PyResult<()> {
    read::read(session)?;
    if session.phase() != Phase::Flushing {
        // The program has aborted the connection while it got the last of its data.
        return Ok(());
    }
    session.or_fatal(|| write::encrypt_all(session))?;
    session.advance(Phase::Shutdown)?;
    go_on(session)
}

/// Announces our end and waits for the peer's. Data that comes before that is for nobody any more.
pub fn go_on(session: Session<'_, '_>) -> PyResult<()> {
    let py = session.py();
    // OpenSSL calls it an error. If reading fails, so does what follows, in asyncio's words.
    let _unwanted = session.engine()?.read(py);
    let step = if session.state(|state| state.ended) { Ok(Step::Done) } else { session.engine()?.unwrap(py) };
    match step {
        Ok(Step::Again) => write::hand_down(session),
        Ok(Step::Done) => {
            write::hand_down_all(session)?;
            write::control_program(session)?;
            tell_eof(session)?;
            complete(session, None)
        }
        Err(error) if error.matches(py, &Names::get(py)?.ssl_error)? => complete(session, Some(error)),
        Err(error) => Err(error),
    }
}

fn complete(session: Session<'_, '_>, error: Option<PyErr>) -> PyResult<()> {
    let py = session.py();
    if let Some(error) = error {
        cancel_timer(session)?;
        return fatal(session, error, "Fatal error on transport");
    }
    // The transport below first sends what it has. The peer may have asked for the end and read no more: that must not
    // take for ever, so the limit holds until that transport is lost, as on asyncio since Python 3.14.10.
    limit_time(session)?;
    match session.object(|state| state.below.as_ref()) {
        Some(below) => {
            let close = below.getattr(intern!(py, "close"))?;
            session.event_loop().invoke_method(intern!(py, "call_soon"), (close,)).map(drop)
        }
        None => Ok(()),
    }
}

fn cancel_timer(session: Session<'_, '_>) -> PyResult<()> {
    match session.state(|state| state.shutdown_timer.take()) {
        Some(timer) => timer.bind(session.py()).invoke_method(intern!(session.py(), "cancel"), ()).map(drop),
        None => Ok(()),
    }
}

/// Ends the connection at once, because of `error` or because of `abort()`.
pub fn abort<'py>(session: Session<'_, 'py>, error: &Bound<'py, PyAny>) -> PyResult<()> {
    // What was written before has been sent by now on asyncio.
    write::settle(session)?;
    below::settle(session)?;
    session.advance(Phase::Unwrapped)?;
    below::force_close(session, error)
}

/// Ends the connection because of an error, and reports it if it is none of the network's.
#[cold]
pub fn fatal(session: Session<'_, '_>, error: PyErr, message: &str) -> PyResult<()> {
    let py = session.py();
    let below = session.object(|state| state.below.as_ref());
    below::force_close(session, error.value(py).as_any())?;
    report(session, below, &error, message)
}

/// Says why a connection ends: the network's errors only in debug mode's log.
fn report(session: Session<'_, '_>, below: Option<Bound<'_, PyAny>>, error: &PyErr, message: &str) -> PyResult<()> {
    let py = session.py();
    let quiet = error.is_instance_of::<PyOSError>(py);
    if quiet && session.is_debug() {
        let options = PyDict::new(py);
        options.set_item("exc_info", error.value(py))?;
        let logger = py.import("asyncio.log")?.getattr("logger")?;
        return logger.getattr("debug")?.invoke_with(("%r: %s", session.0, message), &options).map(drop);
    }
    if quiet || error.matches(py, py.import("asyncio.exceptions")?.getattr("CancelledError")?)? {
        return Ok(());
    }
    let below = below.unwrap_or_else(|| py.None().into_bound(py));
    explain(session.event_loop(), (&below, Some(session.0.clone().into_any())), (error, message), false)
}

/// Tells the program's protocol of the peer's end, once.
pub fn tell_eof(session: Session<'_, '_>) -> PyResult<()> {
    let py = session.py();
    if !session.state(|state| state.told.eof()) {
        return Ok(());
    }
    let Some(protocol) = session.protocol() else { return Ok(()) };
    let kept = session.call(&protocol, intern!(py, "eof_received"), ()).and_then(|kept| kept.is_truthy());
    match kept {
        Ok(false) => Ok(()),
        Ok(true) => log(py, "warning", ("returning true from eof_received() has no effect when using ssl",)),
        Err(error) if call::escapes(py, &error) => Err(error),
        Err(error) => fatal(session, error, "Error calling eof_received()"),
    }
}

/// The peer has ended the stream below, with or without an end of the session before it.
pub fn eof(session: Session<'_, '_>) -> PyResult<bool> {
    let py = session.py();
    session.state(|state| state.ended = true);
    let result = end_of_stream(session);
    if let Err(error) = &result
        && error.is_instance_of::<PyException>(py)
    {
        below::tell(session, intern!(py, "close"))?;
    }
    result
}

fn end_of_stream(session: Session<'_, '_>) -> PyResult<bool> {
    if session.is_debug() {
        log(session.py(), "debug", ("%r received EOF", session.0))?;
    }
    match session.phase() {
        Phase::Unwrapped => {}
        Phase::DoHandshake => handshake::cut_off(session)?,
        Phase::Wrapped => {
            session.advance(Phase::Flushing)?;
            if session.state(|state| state.paused) {
                return Ok(true);
            }
            flush(session)?;
        }
        Phase::Flushing => {
            write::encrypt_all(session)?;
            session.advance(Phase::Shutdown)?;
            go_on(session)?;
        }
        Phase::Shutdown => go_on(session)?,
    }
    Ok(false)
}

/// The transport below is gone: the program's protocol hears of it in a turn of its own.
pub fn lost<'py>(session: Session<'_, 'py>, error: &Bound<'py, PyAny>) -> PyResult<()> {
    let py = session.py();
    let engine = session.engine()?;
    while engine.take(py)?.is_some() {}
    let (tell, protocol, _garbage) = session.state(|state| {
        state.conn_lost += 1;
        state.closed = true;
        let tell = state.phase != Phase::DoHandshake && state.told.lost();
        state.phase = Phase::Unwrapped;
        let protocol = state.protocol.take();
        (tell, protocol, (state.below.take(), state.transport.take(), state.backlog.take_all()))
    });
    if tell && let Some(protocol) = protocol {
        let method = protocol.getattr(py, intern!(py, "connection_lost"))?;
        session.event_loop().invoke_method(intern!(py, "call_soon"), (method, error))?;
    }
    handshake::wake_waiter(session, Some(error).filter(|error| !error.is_none()))?;
    cancel_timer(session)?;
    handshake::cancel_timer(session)?;
    session.let_go();
    Ok(())
}
