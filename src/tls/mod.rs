//! TLS without Python in it: where a session stands, and its records, for which OpenSSL is called directly.

mod openssl;
mod phase;
mod pipe;
mod session;

pub use openssl::{Bio, OpenSsl, Ssl, SslCtx};
pub use phase::{Phase, Told};
pub use pipe::Incoming;
pub use session::{Claims, Session, Stop};
