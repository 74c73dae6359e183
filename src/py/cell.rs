//! A cell for state that Python can reach: one borrower at a time, checked, and locked only where there is no GIL.

use std::cell::{Cell, UnsafeCell};

use pyo3::Python;

#[cfg(Py_GIL_DISABLED)]
use crate::lock::Lock;

/// Mutable state of a Python object.
///
/// The rule that makes it sound and free of deadlocks: what runs inside [`with`](Guarded::with) never calls into
/// Python. It may count references up, and copy into or out of `bytes`; it must not drop an object whose finalizer could
/// run code, so such objects are moved out and dropped afterwards. With a GIL, holding it is then the lock; without one,
/// a [`Lock`](crate::lock::Lock) held for a few instructions is, for which threads wait while attached to the interpreter:
/// whoever holds it runs no Python code, and so stops for nobody. Breaking the rule panics (with a GIL) instead of
/// aliasing.
pub struct Guarded<T> {
    #[cfg(Py_GIL_DISABLED)]
    lock: Lock,
    busy: Cell<bool>,
    value: UnsafeCell<T>,
}

// SAFETY: every access goes through `with` or `try_with`, which hold the GIL or the lock for its whole length.
unsafe impl<T: Send> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    pub fn new(value: T) -> Self {
        Self {
            #[cfg(Py_GIL_DISABLED)]
            lock: Lock::default(),
            busy: Cell::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Runs `body` with the state. See the rule above.
    #[inline]
    pub fn with<R>(&self, _py: Python<'_>, body: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(Py_GIL_DISABLED)]
        let _held = self.lock.acquire();
        assert!(!self.busy.get(), "the state of a zloop object was entered twice");
        self.borrow(body)
    }

    /// For garbage collectors: runs `body` with the state unless somebody has it.
    pub fn try_with<R>(&self, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        #[cfg(Py_GIL_DISABLED)]
        let _held = self.lock.try_acquire()?;
        (!self.busy.get()).then(|| self.borrow(body))
    }

    #[inline]
    fn borrow<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        struct Release<'a>(&'a Cell<bool>);
        impl Drop for Release<'_> {
            fn drop(&mut self) {
                self.0.set(false);
            }
        }
        self.busy.set(true);
        let _release = Release(&self.busy);
        // SAFETY: the GIL or the lock keeps other threads out and `busy` this one, so no other reference exists.
        body(unsafe { &mut *self.value.get() })
    }
}
