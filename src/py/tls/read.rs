//! Reading: from the peer's bytes to the program's protocol.
#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;

use super::engine::End;
use super::{Session, below, shutdown, write};
use crate::tls::Phase;

/// Delivers what has come. What goes wrong ends the connection.
pub fn read(session: Session<'_, '_>) -> PyResult<()> {
    if !matches!(session.phase(), Phase::Wrapped | Phase::Flushing) {
        return Ok(());
    }
    session.or_fatal(|| {
        if !session.state(|state| state.paused) {
            if session.state(|state| state.buffered) { into_protocol(session)? } else { as_bytes(session)? }
        }
        // Reading can have made records: answers of the handshake's, new keys.
        write::encrypt(session)?;
        control_below(session)
    })
}

fn as_bytes(session: Session<'_, '_>) -> PyResult<()> {
    let py = session.py();
    let (data, end) = session.engine()?.read(py)?;
    if let Some(data) = data
        && let Some(protocol) = session.protocol()
    {
        session.call(&protocol, intern!(py, "data_received"), (data,))?;
    }
    finish(session, end)
}

fn into_protocol(session: Session<'_, '_>) -> PyResult<()> {
    let py = session.py();
    let Some(protocol) = session.protocol() else { return Ok(()) };
    let hint = session.engine()?.incoming(py)?;
    let buffer = session.call(&protocol, intern!(py, "get_buffer"), (hint,))?;
    let (count, end) = session.engine()?.read_into(&buffer)?;
    if count > 0 {
        if count == buffer.len()? {
            // More may wait, for a buffer of the next turn.
            session.soon(intern!(py, "_do_read"))?;
        }
        session.call(&protocol, intern!(py, "buffer_updated"), (count,))?;
    }
    finish(session, end)
}

/// Behind the data comes what ended it.
fn finish(session: Session<'_, '_>, end: End) -> PyResult<()> {
    match end {
        End::Again => Ok(()),
        End::Failed(error) => Err(error),
        End::Closed => {
            shutdown::tell_eof(session)?;
            shutdown::start(session)
        }
    }
}

/// Has the transport below read no more than the program takes.
pub fn control_below(session: Session<'_, '_>) -> PyResult<()> {
    let py = session.py();
    let size = session.engine()?.incoming(py)?;
    let (pause, resume) = session.state(|state| (state.read_mark.must_pause(size), state.read_mark.must_resume(size)));
    if pause {
        below::tell(session, intern!(py, "pause_reading"))
    } else if resume {
        below::tell(session, intern!(py, "resume_reading"))
    } else {
        Ok(())
    }
}

pub fn pause(session: Session<'_, '_>) {
    session.state(|state| state.paused = true);
}

/// Data goes on in a turn of its own, as asyncio has it.
pub fn resume(session: Session<'_, '_>) -> PyResult<()> {
    if session.state(|state| std::mem::replace(&mut state.paused, false)) {
        return session.soon(intern!(session.py(), "_resume"));
    }
    Ok(())
}
