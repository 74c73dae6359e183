//! Where work enters the loop's queues: from its own thread, and from others.
#![forbid(unsafe_code)]

use pyo3::prelude::*;
use zloop_backends::Token;

use super::event_loop::EventLoop;
use super::handle::{self, HandleTypes};
use super::state::{Item, State};

/// After so many callbacks that wait to be run (in the inbox; with a GIL, in the ready queue), a thread that brings more
/// lets others run.
const CROWD: usize = 1024;

impl EventLoop {
    /// Queues an item behind all others.
    #[inline]
    pub fn push(&self, py: Python<'_>, item: Item) {
        self.change(py, |state| state.sched.push(item));
    }

    /// Has the next turn look at a stream transport again.
    #[inline]
    pub fn look_again(&self, py: Python<'_>, token: Token) {
        self.change(py, |state| state.again.push(token));
    }

    /// Queues a handle that was made just now, behind all others. Says how many are queued.
    #[inline]
    pub fn push_new(&self, types: &HandleTypes, handle: &Bound<'_, PyAny>) -> usize {
        self.take_note(types, handle, |state, handle| {
            state.sched.push(Item::Handle(handle));
            state.sched.ready_len()
        })
    }

    /// Puts a handle that was made just now among the timers.
    #[inline]
    pub fn push_timer(&self, types: &HandleTypes, when: f64, handle: &Bound<'_, PyAny>) {
        self.take_note(types, handle, |state, handle| state.sched.timers.push(when, handle));
    }

    #[inline]
    fn take_note<R>(
        &self,
        types: &HandleTypes,
        handle: &Bound<'_, PyAny>,
        queue: impl FnOnce(&mut State, Py<PyAny>) -> R,
    ) -> R {
        let runs = self.runs();
        if !runs {
            handle::track(handle);
        }
        let ours = handle.clone().unbind();
        self.change(handle.py(), |state| {
            if runs {
                state.fresh.note(types, &ours);
            }
            queue(state, ours)
        })
    }

    /// Changes the state, and wakes the loop if it sleeps. Only another thread can find it asleep, and unless it uses the
    /// thread-safe call it should not be here at all. Be kind to it.
    #[inline]
    fn change<R>(&self, py: Python<'_>, change: impl FnOnce(&mut State) -> R) -> R {
        let (result, asleep) = self.state.with(py, |state| (change(state), state.must_be_woken()));
        if asleep {
            self.wake();
        }
        result
    }

    /// Queues a handle that was made just now in any thread. Each thread's handles keep their order, whatever call they
    /// came by.
    #[cfg(not(Py_GIL_DISABLED))]
    #[inline]
    pub fn push_threadsafe(&self, types: &HandleTypes, handle: &Bound<'_, PyAny>) {
        // Whoever calls holds the GIL, which guards the queue.
        let waiting = self.push_new(types, handle);
        if waiting.is_multiple_of(CROWD) && !self.runs_here() {
            // A thread that only schedules should let go of the GIL now and then, or the loop falls ever further behind.
            handle.py().detach(std::thread::yield_now);
        }
    }

    /// As above: without a GIL, threads other than the loop's own leave handles in the inbox.
    #[cfg(Py_GIL_DISABLED)]
    pub fn push_threadsafe(&self, types: &HandleTypes, handle: &Bound<'_, PyAny>) {
        let py = handle.py();
        if self.runs_here() || !self.runs() {
            self.take_inbox(py);
            self.push_new(types, handle);
            // It may run by now.
            self.wake();
            return;
        }
        let waiting = self.inbox.push(handle.clone().unbind());
        self.wake();
        if waiting.is_multiple_of(CROWD) {
            py.detach(std::thread::yield_now);
        }
    }

    /// Has the loop flush this transport, which so many bytes wait for, when the running callback returns.
    pub fn mark_dirty(&self, py: Python<'_>, transport: Py<PyAny>, bytes: usize) {
        self.change(py, |state| {
            state.dirty.push_back(transport);
            state.hold.wrote(bytes);
        });
    }

    /// Takes the handles that other threads have left into the ready queue.
    #[cfg(Py_GIL_DISABLED)]
    pub fn take_inbox(&self, py: Python<'_>) {
        if !self.inbox.is_filled() {
            return;
        }
        let mut handles = Vec::new();
        self.inbox.swap(&mut handles);
        self.state.with(py, |state| handles.drain(..).for_each(|handle| state.sched.push(Item::Handle(handle))));
    }

    /// With a GIL there is no inbox: other threads put their handles into the ready queue.
    #[cfg(not(Py_GIL_DISABLED))]
    #[inline]
    pub fn take_inbox(&self, _py: Python<'_>) {}
}
