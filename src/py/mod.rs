//! What CPython sees: the module `zloop._zloop`.
//!
//! | file | what |
//! |---|---|
//! | `event_loop.rs` | the base class of `zloop.Loop`: state and cold methods |
//! | `enqueue.rs` | where work enters the loop's queues |
//! | `hot.rs` | `call_soon` and what else programs call millions of times |
//! | `classes.rs` | the classes of asyncio's that the loop makes objects of |
//! | `backends.rs` | which backends there are, for loops and for the doctor |
//! | `run.rs`, `debug.rs` | the run cycle; its slow twin in debug mode |
//! | `state.rs` | what a loop owns |
//! | `handle/` | `Handle`, `TimerHandle` |
//! | `context.rs` | contexts: copied, entered, and made only if there is something in them |
//! | `watch.rs` | `add_reader` and its family |
//! | `accept.rs` | from a listening socket to transports |
//! | `socket.rs` | Python's own sockets |
//! | `sock/` | `sock_recv` and its family |
//! | `executor.rs` | `run_in_executor`: from another thread's future to the loop's |
//! | `address.rs` | socket addresses, as Python writes them |
//! | `transport.rs`, `receive.rs` | what all transports share |
//! | `stream/` | stream transports |
//! | `pipe/` | pipe transports |
//! | `datagram/` | datagram transports |
//! | `exit.rs`, `child.rs` | the end of child processes: told by the backend, or by a file |
//! | `tls/` | TLS on top of any transport |
//! | `native.rs`, `invoke.rs`, `call.rs`, `cell.rs` | the four small floors between Rust and the interpreter |

mod accept;
mod address;
mod backends;
mod call;
mod cell;
mod child;
mod classes;
mod context;
mod datagram;
mod debug;
mod enqueue;
mod errors;
mod event_loop;
mod executor;
mod exit;
mod handle;
mod hot;
mod invoke;
mod native;
mod pipe;
mod receive;
mod run;
mod sock;
mod socket;
mod state;
mod stream;
mod tls;
mod transport;
mod watch;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

/// The native part of zloop. Use the package `zloop`, not this module.
#[pymodule(gil_used = false)]
fn _zloop(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    if !native::in_main_interpreter(py) {
        // Its classes and what it remembers of asyncio's are one interpreter's.
        return Err(PyImportError::new_err("zloop does not support subinterpreters"));
    }
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<event_loop::EventLoop>()?;
    hot::install(&py.get_type::<event_loop::EventLoop>())?;
    sock::install(&py.get_type::<event_loop::EventLoop>())?;
    handle::HandleTypes::register(module)?;
    stream::register(module)?;
    pipe::register(module)?;
    child::register(module)?;
    datagram::register(module)?;
    tls::register(module)?;
    module.add_function(wrap_pyfunction!(tls::tls_problem, module)?)?;
    module.add_function(wrap_pyfunction!(address::numeric_address, module)?)?;
    module.add_function(wrap_pyfunction!(executor::wrap_future, module)?)?;
    module.add_function(wrap_pyfunction!(backends::available_backends, module)?)?;
    module.add_function(wrap_pyfunction!(backends::diagnose, module)?)
}
