//! zloop: an asyncio event loop with a Rust core and pluggable backends.
//!
//! Reading order: [`sched`] decides *when* something runs, [`io`] knows *what* a transport does with bytes, [`tls`] where a
//! TLS session stands, the crate `zloop_backends` talks to the kernel, and `py` (feature `python`) shows all of it to CPython. Arrows point from
//! `py` to `sched`, `io` and `tls`, and from there to the backends; nothing points back. [`lock`] is what the state of `py`
//! has instead of the GIL where there is none.

pub mod io;
pub mod lock;
pub mod sched;
pub mod tls;

#[cfg(feature = "python")]
mod py;
