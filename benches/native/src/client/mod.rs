//! The workloads. All run on one thread, and every byte that comes back is compared with what
//! must come back: a wrong reply, a lost reply or a hang-up ends the run with a [`Fault`].
//!
//! - [`exchange`]: requests and replies over long-lived streams, in a closed or an open loop,
//!   with the dialogue of [`echo`], of [`http`] or of [`websocket`];
//! - [`datagram`]: an echo over UDP;
//! - [`churn`]: connect, one echo, close.
//!
//! [`Fault`]: crate::fault::Fault
#![forbid(unsafe_code)]

pub mod churn;
pub mod datagram;
pub mod echo;
pub mod exchange;
pub mod http;
pub mod websocket;
