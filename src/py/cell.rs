//! A cell for state that Python can reach: one borrower at a time, checked, and locked only where there is no GIL.

use std::cell::{Cell, UnsafeCell};
#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::Python;

/// Mutable state of a Python object.
///
/// The rule that makes it sound and free of deadlocks: what runs inside [`with`](Guarded::with) never calls into
/// Python. It may count references up, and copy into or out of `bytes`; it must not drop an object whose finalizer could
/// run code, so such objects are moved out and dropped afterwards. With a GIL, holding it is then the lock; without one,
/// a [`Lock`] held for a few instructions is. Breaking the rule panics (with a GIL) instead of aliasing.
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

/// A lock for a few instructions, among threads that hardly ever meet.
///
/// A message takes some twenty of them, so what counts is what one costs that nobody else wants: a single atomic exchange.
/// A mutex needs a second one to learn whether somebody sleeps; here nobody does, and letting go is a plain store.
/// Waiting is safe while attached to the interpreter: whoever holds it runs no Python code, and so stops for nobody.
#[cfg(Py_GIL_DISABLED)]
#[derive(Default)]
struct Lock(AtomicBool);

#[cfg(Py_GIL_DISABLED)]
struct Held<'a>(&'a Lock);

#[cfg(Py_GIL_DISABLED)]
impl Lock {
    /// So often a waiting thread looks before it lets another run on its core.
    const LOOKS: u32 = 100;

    #[inline]
    fn acquire(&self) -> Held<'_> {
        loop {
            if let Some(held) = self.try_acquire() {
                return held;
            }
            self.wait();
        }
    }

    #[inline]
    fn try_acquire(&self) -> Option<Held<'_>> {
        (!self.0.swap(true, Ordering::Acquire)).then_some(Held(self))
    }

    #[cold]
    fn wait(&self) {
        for _ in 0..Self::LOOKS {
            if !self.0.load(Ordering::Relaxed) {
                return;
            }
            std::hint::spin_loop();
        }
        std::thread::yield_now();
    }
}

#[cfg(Py_GIL_DISABLED)]
impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}
