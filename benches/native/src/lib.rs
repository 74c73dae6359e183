//! What zloop is measured with: a single-threaded load generator (`load`) and an echo server
//! that contains no Python (`echo`), the ceiling of every table.
//!
//! The map of this crate:
//! - [`address`]: `tcp:HOST:PORT` and `unix:PATH`, as the command lines spell them;
//! - [`payload`]: message contents that make a lost, stale or corrupted byte visible;
//! - [`socket`]: one non-blocking stream, plain or under TLS;
//! - [`measure`]: the warm-up, the measured window, latencies, the server's CPU time;
//! - [`client`]: the workloads, each of which checks every byte that comes back;
//! - [`echo_server`]: the ceiling.
#![forbid(unsafe_code)]

pub mod address;
pub mod client;
pub mod echo_server;
pub mod fault;
pub mod measure;
pub mod payload;
pub mod proc_cpu;
pub mod slices;
pub mod socket;
