//! The native part of `zloop.Loop`: its state, its flags and the methods that are not hot.
//!
//! `zloop.Loop` inherits from this class first and from asyncio's selector loop second. Whatever is defined here is
//! used instead of asyncio's; everything else is CPython's own code, of the version that runs.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};
use zloop_backends::{Backend, Events, Interest, Waker};

use super::accept::{self, Listener};
use super::cell::Guarded;
use super::errors;
use super::handle::{self, Callback, HandleTypes, new_handle};
use super::invoke::Invoke;
use super::native::Positional;
use super::state::{Item, State, Waiter};
use super::{backends, exit, native, run, stream, watch};
#[cfg(Py_GIL_DISABLED)]
use crate::sched::Inbox;
use crate::sched::monotonic;

/// The native base of `zloop.Loop`. `backend` names one, or is None for the best that opens.
#[pyclass(name = "EventLoop", module = "zloop._zloop", subclass, frozen)]
pub struct EventLoop {
    backend_name: OnceLock<&'static str>,
    /// A subclass overrides `time()`, or it was set on the instance: then that clock rules, at the price of a call.
    own_clock: AtomicBool,
    /// Somebody has replaced `call_at()`, which asyncio's `call_later()` calls.
    own_timers: AtomicBool,
    closed: AtomicBool,
    debug: AtomicBool,
    stopping: AtomicBool,
    /// This process was forked off by a callback of the loop.
    forked: AtomicBool,
    /// The thread that runs the loop, as `threading.get_ident()` numbers it; 0 while none does.
    thread: AtomicU64,
    /// Handles from other threads.
    #[cfg(Py_GIL_DISABLED)]
    pub inbox: Inbox<Py<PyAny>>,
    /// Ends a wait from any thread; gone, and its fd with it, once the loop is closed.
    waker: Mutex<Option<Waker>>,
    pub state: Guarded<State>,
}

impl EventLoop {
    pub fn is_debug(&self) -> bool {
        self.debug.load(Ordering::Relaxed)
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// `loop.time()`: seconds of `time.monotonic()`, or of a clock that was put in its place.
    #[inline]
    pub fn now(this: &Bound<'_, Self>) -> PyResult<f64> {
        if this.get().own_clock.load(Ordering::Relaxed) {
            return this.invoke_method(intern!(this.py(), "time"), ())?.extract();
        }
        Ok(monotonic())
    }

    /// Whether `call_at()` is somebody else's.
    pub fn has_own_timers(&self) -> bool {
        self.own_timers.load(Ordering::Relaxed)
    }

    /// Whether a method is somebody else's, for those methods of which one needs to know.
    fn own(&self, method: &Bound<'_, PyString>) -> Option<&AtomicBool> {
        [("time", &self.own_clock), ("call_at", &self.own_timers)]
            .into_iter()
            .find_map(|(name, own)| (method == name).then_some(own))
    }

    pub fn runs(&self) -> bool {
        self.thread.load(Ordering::Relaxed) != 0
    }

    /// Whether what a callback writes may wait until it returns. In a forked child it may never do so.
    #[inline]
    pub fn holds_writes(&self) -> bool {
        self.runs() && !self.forked.load(Ordering::Relaxed)
    }

    /// Whether the calling thread is the one that runs the loop.
    pub fn runs_here(&self) -> bool {
        self.thread.load(Ordering::Relaxed) == this_thread()
    }

    /// # Errors
    /// asyncio's `RuntimeError` if the loop is closed.
    #[inline]
    pub fn check_open(&self) -> PyResult<()> {
        if self.closed.load(Ordering::Relaxed) { Err(errors::loop_closed()) } else { Ok(()) }
    }

    /// # Errors
    /// asyncio's `RuntimeError` if the loop runs in another thread, in debug mode only.
    pub fn check_thread(this: &Bound<'_, Self>) -> PyResult<()> {
        if this.get().is_debug() {
            this.invoke_method(intern!(this.py(), "_check_thread"), ())?;
        }
        Ok(())
    }

    /// Ends the loop's wait, from any thread. Does nothing once the loop is closed.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            waker.wake();
        }
    }

    /// Whether tasks are made by a factory of the user's.
    pub fn has_task_factory(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.task_factory.is_some())
    }

    /// One of the timers in the heap was cancelled.
    pub fn note_cancelled_timer(&self, py: Python<'_>) {
        self.state.with(py, |state| state.sched.timers.note_cancelled());
    }

    /// Calls `callback(*args)` soon, in a copy of the current context.
    ///
    /// # Errors
    /// If the loop is closed, or, in debug mode, runs in another thread. Who must not leave anything half-done then asks
    /// before.
    pub fn call_soon<'py>(
        this: &Bound<'py, Self>,
        function: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        this.get().check_open()?;
        Self::check_thread(this)?;
        let types = HandleTypes::get(py)?;
        let context = context.map(Bound::as_borrowed);
        let callback = Callback { function: function.as_borrowed(), args: Positional::of(&args), context };
        let handle = new_handle(types, this, &callback)?;
        this.get().push_new(types, &handle);
        Ok(handle)
    }
}

#[pymethods]
impl EventLoop {
    /// A loop without a backend counts as closed. The arguments are those of `__init__`, whatever they are there.
    #[new]
    #[classmethod]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        class: &Bound<'_, PyType>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        Ok(Self {
            backend_name: OnceLock::new(),
            own_clock: AtomicBool::new(overrides(class, "time")?),
            own_timers: AtomicBool::new(overrides(class, "call_at")?),
            closed: AtomicBool::new(true),
            debug: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            forked: AtomicBool::new(false),
            thread: AtomicU64::new(0),
            #[cfg(Py_GIL_DISABLED)]
            inbox: Inbox::default(),
            waker: Mutex::new(None),
            state: Guarded::new(State::default()),
        })
    }

    /// Tests set `loop.time` on the instance, or give it another class, and asyncio asks for it each time it needs the time.
    fn __setattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        native::set_attribute(slf, name, Some(value))?;
        if let Some(own) = slf.get().own(name) {
            own.store(true, Ordering::Relaxed);
        } else if name == "__class__" {
            let (core, class) = (slf.get(), slf.get_type());
            core.own_clock.fetch_or(overrides(&class, "time")?, Ordering::Relaxed);
            core.own_timers.fetch_or(overrides(&class, "call_at")?, Ordering::Relaxed);
        }
        Ok(())
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>) -> PyResult<()> {
        native::set_attribute(slf, name, None)?;
        if let Some(own) = slf.get().own(name) {
            own.store(overrides(&slf.get_type(), name.to_str()?)?, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Opens the backend that is named, or the best one; `__init__` calls it first of all.
    #[pyo3(name = "_open", signature = (backend=None))]
    fn open(&self, py: Python<'_>, backend: Option<&str>) -> PyResult<()> {
        super::state::recycle_large_blocks();
        let backend = backends::open_named(py, backend)?;
        if self.backend_name.set(backend.profile().name).is_err() {
            return Err(PyRuntimeError::new_err("__init__() was called twice"));
        }
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(backend.waker());
        self.state.with(py, |state| state.backend = Some(Box::new(backend)));
        self.set_closed(false);
        Ok(())
    }

    /// The name of the backend that this loop runs on.
    #[getter]
    fn backend(&self) -> Option<&'static str> {
        self.backend_name.get().copied()
    }

    #[getter(_closed)]
    fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    #[setter(_closed)]
    fn set_closed(&self, closed: bool) {
        self.closed.store(closed, Ordering::Relaxed);
    }

    #[getter(_debug)]
    fn debug(&self) -> bool {
        self.is_debug()
    }

    #[setter(_debug)]
    fn set_debug_flag(&self, debug: &Bound<'_, PyAny>) -> PyResult<()> {
        self.debug.store(debug.is_truthy()?, Ordering::Relaxed);
        Ok(())
    }

    #[getter(_stopping)]
    fn stopping(&self) -> bool {
        self.is_stopping()
    }

    #[setter(_stopping)]
    fn set_stopping(&self, stopping: bool) {
        self.stopping.store(stopping, Ordering::Relaxed);
    }

    #[getter(_thread_id)]
    fn thread_id(&self) -> Option<u64> {
        Some(self.thread.load(Ordering::Relaxed)).filter(|thread| *thread != 0)
    }

    /// Of several threads that want to run the loop at once, one gets it.
    #[setter(_thread_id)]
    fn set_thread_id(&self, thread: Option<u64>) -> PyResult<()> {
        let Some(thread) = thread else {
            self.thread.store(0, Ordering::Release);
            return Ok(());
        };
        match self.thread.compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed) {
            Err(owner) if owner != thread => Err(PyRuntimeError::new_err("This event loop is already running")),
            _ => Ok(()),
        }
    }

    #[getter(_task_factory)]
    fn task_factory(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.task_factory.as_ref().map(|factory| factory.clone_ref(py)))
    }

    #[setter(_task_factory)]
    fn set_task_factory_slot(&self, py: Python<'_>, factory: Option<Py<PyAny>>) {
        let _old = self.state.with(py, |state| std::mem::replace(&mut state.task_factory, factory));
    }

    /// Whether the loop is running, in any thread.
    fn is_running(&self) -> bool {
        self.runs()
    }

    /// Whether the loop was closed.
    fn is_closed(&self) -> bool {
        self.closed()
    }

    /// Runs what is ready and lets `run_forever()` return.
    fn stop(&self) {
        self.set_stopping(true);
    }

    /// Runs turns until `stop()` is called. The Python edge sets up hooks and the running loop around it.
    #[pyo3(name = "_run")]
    fn run(this: &Bound<'_, Self>) -> PyResult<()> {
        run::forever(this)
    }

    /// Wakes the loop from any thread.
    #[pyo3(name = "_write_to_self")]
    fn write_to_self(&self) {
        self.wake();
    }

    /// Queues a handle unless it was cancelled.
    #[pyo3(name = "_add_callback")]
    fn add_callback(&self, py: Python<'_>, handle: Py<PyAny>) -> PyResult<()> {
        if !handle::is_cancelled(HandleTypes::get(py)?, &handle) {
            self.push(py, Item::Handle(handle));
        }
        Ok(())
    }

    /// Watches an fd for reading; `callback(*args)` is called whenever it is readable.
    #[pyo3(name = "_add_reader", signature = (fd, callback, *args, context=None))]
    fn add_reader<'py>(
        this: &Bound<'py, Self>,
        fd: &Bound<'py, PyAny>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        watch::add(this, fd, Interest::READ, (callback, args, context), Waiter::Handle)
    }

    /// Watches an fd for writing; `callback(*args)` is called whenever it is writable.
    #[pyo3(name = "_add_writer", signature = (fd, callback, *args, context=None))]
    fn add_writer<'py>(
        this: &Bound<'py, Self>,
        fd: &Bound<'py, PyAny>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        watch::add(this, fd, Interest::WRITE, (callback, args, context), Waiter::Handle)
    }

    /// Calls `callback(*args)` when a child process has ended, where the backend can tell.
    #[pyo3(name = "_watch_exit", signature = (pid, callback, *args))]
    fn watch_exit<'py>(
        this: &Bound<'py, Self>,
        pid: i32,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
    ) -> PyResult<()> {
        exit::watch(this, pid, callback, args)
    }

    /// Stops watching an fd for reading. Says whether it was watched.
    #[pyo3(name = "_remove_reader")]
    fn remove_reader(this: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        watch::remove(this, fd, Interest::READ)
    }

    /// Stops watching an fd for writing. Says whether it was watched.
    #[pyo3(name = "_remove_writer")]
    fn remove_writer(this: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        watch::remove(this, fd, Interest::WRITE)
    }

    /// The directions an fd is watched for, as the bits of `selectors`: 1 to read, 2 to write, 0 for none.
    #[pyo3(name = "_watched")]
    fn watched(&self, py: Python<'_>, fd: RawFd) -> u8 {
        watch::mask(self, py, fd)
    }

    /// The stream transport that owns an fd.
    #[pyo3(name = "_stream_of")]
    fn stream_of<'py>(&self, py: Python<'py>, fd: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        let fd: RawFd = fd.extract().ok()?;
        self.state.with(py, |state| state.sources.get(*state.fds.get(&fd)?)?.transport(py))
    }

    /// Makes the transport of a connected stream socket. asyncio gives a context since Python 3.15.
    #[pyo3(name = "_make_socket_transport", signature = (
        sock, protocol, waiter=None, *, extra=None, server=None, context=None,
    ))]
    fn make_socket_transport<'py>(
        this: &Bound<'py, Self>,
        sock: Bound<'py, PyAny>,
        protocol: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        extra: Option<Bound<'py, PyAny>>,
        server: Option<Bound<'py, PyAny>>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let transport =
            stream::create(this, stream::Parts { sock, protocol, waiter, extra, peer: None, server, context })?;
        stream::keep_open(&transport)?;
        Ok(transport)
    }

    /// A listening socket is readable. asyncio's `_start_serving` has it watched with this as the callback.
    #[pyo3(name = "_accept_connection", signature = (
        protocol_factory, sock, sslcontext=None, server=None, backlog=100,
        ssl_handshake_timeout=None, ssl_shutdown_timeout=None, context=None,
    ))]
    #[allow(clippy::too_many_arguments, reason = "asyncio's signature")]
    fn accept_connection<'py>(
        this: &Bound<'py, Self>,
        protocol_factory: Bound<'py, PyAny>,
        sock: Bound<'py, PyAny>,
        sslcontext: Option<Bound<'py, PyAny>>,
        server: Option<Bound<'py, PyAny>>,
        backlog: usize,
        ssl_handshake_timeout: Option<Bound<'py, PyAny>>,
        ssl_shutdown_timeout: Option<Bound<'py, PyAny>>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let timeouts = [ssl_handshake_timeout, ssl_shutdown_timeout];
        accept::accept_all(this, &Listener { protocol_factory, sock, sslcontext, server, backlog, timeouts, context })
    }

    /// Has the kernel take now what was written and not sent yet.
    #[pyo3(name = "_send_written")]
    fn send_written(this: &Bound<'_, Self>) -> PyResult<()> {
        stream::send_written(this)
    }

    /// This process is a forked child, and inside a callback that may end with `os._exit`.
    #[pyo3(name = "_was_forked")]
    fn was_forked(&self) {
        self.forked.store(true, Ordering::Relaxed);
    }

    /// Numbers for tests and people: what is queued and registered right now.
    #[pyo3(name = "_stats")]
    fn stats(&self, py: Python<'_>) -> std::collections::HashMap<&'static str, usize> {
        self.state.with(py, |state| {
            let in_flight = state.backend.as_ref().map_or(0, |backend| backend.in_flight());
            [
                ("ready", state.sched.ready_len()),
                ("timers", state.sched.timers.len()),
                ("sources", state.sources.len()),
                ("dirty", state.dirty.len()),
                ("in_flight", in_flight),
            ]
            .into()
        })
    }

    /// Lets go of everything after `close()`: callbacks are dropped, transports left open warn as they are collected.
    #[pyo3(name = "_dispose")]
    fn dispose(&self, py: Python<'_>) -> PyResult<()> {
        let (backend, garbage) = self.state.with(py, |state| {
            let mut sources = std::mem::take(&mut state.sources);
            state.fds.clear();
            let streams: Vec<_> = sources.iter_mut().map(|(token, _)| token).collect();
            if let Some(backend) = state.backend.as_mut() {
                streams.into_iter().for_each(|token| backend.forget(token));
            }
            (state.backend.take(), (state.take_queued(), sources, std::mem::take(&mut state.dirty)))
        });
        #[cfg(Py_GIL_DISABLED)]
        let _late = {
            let mut late = Vec::new();
            self.inbox.swap(&mut late);
            late
        };
        drop(self.waker.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(mut backend) = backend {
            // The bytes in flight are part of the garbage: the kernel must be done with them first.
            let mut events = Events::with_limit(run::EVENTS);
            while backend.in_flight() > 0 {
                events.clear();
                if let Err(error) = backend.quiesce(&mut events) {
                    std::mem::forget(garbage);
                    return Err(errors::os_error(py, &error));
                }
            }
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut result = Ok(());
        let mut each = |object: &Py<PyAny>| {
            if result.is_ok() {
                result = visit.call(object);
            }
        };
        #[cfg(Py_GIL_DISABLED)]
        self.inbox.try_for_each(&mut each);
        self.state.try_with(|state| state.each_object(&mut each));
        result
    }

    fn __clear__(&self) {
        let garbage = self.state.try_with(|state| {
            let State { sources, dirty, task_factory, .. } = state;
            let garbage = (std::mem::take(sources), std::mem::take(dirty), task_factory.take());
            (garbage, state.take_queued())
        });
        drop(garbage);
    }
}

/// Whether a class of loops has a method of its own.
fn overrides(class: &Bound<'_, PyType>, method: &str) -> PyResult<bool> {
    Ok(!class.getattr(method)?.is(&class.py().get_type::<EventLoop>().getattr(method)?))
}

/// The calling thread, as `threading.get_ident()` numbers it.
fn this_thread() -> u64 {
    nix::sys::pthread::pthread_self() as u64
}
