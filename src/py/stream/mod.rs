//! Stream transports: TCP and Unix sockets as `asyncio.Transport`s.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the type, making one, and where the loop enters |
//! | `read.rs` | from the socket to the protocol |
//! | `feed.rs` | from the socket to asyncio's own streams |
//! | `write.rs` | from `write()` to the socket, with flow control |
//! | `file.rs` | sending a file |
//! | `close.rs` | closing, errors, `connection_lost` |
//! | `known.rs` | what `get_extra_info` knows |
//! | `methods.rs` | what Python sees |
//!
//! The loop's table of sources keeps a transport alive as long as something can happen to it by itself ([`hold`]).

mod close;
mod feed;
mod file;
mod known;
mod methods;
mod read;
mod write;

use std::io;
use std::os::fd::RawFd;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyWeakrefReference};
use zloop_backends::{Backend, Interest, SockAddr, Token, attempt};

use super::cell::Guarded;
use super::event_loop::EventLoop;
use super::receive::Origin;
use super::socket::socket_class;
use super::state::Source;
use super::transport::{TransportType, fileno};
use super::{context, run};
use crate::io::{ReadSize, Watermark, WriteQueue};
use crate::py::invoke::Invoke;
use known::Known;

pub use write::{flush_dirty, send_written};

/// The native half of a transport.
#[pyclass(name = "Stream", module = "zloop._zloop", frozen)]
pub struct Stream {
    fd: RawFd,
    origin: Origin,
    event_loop: Py<EventLoop>,
    state: Guarded<State>,
}

/// What changes during the life of a transport.
struct State {
    /// Its place in the loop's table; none once it was taken out.
    token: Option<Token>,
    /// The backend knows the fd.
    attached: bool,
    /// The loop's table keeps it alive.
    held: bool,
    /// The Python socket that owns the fd; none once closed.
    sock: Option<Py<PyAny>>,
    /// Its own `close()` waits for the transport.
    keeps_open: bool,
    protocol: Option<Py<PyAny>>,
    kind: Kind,
    server: Option<Py<PyAny>>,
    known: Known,
    /// What reading calls runs in this context: that of the transport's creation, or of the last `resume_reading()`.
    context: Py<PyAny>,
    /// Or one for all that the transport calls, given to it for life.
    own_context: bool,
    /// What writing calls runs in this one: that of the write which the kernel did not take, if there was one.
    write_context: Option<Py<PyAny>>,
    /// Done when all bytes have left, then whenever there is room again; set while a file is sent.
    empty_waiter: Option<Py<PyAny>>,

    queue: WriteQueue<PyBackedBytes>,
    mark: Watermark,
    /// On the loop's list of transports to flush.
    dirty: bool,
    /// The kernel would take no more; a report of writability follows.
    blocked: bool,
    /// The backend has the head of the queue; a report of its end follows.
    in_flight: bool,

    read_size: ReadSize,
    /// Reading began: `connection_made` has been called.
    started: bool,
    /// The fd was reported readable and has not run dry since.
    readable: bool,
    /// The next turn looks at it again, whatever is reported until then.
    again: bool,
    /// The peer is gone or has shut down, or has sent urgent data: read on to the end, no further report will come.
    hung_up: bool,
    /// The end of the stream was read.
    ended: bool,
    paused: bool,

    /// `write_eof()` was called.
    eof: bool,
    /// The sending direction of the socket is shut down.
    shut: bool,
    closing: bool,
    /// Above zero once `connection_lost` is scheduled; then counts the writes that were dropped.
    conn_lost: u32,
}

/// How a protocol takes what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// As `bytes`.
    Bytes,
    /// As `bytes`, and as long as nobody has changed asyncio's streams, without a call.
    Reader,
    /// In buffers that it hands out.
    Buffered,
    /// Ours, which takes it without a call.
    Tls,
}

/// A transport with its parts at hand: what the functions of this module work on.
#[derive(Clone, Copy)]
struct Conn<'a, 'py> {
    transport: &'a Bound<'py, PyAny>,
    stream: &'a Bound<'py, Stream>,
    event_loop: &'a Bound<'py, EventLoop>,
}

impl<'a, 'py> Conn<'a, 'py> {
    fn py(self) -> Python<'py> {
        self.transport.py()
    }

    fn state<R>(self, body: impl FnOnce(&mut State) -> R) -> R {
        self.stream.get().state.with(self.py(), body)
    }

    fn protocol(self) -> Option<Bound<'py, PyAny>> {
        self.state(|state| state.protocol.as_ref().map(|protocol| protocol.bind(self.py()).clone()))
    }

    /// Schedules a call in the transport's context, or in a copy of the caller's if it has none.
    fn call_soon(self, function: Bound<'py, PyAny>, args: Bound<'py, PyTuple>) -> PyResult<()> {
        let context = self.state(|state| state.own_context.then(|| state.context.bind(self.py()).clone()));
        EventLoop::call_soon(self.event_loop, function, args, context.as_ref()).map(drop)
    }

    fn write_context(self) -> Bound<'py, PyAny> {
        self.state(|state| state.write_context.as_ref().unwrap_or(&state.context).bind(self.py()).clone())
    }
}

/// Runs `body` on a transport.
fn with_conn<'py, R>(transport: &Bound<'py, PyAny>, body: impl FnOnce(Conn<'_, 'py>) -> PyResult<R>) -> PyResult<R> {
    let stream = transport_type(transport.py())?.native::<Stream>(transport)?;
    let event_loop = stream.get().event_loop.bind(transport.py());
    body(Conn { transport, stream: &stream, event_loop })
}

fn transport_type(py: Python<'_>) -> PyResult<&'static TransportType> {
    static TYPE: PyOnceLock<TransportType> = PyOnceLock::new();
    TYPE.get_or_try_init(py, || {
        // asyncio's fallback for sendfile asks for this class; what it does is done natively here.
        let base = ("transports", "_FlowControlMixin");
        let made = TransportType::make(py, base, "StreamTransport", "A connected stream socket on a zloop loop.")?;
        methods::install(made.class(py))?;
        Ok(made)
    })
}

/// Whether this is one of ours, so that [`write_records`] and [`settle`] may be used.
pub fn is_native(transport: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(transport_type(transport.py())?.holds(transport))
}

/// `transport.write(data)` for one of ours.
pub fn write_records(transport: &Bound<'_, PyAny>, data: PyBackedBytes) -> PyResult<()> {
    with_conn(transport, |conn| write::write_owned(conn, data))
}

/// Has one of ours send what the kernel takes now.
pub fn settle(transport: &Bound<'_, PyAny>) -> PyResult<()> {
    with_conn(transport, write::settle)
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("StreamTransport", transport_type(module.py())?.class(module.py()))
}

/// What a transport is made of.
pub struct Parts<'py> {
    pub sock: Bound<'py, PyAny>,
    pub protocol: Bound<'py, PyAny>,
    /// Completed once `connection_made` has been called.
    pub waiter: Option<Bound<'py, PyAny>>,
    /// The start of what `get_extra_info` knows.
    pub extra: Option<Bound<'py, PyAny>>,
    /// Who connected, if it was accepted here.
    pub peer: Option<SockAddr>,
    pub server: Option<Bound<'py, PyAny>>,
    /// Where all runs that the transport calls. None: in copies of its creator's, of who resumes it, of who writes.
    pub context: Option<Bound<'py, PyAny>>,
}

/// Makes a transport and schedules its start, in asyncio's order: `connection_made`, reading, the waiter.
pub fn create<'py>(this: &Bound<'py, EventLoop>, parts: Parts<'py>) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    this.get().check_open()?;
    EventLoop::check_thread(this)?;
    let fd = free_fd(this, &parts.sock)?;
    let known = Known::new(&parts, fd)?;
    // All TCP connections have it, as asyncio's documentation says: its code leaves out sockets made without a protocol.
    let origin = if attempt::set_nodelay(fd) { Origin::Tcp } else { Origin::Socket };
    let own_context = parts.context.is_some();
    let context = parts.context.map_or_else(|| context::copy(py), Ok)?;
    let state = Guarded::new(State { own_context, ..State::new(context.unbind(), known) });
    let stream = Bound::new(py, Stream { fd, origin, event_loop: this.clone().unbind(), state })?;
    let transport = transport_type(py)?.instance(stream, None)?;
    with_conn(&transport, |conn| {
        conn.state(|state| state.sock = Some(parts.sock.unbind()));
        methods::set_protocol_of(conn, &parts.protocol)?;
        if let Some(server) = parts.server {
            tell_server(conn, &server, intern!(py, "_attach"))?;
            conn.state(|state| state.server = Some(server.unbind()));
        }
        let made = parts.protocol.getattr(intern!(py, "connection_made"))?;
        // From here on the loop's table keeps it.
        enter(conn);
        conn.call_soon(made, PyTuple::new(py, [&transport])?)?;
        conn.call_soon(transport.getattr(intern!(py, "_start_reading"))?, PyTuple::empty(py))?;
        if let Some(waiter) = parts.waiter {
            let set = py.import("asyncio.futures")?.getattr(intern!(py, "_set_result_unless_cancelled"))?;
            conn.call_soon(set, (waiter, py.None()).into_pyobject(py)?)?;
        }
        Ok(())
    })?;
    Ok(transport)
}

/// Has `close()` of a socket that the program knows wait for the transport, as it waits for files that `makefile()` made:
/// what is written later would go to whoever gets the number of its fd.
pub fn keep_open(transport: &Bound<'_, PyAny>) -> PyResult<()> {
    with_conn(transport, |conn| {
        let py = conn.py();
        let Some(sock) = conn.state(|state| state.sock.as_ref().map(|sock| sock.bind(py).clone())) else {
            return Ok(());
        };
        if !sock.is_instance(socket_class(py)?.bind(py))? {
            return Ok(());
        }
        let files = sock.getattr(intern!(py, "_io_refs"))?;
        sock.setattr(intern!(py, "_io_refs"), files.add(1)?)?;
        conn.state(|state| state.keeps_open = true);
        Ok(())
    })
}

impl State {
    fn new(context: Py<PyAny>, known: Known) -> Self {
        Self {
            token: None,
            attached: false,
            held: true,
            sock: None,
            keeps_open: false,
            protocol: None,
            kind: Kind::Bytes,
            server: None,
            known,
            context,
            own_context: false,
            write_context: None,
            empty_waiter: None,
            queue: WriteQueue::default(),
            mark: Watermark::default(),
            dirty: false,
            blocked: false,
            in_flight: false,
            read_size: ReadSize::default(),
            started: false,
            readable: false,
            again: false,
            hung_up: false,
            ended: false,
            paused: false,
            eof: false,
            shut: false,
            closing: false,
            conn_lost: 0,
        }
    }

    /// Whether bytes should be read as they come.
    fn reads(&self) -> bool {
        self.started && !self.paused && !self.closing && !self.ended && self.conn_lost == 0
    }

    /// Whether the loop keeps it alive: it listens, or the kernel owes it a report. Before it starts and once its end is
    /// scheduled a handle does so anyway; that the loop does as well then saves most connections from ever changing.
    fn is_needed(&self) -> bool {
        let listens = !self.paused && !self.ended;
        listens || self.blocked || self.in_flight || self.closing
    }

    /// Whether a write is neither refused nor dropped.
    fn takes_writes(&self) -> bool {
        !self.eof && self.empty_waiter.is_none() && self.conn_lost == 0
    }

    /// Whether all bytes have left.
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.in_flight
    }

    /// Takes out of the queue what has left, if that was all there was, nobody waits for it, and reading goes on.
    fn settle(&mut self, result: i32) -> bool {
        let whole = usize::try_from(result).is_ok_and(|count| count == self.queue.len());
        let awaited = self.closing || self.eof || self.empty_waiter.is_some() || self.mark.is_paused();
        if whole && !awaited && self.reads() {
            self.queue.advance(result as usize, drop);
            self.in_flight = false;
            return true;
        }
        false
    }

    /// Whether all bytes have left and somebody waits to hear of it: a paused protocol, `sendfile`, a close or an end of
    /// the stream that was asked for while the kernel was full.
    fn owes_news(&self) -> bool {
        let ending = self.closing || (self.eof && !self.shut);
        self.is_idle() && self.conn_lost == 0 && (ending || self.empty_waiter.is_some() || self.mark.is_paused())
    }
}

/// The fd of a socket, which no transport may have yet. If one might, asyncio's own check finds out.
fn free_fd(this: &Bound<'_, EventLoop>, sock: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let py = this.py();
    if let Ok(fd) = fileno(sock) {
        let taken = this.get().state.with(py, |state| {
            let source = state.fds.get(&fd).and_then(|token| state.sources.get(*token));
            source.is_some_and(|source| !matches!(source, Source::Watch(_)))
        });
        // asyncio's own transports: those of sockets with ideas of their own.
        let others = this.getattr(intern!(py, "_transports"))?.getattr(intern!(py, "data"))?;
        if !taken && !others.is_truthy()? {
            return Ok(fd);
        }
    }
    this.invoke_method(intern!(py, "_ensure_fd_no_transport"), (sock,))?;
    fileno(sock)
}

/// Counts the transport in or out at its server. Since 3.13 servers know which transports they have.
fn tell_server(
    conn: Conn<'_, '_>,
    server: &Bound<'_, PyAny>,
    method: &Bound<'_, pyo3::types::PyString>,
) -> PyResult<()> {
    if cfg!(Py_3_13) {
        server.invoke_method(method, (conn.transport,)).map(drop)
    } else {
        server.invoke_method(method, ()).map(drop)
    }
}

/// Enters the transport into the loop's table, which keeps it alive for now.
fn enter(conn: Conn<'_, '_>) {
    let (py, fd) = (conn.py(), conn.stream.get().fd);
    let token = conn.event_loop.get().state.with(py, |state| {
        let token = state.sources.insert(Source::Stream(conn.transport.clone().unbind()));
        // A file that was closed while somebody waited for it had the number before.
        if let Some(old) = state.fds.insert(fd, token)
            && matches!(state.sources.get(old), Some(Source::Watch(_)))
            && let Some(backend) = state.backend.as_mut()
        {
            backend.forget(old);
        }
        token
    });
    conn.state(|state| (state.token, state.attached) = (Some(token), false));
}

/// Has the loop keep the transport alive exactly as long as it is needed. Where that may have changed, this is called.
///
/// Who refers to a transport that only rests, paused or behind the end of the stream, keeps it alive: a handle, a coroutine,
/// the list of those to flush, the program. When nobody does it is collected and closes its socket, as on asyncio.
#[inline]
fn hold(conn: Conn<'_, '_>) {
    if conn.state(|state| state.held != state.is_needed()) {
        swap_source(conn);
    }
}

#[cold]
fn swap_source(conn: Conn<'_, '_>) {
    // Without memory it stays what it is.
    let Ok(weak) = PyWeakrefReference::new(conn.transport) else { return };
    let _old = conn.state(|state| {
        state.held = state.is_needed();
        let source = if state.held {
            Source::Stream(conn.transport.clone().unbind())
        } else {
            Source::Idle(weak.clone().unbind())
        };
        let token = state.token?;
        let sources = &conn.event_loop.get().state;
        sources.with(conn.py(), |owner| Some(std::mem::replace(owner.sources.get_mut(token)?, source)))
    });
}

/// Has the backend report the fd, from the first use on: nothing is read before `connection_made` has been called. Whoever
/// finds it attached, in whichever thread, finds it in the backend's table.
fn attach(conn: Conn<'_, '_>) -> io::Result<()> {
    let fd = conn.stream.get().fd;
    conn.state(|state| {
        if let Some(token) = state.token.filter(|_| !state.attached) {
            conn.event_loop.get().state.with(conn.py(), |owner| owner.backend()?.attach(fd, token))?;
            state.attached = true;
        }
        Ok(())
    })
}

/// Takes the transport out again, before its fd is closed. Bytes that the kernel still sends stay behind.
fn detach(conn: Conn<'_, '_>) {
    let py = conn.py();
    let Some((token, rest)) = conn.state(|state| {
        let rest = state.in_flight.then(|| std::mem::take(&mut state.queue));
        state.in_flight = false;
        state.token.take().map(|token| (token, rest))
    }) else {
        return;
    };
    // The table's reference is returned so that it is dropped outside.
    let _source = conn.event_loop.get().state.with(py, |state| {
        let fd = conn.stream.get().fd;
        if state.fds.get(&fd) == Some(&token) {
            state.fds.remove(&fd);
        }
        if let Some(backend) = state.backend.as_mut() {
            backend.forget(token);
        }
        match (rest, state.sources.get_mut(token)) {
            (Some(rest), Some(source)) => Some(std::mem::replace(source, Source::Draining(rest))),
            _ => state.sources.remove(token),
        }
    });
}

/// The loop's entry: the backend has reported a transport ready. The same event may say that it is readable and
/// writable; reading comes first, as in asyncio.
pub fn on_ready(this: &Bound<'_, EventLoop>, transport: &Bound<'_, PyAny>, interest: Interest) -> PyResult<()> {
    with_conn(transport, |conn| ready(conn, interest))
        .or_else(|error| run::report(this, "StreamTransport._ready()", error))
}

fn ready(conn: Conn<'_, '_>, interest: Interest) -> PyResult<()> {
    let (reading, write) = conn.state(|state| {
        state.hung_up |= interest.contains(Interest::CLOSED);
        state.readable |= interest.contains(Interest::READ);
        let reads = state.readable && state.reads() && !state.again;
        let reading = reads.then(|| state.context.bind(conn.py()).clone());
        (reading, interest.contains(Interest::WRITE) && state.blocked)
    });
    if let Some(context) = reading {
        context::run(&context, || read::once(conn))?;
    }
    if write { context::run(&conn.write_context(), || write::writable(conn)) } else { Ok(()) }
}

/// The loop's entry: a send in flight has ended.
pub fn on_sent(this: &Bound<'_, EventLoop>, token: Token, result: i32) -> PyResult<()> {
    let Some(transport) = lookup(this, token) else {
        // The connection ended between the report and now.
        this.get().state.with(this.py(), |state| state.drained(token));
        return Ok(());
    };
    let outcome = with_conn(&transport, |conn| context::run(&conn.write_context(), || write::sent(conn, result)));
    outcome.or_else(|error| run::report(this, "StreamTransport._sent()", error))
}

/// Settles the end of a send that left whole and that nobody waits for; false if there is more to do.
pub fn settled(this: &Bound<'_, EventLoop>, token: Token, result: i32) -> bool {
    let Some(transport) = lookup(this, token) else { return false };
    let settled = with_conn(&transport, |conn| Ok(conn.state(|state| state.settle(result))));
    matches!(settled, Ok(true))
}

/// The transport behind a token, unless it was collected.
pub fn lookup<'py>(this: &Bound<'py, EventLoop>, token: Token) -> Option<Bound<'py, PyAny>> {
    this.get().state.with(this.py(), |state| state.sources.get(token)?.transport(this.py()))
}

/// Has the loop look at this transport again in its next turn, once.
fn look_again(conn: Conn<'_, '_>) {
    if let Some(token) = conn.state(|state| state.token.filter(|_| !std::mem::replace(&mut state.again, true))) {
        conn.event_loop.get().look_again(conn.py(), token);
    }
}

/// The loop's entry: that turn has come.
pub fn on_again(this: &Bound<'_, EventLoop>, token: Token) -> PyResult<()> {
    let Some(transport) = lookup(this, token) else { return Ok(()) };
    with_conn(&transport, |conn| {
        conn.state(|state| state.again = false);
        ready(conn, Interest::READ)
    })
    .or_else(|error| run::report(this, "StreamTransport._ready()", error))
}

#[pymethods]
impl Stream {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        self.state
            .try_with(|state| {
                visit.call(&state.context)?;
                state.known.traverse(&visit)?;
                [&state.write_context, &state.sock, &state.protocol, &state.server, &state.empty_waiter]
                    .into_iter()
                    .flatten()
                    .try_for_each(|object| visit.call(object))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        let garbage =
            self.state.try_with(|state| (state.protocol.take(), state.server.take(), state.empty_waiter.take()));
        drop(garbage);
    }
}
