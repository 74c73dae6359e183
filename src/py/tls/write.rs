//! Writing: from the program to the transport below, with flow control.
//!
//! What one callback writes becomes records together, when it returns: fewer of them, and one call for all. Whoever needs
//! to know how much has left has it done first, as for plain streams.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::ops::Range;

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use super::super::call::bytes_filled_by;
use super::super::run;
use super::super::transport::{SILENT_DROPS, log, snapshot};
use super::{Session, TlsProtocol, below};
use crate::io::AT_ONCE_FROM;
use crate::tls::Phase;

/// At most this much data goes into records before the transport below gets them: what it is full of need not be
/// encrypted yet. Less than a socket takes at once costs more system calls than the processor's cache gains.
const BATCH: usize = 512 * 1024;

/// The most data of one record: a buffer this long is worth records of its own.
const RECORD: usize = 16 * 1024;

/// Takes data of the program.
pub fn write(session: Session<'_, '_>, data: impl IntoIterator<Item = PyBackedBytes>) -> PyResult<()> {
    if session.phase().is_ending() {
        return drop_late(session);
    }
    let core = session.event_loop().get();
    let (now, later) = session.state(|state| {
        data.into_iter().filter(|data| !data.is_empty()).for_each(|data| state.backlog.push(data));
        if state.phase != Phase::Wrapped {
            return (false, None);
        }
        let held = state.backlog.len() <= AT_ONCE_FROM && state.backlog.len() < state.write_mark.high();
        let later = held && core.holds_writes() && !state.backlog.is_empty();
        let listed = later && !std::mem::replace(&mut state.dirty, true);
        (!later, listed.then(|| state.backlog.len()))
    });
    if let Some(bytes) = later {
        core.mark_dirty(session.py(), session.0.clone().into_any().unbind(), bytes);
    }
    if now { session.or_fatal(|| encrypt(session)) } else { Ok(()) }
}

#[cold]
fn drop_late(session: Session<'_, '_>) -> PyResult<()> {
    let lost = session.state(|state| {
        state.conn_lost += 1;
        state.conn_lost - 1
    });
    if lost < SILENT_DROPS {
        return Ok(());
    }
    log(session.py(), "warning", ("SSL connection is closed",))
}

/// The callback that wrote has returned. The loop calls it for all that were written to; says whether this is a session. It
/// may stay `listed` among those.
pub fn flush_written(written: &Bound<'_, PyAny>, listed: bool) -> PyResult<bool> {
    let Ok(this) = written.cast_exact::<TlsProtocol>() else { return Ok(false) };
    let session = Session(this);
    let dirty = session.state(|state| {
        let dirty = state.dirty;
        state.dirty &= listed;
        dirty
    });
    if !dirty {
        return Ok(true);
    }
    settle(session).or_else(|error| run::report(session.event_loop(), "SSLTransport._flush()", error))?;
    Ok(true)
}

/// Brings what was written to the sessions above a transport, whose protocol this is, down to that transport. They stay
/// on the loop's list.
pub fn hand_down_all_to(protocol: &Bound<'_, PyAny>) -> PyResult<()> {
    let mut sessions: Vec<Bound<'_, TlsProtocol>> = Vec::new();
    let mut next = Some(protocol.clone());
    while let Some(Ok(session)) = next.take().map(|protocol| protocol.cast_into_exact::<TlsProtocol>()) {
        // A program could make one its own protocol.
        if sessions.iter().all(|known| !known.is(&session)) {
            next = Session(&session).protocol();
            sessions.push(session);
        }
    }
    // What leaves the uppermost passes through all others.
    sessions.iter().rev().try_for_each(|session| flush_written(session.as_any(), true).map(drop))
}

/// Makes records of what waits, for callers that need to know how much is left.
pub fn settle(session: Session<'_, '_>) -> PyResult<()> {
    match session.phase() {
        // Flushing lasts while the program wants no data: what it wrote before leaves meanwhile.
        Phase::Wrapped | Phase::Flushing => session.or_fatal(|| encrypt(session)),
        _ => Ok(()),
    }
}

/// Makes records as long as the transport below takes them, and hands them down.
pub fn encrypt(session: Session<'_, '_>) -> PyResult<()> {
    while !session.state(|state| state.below_full) && encrypt_batch(session)? {
        if session.engine()?.outgoing(session.py())? >= BATCH {
            hand_down_quietly(session)?;
        }
    }
    hand_down(session)
}

/// Makes records of everything, for an end behind which nothing can follow.
pub fn encrypt_all(session: Session<'_, '_>) -> PyResult<()> {
    while encrypt_batch(session)? {}
    hand_down(session)
}

/// Makes records of at most a batch. Says whether there may be more to do.
fn encrypt_batch(session: Session<'_, '_>) -> PyResult<bool> {
    let Some((data, range)) = next_batch(session)? else { return Ok(false) };
    let Some(count) = session.engine()?.write(session.py(), &data, range)? else { return Ok(false) };
    session.state(|state| {
        // The backlog may be gone: what the engine calls can end the session.
        let count = count.min(state.backlog.len());
        state.backlog.advance(count, drop);
    });
    Ok(true)
}

/// A buffer and the part of it that comes next: the head of the backlog, or a copy of several small ones, so that they
/// share records. A large one behind them lends no more than what fills the last of those records.
fn next_batch(session: Session<'_, '_>) -> PyResult<Option<(PyBackedBytes, Range<usize>)>> {
    let py = session.py();
    session.state(|state| {
        let Some((head, start)) = state.backlog.head() else { return Ok(None) };
        let (length, waiting) = (head.len() - start, state.backlog.len());
        if length == waiting || length >= RECORD {
            return Ok(Some((head.clone_ref(py), start..start + length.min(BATCH))));
        }
        let (small, more) = state.backlog.small_head(RECORD);
        let size = if more { small.next_multiple_of(RECORD) } else { small };
        let size = size.min(waiting).min(BATCH);
        let Ok(joined) = bytes_filled_by(py, size, |room| {
            let mut filled = 0;
            for piece in state.backlog.pieces(size) {
                let place = room[filled..].iter_mut().zip(piece);
                place.for_each(|(place, byte)| _ = place.write(*byte));
                filled += piece.len();
            }
            Ok::<_, Infallible>(filled)
        })?;
        let length = joined.as_bytes().len();
        Ok(Some((PyBackedBytes::from(joined), 0..length)))
    })
}

/// Gives the records to the transport below, and tells the program whether it may go on.
pub fn hand_down(session: Session<'_, '_>) -> PyResult<()> {
    hand_down_quietly(session)?;
    control_program(session)
}

fn hand_down_quietly(session: Session<'_, '_>) -> PyResult<()> {
    if session.state(|state| state.below_full) {
        return Ok(());
    }
    hand_down_all(session)
}

/// Gives the records to the transport below even if that has too much already.
pub fn hand_down_all(session: Session<'_, '_>) -> PyResult<()> {
    let engine = session.engine()?;
    while let Some(records) = engine.take(session.py())? {
        below::write(session, records)?;
    }
    Ok(())
}

/// The transport below takes bytes again.
pub fn go_on(session: Session<'_, '_>) -> PyResult<()> {
    match session.phase() {
        Phase::Wrapped | Phase::Flushing => settle(session),
        _ => hand_down(session),
    }
}

/// How many bytes wait here: data, and records that the transport below does not take.
pub fn size(session: Session<'_, '_>) -> PyResult<usize> {
    Ok(session.engine()?.outgoing(session.py())? + session.state(|state| state.backlog.len()))
}

/// Tells the program to pause or to go on.
pub fn control_program(session: Session<'_, '_>) -> PyResult<()> {
    let size = size(session)?;
    let (pause, resume) =
        session.state(|state| (state.write_mark.must_pause(size), state.write_mark.must_resume(size)));
    if pause {
        session.tell("pause_writing")
    } else if resume {
        session.tell("resume_writing")
    } else {
        Ok(())
    }
}

/// What was written, as `bytes` that nobody can change.
pub fn owned(data: &Bound<'_, PyAny>) -> PyResult<PyBackedBytes> {
    match data.cast_exact::<PyBytes>() {
        Ok(data) => Ok(PyBackedBytes::from(data.clone())),
        Err(_) => snapshot(data).map(PyBackedBytes::from),
    }
}
