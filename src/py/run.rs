//! The run cycle: wait, queue what became ready, queue the timers that are due, run the batch; until told to stop.
#![forbid(unsafe_code)]

use pyo3::prelude::*;
use zloop_backends::{Backend, Event, Events, Interest, Token, Wait, What};

use super::errors;
use super::event_loop::EventLoop;
use super::handle::{self, HandleTypes};
use super::state::{Item, State};
use super::{context, debug, stream, watch};
use crate::sched::{Hold, System};

/// The most events of one wait; the rest come with the next.
pub const EVENTS: usize = 512;

/// A timer is due this much early (seconds), as in asyncio: the resolution of the clock.
const TICK: f64 = 1e-9;

/// Runs turns until the loop is told to stop. An error is an exception that asyncio lets through, and leaves the loop
/// fit for another run.
pub fn forever(this: &Bound<'_, EventLoop>) -> PyResult<()> {
    let py = this.py();
    let bound = this.get().state.with(py, |state| {
        // Each run polls at least once: a program that runs the loop briefly wants to know what has come in.
        state.slice.end();
        state.backend().and_then(Backend::bind)
    });
    bound.map_err(|error| errors::os_error(py, &error))?;
    let events = Some(Events::with_limit(EVENTS));
    let mut turn =
        Turn { this, types: HandleTypes::get(py)?, events, shared: context::Shared::default(), garbage: Vec::new() };
    let result = turn.repeat();
    let result = result.and(turn.shared.leave());
    // What was written must not wait for the next run.
    let flushed = stream::flush_dirty(this).and_then(|()| turn.hand_over());
    this.get().state.with(py, |state| state.fresh.settle(turn.types));
    result.and(flushed)
}

struct Turn<'a, 'py> {
    this: &'a Bound<'py, EventLoop>,
    types: &'static HandleTypes,
    events: Option<Events>,
    /// Where callbacks run that have no context of their own.
    shared: context::Shared<'py>,
    /// Timers that were cancelled, between two callbacks.
    garbage: Vec<Py<PyAny>>,
}

impl<'py> Turn<'_, 'py> {
    fn repeat(&mut self) -> PyResult<()> {
        let core = self.this.get();
        loop {
            self.wait()?;
            let batch = self.collect()?;
            self.run(batch)?;
            if core.is_stopping() {
                return Ok(());
            }
        }
    }

    /// At the end of a run: what the backend holds leaves, and what that reports waits for the next run.
    fn hand_over(&mut self) -> PyResult<()> {
        let py = self.this.py();
        let mut events = Events::with_limit(EVENTS);
        let polled = self.this.get().state.with(py, |state| {
            let backend = state.backend()?;
            if backend.in_flight() > 0 {
                backend.poll(Wait::Now, &mut events)?;
            }
            Ok(())
        });
        // Whoever watches by level is told again by the next run, and must not be called twice, or in vain.
        let again = |event: &Event| self.this.get().state.with(py, |state| state.is_reported_again(event));
        self.dispatch(events.drain().filter(|event| !again(event)));
        polled.map_err(|error: std::io::Error| errors::os_error(py, &error))
    }

    /// Queues what a wait has reported, in the order in which it came. A send that has simply left is no news to anyone,
    /// and settled without a callback.
    fn dispatch(&self, events: impl Iterator<Item = Event>) {
        let (py, core) = (self.this.py(), self.this.get());
        for event in events {
            if !matches!(event.what, What::Sent(result) if stream::settled(self.this, event.token, result)) {
                core.state.with(py, |state| state.dispatch(py, self.types, event));
            }
        }
    }

    /// Waits for I/O, unless callbacks are ready and the kernel was asked a moment ago.
    fn wait(&mut self) -> PyResult<()> {
        let (py, core) = (self.this.py(), self.this.get());
        core.take_inbox(py);
        let (types, stopping, garbage) = (self.types, core.is_stopping(), &mut self.garbage);
        let looked = core.state.with(py, |state| state.dirty.is_empty().then(|| look(types, state, stopping, garbage)));
        let busy = match looked {
            Some(busy) => busy,
            None => {
                self.shared.leave()?;
                stream::flush_dirty(self.this)?;
                core.take_inbox(py);
                core.state.with(py, |state| look(types, state, core.is_stopping(), garbage))
            }
        };
        if busy && self.garbage.is_empty() {
            return Ok(());
        }
        self.shared.leave()?;
        self.garbage.clear();
        if busy {
            return Ok(());
        }
        self.poll()?;
        py.check_signals()
    }

    /// The one place where the loop sleeps. The interpreter is let go only if it may.
    fn poll(&mut self) -> PyResult<()> {
        let (py, core) = (self.this.py(), self.this.get());
        let mut events = self.events.take().unwrap_or_else(|| Events::with_limit(EVENTS));
        let now = EventLoop::now(self.this)?;
        let (wait, backend) = core.state.with(py, |state| {
            // Whatever ended since the last flush may have written, as a cancelled timer's context: that leaves next turn.
            let more = !state.again.is_empty() || !state.dirty.is_empty();
            let wait = state.sched.wait(|| now, core.is_stopping() || more);
            state.called = false;
            (wait, state.backend.take())
        });
        let mut backend = backend.expect("only this thread takes it, and it puts it back");
        let result = match wait {
            Wait::Now => backend.poll(wait, &mut events),
            _ => py.detach(|| backend.poll(wait, &mut events)),
        };
        core.state.with(py, |state| {
            state.backend = Some(backend);
            if !state.untold.is_empty() {
                watch::catch_up(state);
            }
            state.slice.restart();
        });
        self.dispatch(events.drain());
        self.events = Some(events);
        core.take_inbox(py);
        result.map_err(|error| errors::os_error(py, &error))
    }

    /// Queues the transports to look at again and the timers that are due; answers how many callbacks belong to this turn.
    fn collect(&self) -> PyResult<usize> {
        let (py, core) = (self.this.py(), self.this.get());
        let batch = core.state.with(py, |state| {
            let State { again, sched, .. } = state;
            again.drain(..).for_each(|token| sched.push(Item::Again(token)));
            state.sched.timers.is_empty().then(|| begin_batch(state))
        });
        if let Some(batch) = batch {
            return Ok(batch);
        }
        let now = EventLoop::now(self.this)?;
        Ok(core.state.with(py, |state| {
            state.sched.queue_due(now, TICK, |handle| handle::unschedule(self.types, handle.bind(py)));
            begin_batch(state)
        }))
    }

    fn run(&mut self, batch: usize) -> PyResult<()> {
        let (py, core) = (self.this.py(), self.this.get());
        (0..batch).try_for_each(|_| {
            let (item, sends) = core.state.with(py, |state| {
                state.fresh.settle(self.types);
                let sends = state.hold.is_over(state.dirty.len(), &System);
                let item = state.sched.pop();
                state.hold.next(!matches!(item, Some(Item::Handle(_))));
                (item, sends)
            });
            if sends && let Err(error) = self.send_written() {
                // Ctrl-C: the callback that was to run next is the first of the next run.
                core.state.with(py, |state| item.into_iter().for_each(|item| state.sched.put_back(item)));
                return Err(error);
            }
            match item {
                Some(item) if core.is_debug() => debug::run(self.this, item, |item| self.run_item(item)),
                Some(item) => self.run_item(item),
                None => Ok(()),
            }
        })
    }

    /// Sends what the last callbacks have written.
    #[inline(never)]
    fn send_written(&mut self) -> PyResult<()> {
        self.shared.leave()?;
        stream::flush_dirty(self.this)?;
        self.this.get().state.with(self.this.py(), |state| state.hold.restart(&System));
        Ok(())
    }

    #[inline]
    fn run_item(&mut self, item: Item) -> PyResult<()> {
        match item {
            Item::Handle(handle) => {
                handle::run(self.types, self.this, &mut self.shared, handle.into_bound(self.this.py()))
            }
            Item::Ready(token, interest) => self.shared.leave().and_then(|()| on_ready(self.this, token, interest)),
            Item::Again(token) => self.shared.leave().and_then(|()| stream::on_again(self.this, token)),
            Item::Sent(token, result) => self.shared.leave().and_then(|()| stream::on_sent(self.this, token, result)),
        }
    }
}

fn on_ready(this: &Bound<'_, EventLoop>, token: Token, interest: Interest) -> PyResult<()> {
    match stream::lookup(this, token) {
        Some(transport) => stream::on_ready(this, &transport, interest),
        None => watch::on_ready(this, token, interest),
    }
}

/// Before a wait: whether to go on with what is ready instead of polling. Leaves cancelled timers to be dropped. (What it
/// says fits a register: a larger answer would be written in pieces and read as a whole, for which a processor waits.)
#[inline]
fn look(types: &HandleTypes, state: &mut State, stopping: bool, garbage: &mut Vec<Py<PyAny>>) -> bool {
    state.fresh.settle(types);
    if state.sched.timers.has_cancelled() {
        drop_cancelled(types, state, garbage);
    }
    let ready = (state.sched.ready_len() > 0 || !state.again.is_empty()) && !stopping;
    // Sends that the backend holds leave with the next poll.
    let held = state.backend.as_ref().is_some_and(|backend| backend.in_flight() > 0);
    ready && !held && !state.slice.is_over(&System)
}

/// How many callbacks this turn runs; the backend may want to know.
#[inline]
fn begin_batch(state: &mut State) -> usize {
    let batch = state.sched.ready_len();
    state.hold = Hold::begin(batch, &System);
    if batch > 1
        && let Some(backend) = state.backend.as_mut()
    {
        backend.gather(batch);
    }
    batch
}

/// Takes cancelled timers out, so that none wakes the loop and a majority of them does not fill memory.
#[cold]
fn drop_cancelled(types: &HandleTypes, state: &mut State, garbage: &mut Vec<Py<PyAny>>) {
    let timers = &mut state.sched.timers;
    let cancelled = |handle: &Py<PyAny>| handle::is_cancelled(types, handle);
    garbage.extend(timers.compact(cancelled));
    while let Some(item) = timers.pop_head_if(cancelled) {
        garbage.push(item);
    }
}

/// Reports an exception of a callback that has no handle, in asyncio's words.
pub fn report(this: &Bound<'_, EventLoop>, callback: &str, error: PyErr) -> PyResult<()> {
    let py = this.py();
    if super::call::escapes(py, &error) {
        return Err(error);
    }
    let context = pyo3::types::PyDict::new(py);
    context.set_item("message", format!("Exception in callback {callback}"))?;
    context.set_item("exception", error.value(py))?;
    errors::tell_handler(this, context, &error)
}
