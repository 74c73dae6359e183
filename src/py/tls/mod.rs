//! TLS: a protocol on top of any transport, and a transport for the program's protocol on top of that.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the protocol, what it is made of, and where the transport below enters |
//! | `handshake.rs` | the beginning, with its timeout |
//! | `read.rs` | from the peer's bytes to the program's protocol |
//! | `write.rs` | from `write()` to the transport below, with flow control |
//! | `shutdown.rs` | the end, ordered or not |
//! | `below.rs` | the transport below, ours or anybody's |
//! | `transport.rs` | what the program sees |
//! | `engine.rs` | what is asked of OpenSSL |
//! | `portable.rs`, `direct.rs` | two ways of asking: by Python's own object, or OpenSSL itself |
//! | `proof.rs` | whether the second way works here |
//!
//! It behaves as `asyncio.sslproto` does, which is the place to look for why something is as it is. Other than there,
//! what one callback writes becomes records together, when that callback returns.

mod below;
mod direct;
mod engine;
mod handshake;
mod portable;
mod proof;
mod read;
mod shutdown;
mod transport;
mod write;

use std::sync::Arc;

use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyDict, PyString};

use super::cell::Guarded;
use super::event_loop::EventLoop;
use super::transport::is_buffered;
use crate::io::{Watermark, WriteQueue};
use crate::py::invoke::{Arguments, Invoke};
use crate::tls::{Phase, Told};
use engine::Engine;

pub use proof::tls_problem;
pub use transport::register;
pub use write::{flush_written, hand_down_all_to};

/// asyncio's default marks, in bytes.
const WRITE_HIGH: usize = 512 * 1024;
const READ_HIGH: usize = 256 * 1024;

/// The protocol that the transport below talks to: what asyncio calls `SSLProtocol`.
#[pyclass(name = "TlsProtocol", module = "zloop._zloop", frozen)]
pub struct TlsProtocol {
    event_loop: Py<EventLoop>,
    /// In seconds, as the program gave them.
    handshake_timeout: Py<PyAny>,
    shutdown_timeout: Py<PyAny>,
    state: Guarded<State>,
}

/// What changes during the life of a session.
struct State {
    /// None once it was let go of.
    engine: Option<Arc<Engine>>,
    phase: Phase,
    told: Told,
    /// Counts what comes after the end.
    conn_lost: u32,
    /// The future of whoever waits for the handshake.
    waiter: Option<Py<PyAny>>,
    /// The program's protocol.
    protocol: Option<Py<PyAny>>,
    /// Whether that hands out its own buffers.
    buffered: bool,
    /// The program's transport, until the connection is lost.
    transport: Option<Py<PyAny>>,
    /// The transport below, while there is a connection.
    below: Option<Py<PyAny>>,
    /// What the transport knows to tell, beyond what the one below knows.
    extra: Py<PyDict>,
    /// The program has closed its transport, or cannot any more.
    closed: bool,
    /// It was closed again after that: nothing more is asked of the session.
    done_with: bool,

    /// Data of the program that is not in records yet.
    backlog: WriteQueue<PyBackedBytes>,
    write_mark: Watermark,
    /// On the loop's list of those who have written.
    dirty: bool,
    /// The transport below takes no more for now.
    below_full: bool,

    read_mark: Watermark,
    /// The program wants no data for now.
    paused: bool,
    /// The peer has ended the stream below.
    ended: bool,

    handshake_timer: Option<Py<PyAny>>,
    shutdown_timer: Option<Py<PyAny>>,
    /// When the handshake began, by the loop's clock; in debug mode only.
    began: Option<f64>,
}

/// A session, as the functions of this module pass it around.
#[derive(Clone, Copy)]
struct Session<'a, 'py>(&'a Bound<'py, TlsProtocol>);

impl<'a, 'py> Session<'a, 'py> {
    fn py(self) -> Python<'py> {
        self.0.py()
    }

    fn state<R>(self, body: impl FnOnce(&mut State) -> R) -> R {
        self.0.get().state.with(self.py(), body)
    }

    fn engine(self) -> PyResult<Arc<Engine>> {
        let engine = self.state(|state| state.engine.clone());
        engine.ok_or_else(|| PyRuntimeError::new_err("the transport is closed"))
    }

    fn event_loop(self) -> &'a Bound<'py, EventLoop> {
        self.0.get().event_loop.bind(self.py())
    }

    fn is_debug(self) -> bool {
        self.event_loop().get().is_debug()
    }

    fn phase(self) -> Phase {
        self.state(|state| state.phase)
    }

    /// Goes to the next phase.
    fn advance(self, next: Phase) -> PyResult<()> {
        self.state(|state| state.phase.advance(next)).map_err(|(from, to)| {
            let [from, to] = [from, to].map(|phase| format!("SSLProtocolState.{}", phase.name()));
            PyRuntimeError::new_err(format!("cannot switch state from {from} to {to}"))
        })
    }

    /// One of the objects in the state.
    fn object(self, pick: impl FnOnce(&State) -> Option<&Py<PyAny>>) -> Option<Bound<'py, PyAny>> {
        self.state(|state| pick(state).map(|object| object.bind(self.py()).clone()))
    }

    fn protocol(self) -> Option<Bound<'py, PyAny>> {
        self.object(|state| state.protocol.as_ref())
    }

    /// One of this protocol's own methods, as a callback.
    fn method(self, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        self.0.getattr(name)
    }

    /// Calls one of this protocol's own methods in the next turn.
    fn soon(self, name: &Bound<'py, PyString>) -> PyResult<()> {
        self.event_loop().invoke_method(intern!(self.py(), "call_soon"), (self.method(name)?,)).map(drop)
    }

    /// Calls one of this protocol's own methods after `delay` seconds.
    fn later(self, delay: &Py<PyAny>, name: &Bound<'py, PyString>) -> PyResult<Py<PyAny>> {
        let arguments = (delay, self.method(name)?);
        self.event_loop().invoke_method(intern!(self.py(), "call_later"), arguments).map(Bound::unbind)
    }

    /// Takes the program's protocol and finds out of which kind it is.
    fn set_protocol(self, protocol: &Bound<'py, PyAny>) -> PyResult<()> {
        let buffered = is_buffered(protocol)?;
        let protocol = protocol.clone().unbind();
        let old = self.state(|state| {
            state.buffered = buffered;
            state.protocol.replace(protocol)
        });
        note_replaced(self.event_loop(), old);
        Ok(())
    }

    /// What `get_extra_info` answers.
    fn extra_info(self, name: &Bound<'py, PyAny>, default: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py();
        let extra = self.state(|state| state.extra.clone_ref(py));
        if let Some(value) = extra.bind(py).get_item(name)? {
            return Ok(value);
        }
        match self.object(|state| state.below.as_ref()) {
            Some(below) => below.invoke_method(intern!(py, "get_extra_info"), (name, default)),
            None => Ok(default),
        }
    }

    /// Lets go of the session if nothing more can be asked of it: a program that keeps its transport does not keep the
    /// context and the certificates.
    fn let_go(self) {
        let py = self.py();
        let garbage = self.state(|state| {
            let over = state.done_with && state.below.is_none() && state.phase == Phase::Unwrapped;
            over.then(|| (state.engine.take(), state.extra.clone_ref(py)))
        });
        if let Some((_engine, extra)) = garbage {
            extra.bind(py).clear();
        }
    }

    /// Calls the program's protocol. What it wrote before it raised leaves before that ends the connection: on asyncio it
    /// has left by then.
    fn call(
        self,
        protocol: &Bound<'py, PyAny>,
        method: &Bound<'py, PyString>,
        args: impl Arguments<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let result = protocol.invoke_method(method, args);
        if result.is_err() {
            write::settle(self)?;
        }
        result
    }

    /// Tells the program's protocol something, as asyncio does where the answer does not matter: what it raises is
    /// reported, and that is all.
    fn tell(self, method: &str) -> PyResult<()> {
        let py = self.py();
        let Some(protocol) = self.protocol() else { return Ok(()) };
        match protocol.invoke_method(method, ()) {
            Ok(_) => Ok(()),
            Err(error) if super::call::escapes(py, &error) => Err(error),
            Err(error) => {
                let report = PyDict::new(py);
                report.set_item("message", format!("protocol.{method}() failed"))?;
                report.set_item("exception", error.value(py))?;
                report.set_item("transport", self.object(|state| state.transport.as_ref()))?;
                report.set_item("protocol", self.0)?;
                super::errors::tell_handler(self.event_loop(), report, &error)
            }
        }
    }

    /// Runs `body`; what it raises ends the connection, unless asyncio lets such an exception through.
    fn or_fatal(self, body: impl FnOnce() -> PyResult<()>) -> PyResult<()> {
        match body() {
            Err(error) if error.is_instance_of::<PyException>(self.py()) => {
                shutdown::fatal(self, error, "Fatal error on SSL protocol")
            }
            other => other,
        }
    }
}

/// A timeout as asyncio takes it: None for `default`, else a positive number.
fn timeout<'py>(name: &str, given: Option<Bound<'py, PyAny>>, default: &str, py: Python<'py>) -> PyResult<Py<PyAny>> {
    let Some(given) = given else {
        return Ok(py.import("asyncio.constants")?.getattr(default)?.unbind());
    };
    if given.le(0)? {
        return Err(PyValueError::new_err(format!("{name} should be a positive number, got {given}")));
    }
    Ok(given.unbind())
}

#[pymethods]
impl TlsProtocol {
    /// The arguments are those of asyncio's class, and whether to call nothing but Python.
    #[new]
    #[pyo3(signature = (
        event_loop, app_protocol, sslcontext, waiter, server_side=false, server_hostname=None,
        call_connection_made=true, ssl_handshake_timeout=None, ssl_shutdown_timeout=None, portable=false,
    ))]
    #[allow(clippy::too_many_arguments, reason = "asyncio's signature")]
    fn new<'py>(
        event_loop: Bound<'py, EventLoop>,
        app_protocol: Bound<'py, PyAny>,
        sslcontext: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        server_side: bool,
        server_hostname: Option<Bound<'py, PyAny>>,
        call_connection_made: bool,
        ssl_handshake_timeout: Option<Bound<'py, PyAny>>,
        ssl_shutdown_timeout: Option<Bound<'py, PyAny>>,
        portable: bool,
    ) -> PyResult<Py<Self>> {
        let py = event_loop.py();
        let handshake_timeout = timeout("ssl_handshake_timeout", ssl_handshake_timeout, "SSL_HANDSHAKE_TIMEOUT", py)?;
        let shutdown_timeout = timeout("ssl_shutdown_timeout", ssl_shutdown_timeout, "SSL_SHUTDOWN_TIMEOUT", py)?;
        let context = if sslcontext.is_truthy()? {
            sslcontext
        } else {
            let create = py.import("asyncio.sslproto")?.getattr("_create_transport_context")?;
            create.invoke((server_side, &server_hostname))?
        };
        let hostname = match server_hostname {
            Some(name) if !server_side && name.is_truthy()? => name,
            _ => py.None().into_bound(py),
        };
        let extra = PyDict::new(py);
        extra.set_item(intern!(py, "sslcontext"), &context)?;
        let openssl = if portable { None } else { proof::openssl(py).as_ref().ok().copied() };
        let engine = Engine::of(&context, server_side, &hostname, openssl)?;
        let told = if call_connection_made { Told::Nothing } else { Told::Made };
        let state = Guarded::new(State::new(engine, told, waiter.map(Bound::unbind), extra.clone().unbind()));
        let event_loop = event_loop.unbind();
        let this = Bound::new(py, Self { event_loop, handshake_timeout, shutdown_timeout, state })?;
        Session(&this).set_protocol(&app_protocol)?;
        let transport = transport::create(&this, extra.into_any())?.unbind();
        Session(&this).state(|state| state.transport = Some(transport));
        Ok(this.unbind())
    }

    /// The transport below is connected: the handshake begins.
    fn connection_made(slf: &Bound<'_, Self>, transport: Bound<'_, PyAny>) -> PyResult<()> {
        let below = transport.unbind();
        let _old = Session(slf).state(|state| state.below.replace(below));
        if !below::leads_to(Session(slf))? {
            note_stray(Session(slf).event_loop());
        }
        handshake::start(Session(slf))
    }

    /// Bytes of the peer.
    pub fn data_received(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        Session(slf).engine()?.feed(data)?;
        received(Session(slf))
    }

    /// Bytes that came before the handshake began.
    fn _feed(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        Session(slf).engine()?.feed(data)
    }

    /// The peer has ended the stream below. A true answer keeps our direction open.
    fn eof_received(slf: &Bound<'_, Self>) -> PyResult<bool> {
        shutdown::eof(Session(slf))
    }

    /// The transport below is gone.
    fn connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        shutdown::lost(Session(slf), exc)
    }

    /// The transport below takes no more for now.
    fn pause_writing(slf: &Bound<'_, Self>) {
        Session(slf).state(|state| state.below_full = true);
    }

    /// The transport below takes more.
    fn resume_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        Session(slf).state(|state| state.below_full = false);
        write::go_on(Session(slf))
    }

    fn _check_handshake_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        handshake::timed_out(Session(slf))
    }

    fn _check_shutdown_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        shutdown::timed_out(Session(slf))
    }

    /// Reads on, in a turn of its own.
    fn _do_read(slf: &Bound<'_, Self>) -> PyResult<()> {
        read::read(Session(slf))
    }

    /// The program wants data again, in a turn of its own.
    fn _resume(slf: &Bound<'_, Self>) -> PyResult<()> {
        match Session(slf).phase() {
            Phase::DoHandshake => Ok(()),
            _ => received(Session(slf)),
        }
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Py<EventLoop> {
        self.event_loop.clone_ref(py)
    }

    #[getter]
    fn _sslobj<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        Some(Session(slf).engine().ok()?.object(slf.py()).clone())
    }

    /// Which engine it is: `"direct"` or `"portable"`.
    #[getter]
    fn _engine(slf: &Bound<'_, Self>) -> Option<&'static str> {
        Some(Session(slf).engine().ok()?.name())
    }

    #[getter]
    fn _sslcontext<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        let extra = Session(slf).state(|state| state.extra.clone_ref(py));
        extra.bind(py).get_item(intern!(py, "sslcontext"))
    }

    #[getter]
    fn _transport<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        Session(slf).object(|state| state.below.as_ref())
    }

    #[getter]
    fn _app_transport<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        Session(slf).object(|state| state.transport.as_ref())
    }

    #[getter]
    fn _app_reading_paused(slf: &Bound<'_, Self>) -> bool {
        Session(slf).state(|state| state.paused)
    }

    #[getter]
    fn _app_protocol<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        Session(slf).protocol()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        self.state
            .try_with(|state| {
                let engine = state.engine.iter().flat_map(|engine| engine.objects());
                engine.into_iter().try_for_each(|object| visit.call(object))?;
                visit.call(&state.extra)?;
                [
                    &state.waiter,
                    &state.protocol,
                    &state.transport,
                    &state.below,
                    &state.handshake_timer,
                    &state.shutdown_timer,
                ]
                .into_iter()
                .flatten()
                .try_for_each(|object| visit.call(object))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        let garbage = self.state.try_with(|state| {
            let timers = (state.handshake_timer.take(), state.shutdown_timer.take());
            let around = (state.protocol.take(), state.transport.take(), state.below.take());
            (state.engine.take(), state.waiter.take(), around, timers)
        });
        drop(garbage);
    }
}

impl State {
    fn new(engine: Engine, told: Told, waiter: Option<Py<PyAny>>, extra: Py<PyDict>) -> Self {
        Self {
            engine: Some(Arc::new(engine)),
            phase: Phase::default(),
            told,
            conn_lost: 0,
            waiter,
            protocol: None,
            buffered: false,
            transport: None,
            below: None,
            extra,
            closed: false,
            done_with: false,
            backlog: WriteQueue::default(),
            write_mark: Watermark::reached_at(WRITE_HIGH),
            dirty: false,
            below_full: false,
            read_mark: Watermark::reached_at(READ_HIGH),
            paused: false,
            ended: false,
            handshake_timer: None,
            shutdown_timer: None,
            began: None,
        }
    }
}

/// A transport has another protocol than this from here on. If this is a session, the transport leads to it no more.
pub fn note_replaced(event_loop: &Bound<'_, EventLoop>, old: Option<Py<PyAny>>) {
    if old.is_some_and(|old| old.bind(event_loop.py()).is_exact_instance_of::<TlsProtocol>()) {
        note_stray(event_loop);
    }
}

#[cold]
fn note_stray(event_loop: &Bound<'_, EventLoop>) {
    event_loop.get().state.with(event_loop.py(), |state| state.has_stray_tls = true);
}

/// Bytes of the peer have come, or may be looked at again: what they are good for depends on the phase.
fn received(session: Session<'_, '_>) -> PyResult<()> {
    match session.phase() {
        Phase::Unwrapped => Ok(()),
        Phase::DoHandshake => handshake::go_on(session),
        Phase::Wrapped => read::read(session),
        Phase::Flushing => shutdown::flush(session),
        Phase::Shutdown => shutdown::go_on(session),
    }
}
