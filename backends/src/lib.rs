//! The I/O backends of zloop behind one trait. No Python, no clock policy, no callbacks.
//!
//! | file | what it holds |
//! |---|---|
//! | [`api`] | the vocabulary, the trait [`Backend`] and its contract C1 to C16 |
//! | [`registry`] | [`Kind`], [`open`], [`available`]: the only list of backends |
//! | [`attempt`] | non-blocking system calls, each tried once |
//! | [`child`] | a file that tells when a child process has ended |
//! | [`addr`] | a socket address as the kernel wrote it |
//! | [`wake`] | how any thread ends a wait |
//! | [`slots`] | a slab that hands out [`Token`]s |
//! | `table` | a vector indexed by somebody else's tokens |
//! | `fd` | the one place that vouches for a raw fd |
//! | `fork` | what belongs to the parent of this process |
//! | [`readiness`] | every readiness backend: one `Readiness<S>` over small selectors |
//! | `uring` | io_uring (Linux) |
//! | `sim` | the backend in memory, for tests (feature `sim`) |

pub mod addr;
pub mod api;
pub mod attempt;
pub mod child;
mod fd;
#[cfg(any(epoll, io_uring, kqueue))]
mod fork;
pub mod readiness;
pub mod registry;
#[cfg(feature = "sim")]
pub mod sim;
pub mod slots;
mod table;
#[cfg(io_uring)]
pub mod uring;
pub mod wake;

pub use addr::SockAddr;
pub use api::{Backend, Event, Events, Interest, MAX_SLICES, Profile, Sent, Token, Wait, What};
pub use fd::{FileKind, set_nonblocking};
pub use registry::{AnyBackend, Kind, Unavailable, available, open, open_auto};
pub use slots::Slots;
pub use wake::Waker;
