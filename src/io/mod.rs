//! What transports do with bytes, without sockets, clocks or Python: the queue of a stream's unsent bytes, the marks of
//! flow control, and how much to read at once.
#![forbid(unsafe_code)]

mod read_size;
mod watermark;
mod write_queue;

pub use read_size::ReadSize;
pub use watermark::{LimitsError, Watermark};
pub use write_queue::{AT_ONCE_FROM, WriteQueue};
