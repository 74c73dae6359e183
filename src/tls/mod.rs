//! TLS without Python in it: where a session stands. The records themselves are OpenSSL's.
#![forbid(unsafe_code)]

mod phase;

pub use phase::{Phase, Told};
