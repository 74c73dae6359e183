//! zloop: an asyncio event loop with a Rust core and pluggable backends.
//!
//! Reading order: [`sched`] decides *when* something runs, [`io`] knows *what* a transport does with bytes, [`tls`] where a
//! TLS session stands, the crate `zloop_backends` talks to the kernel, and `py` (feature `python`) shows all of it to CPython. Arrows point from
//! `py` to `sched`, `io` and `tls`, and from there to the backends; nothing points back.

pub mod io;
pub mod sched;
pub mod tls;

#[cfg(feature = "python")]
mod py;
