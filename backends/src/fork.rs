//! Whether something was inherited from the process that this one was forked off: what the kernel shares between both is
//! the parent's alone.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many forks lie between the process that first asked and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// The process in which something was made. Asking costs no system call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin(u32);

impl Origin {
    /// This process.
    pub(crate) fn here() -> Self {
        extern "C" fn in_child() {
            FORKS.fetch_add(1, Ordering::Relaxed);
        }
        static COUNTED: Once = Once::new();
        COUNTED.call_once(|| {
            // SAFETY: the handler changes an atomic and nothing else, which a forked child may do.
            let answer = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
            assert_eq!(answer, 0, "no memory for the handler of forks");
        });
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// Whether that process is not this one, but one that it was forked off.
    pub(crate) fn is_inherited(self) -> bool {
        self.0 != FORKS.load(Ordering::Relaxed)
    }
}

/// For tests: held alone by those that start children, and shared by those to which it matters when a file is closed. A
/// child holds its parent's files open until it runs its program or ends.
#[cfg(test)]
pub(crate) static CHILDREN: std::sync::RwLock<()> = std::sync::RwLock::new(());
