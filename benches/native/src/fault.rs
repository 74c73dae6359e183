//! Why a measurement is worthless.
#![forbid(unsafe_code)]

use std::io;

/// A reason to throw a run away. A server that answers wrongly has no speed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A reply differs from what was sent or promised.
    #[error("corrupted reply on connection {connection}: {detail}")]
    Corrupted {
        /// Index of the connection, from 0.
        connection: usize,
        /// What was seen, and where.
        detail: String,
    },
    /// A reply never became complete.
    #[error("connection {connection} waited {waited_s:.1} s for the rest of a reply: {detail}")]
    Lost {
        /// Index of the connection, from 0.
        connection: usize,
        /// Seconds from the request to giving up.
        waited_s: f64,
        /// How much of the reply had come.
        detail: String,
    },
    /// The server closed a connection that was in use.
    #[error("the server closed connection {connection}: {detail}")]
    Closed {
        /// Index of the connection, from 0.
        connection: usize,
        /// How much of the reply had come.
        detail: String,
    },
    /// Not one reply came within the measured window.
    #[error("no reply came within the measured window")]
    Silent,
    /// A certificate, a name or a file given for TLS cannot be used.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Any other system error.
    #[error(transparent)]
    Io(#[from] io::Error),
}
