//! What `get_extra_info` knows. Of an accepted connection it is written down when somebody asks for it: most programs never
//! do, and Python's objects for two addresses take a third of what an idle connection takes.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::RawFd;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};
use zloop_backends::{SockAddr, attempt};

use super::super::native::Args;
use super::super::transport::{Answer, required};
use super::super::{address, socket};
use super::{Conn, Parts, with_conn, write};
use crate::py::invoke::Invoke;

/// What is known of a transport's socket.
pub enum Known {
    Accepted(Box<Accepted>),
    Written(Py<PyAny>),
}

/// A connection over IP that was accepted here. Nobody else has its socket, so its addresses stay what they were.
pub struct Accepted {
    sock: Py<PyAny>,
    own: SocketAddr,
    peer: SocketAddr,
}

impl Known {
    pub fn new(parts: &Parts<'_>, fd: RawFd) -> PyResult<Self> {
        let (py, sock) = (parts.sock.py(), &parts.sock);
        if let Some(accepted) = parts.peer.as_ref().and_then(|peer| Accepted::new(sock, fd, peer)) {
            return Ok(Self::Accepted(Box::new(accepted)));
        }
        let extra = parts.extra.clone().unwrap_or_else(|| PyDict::new(py).into_any());
        if let Some(peer) = &parts.peer {
            extra.set_item(intern!(py, "peername"), address::to_python(py, peer)?)?;
        }
        extra.set_item(intern!(py, "socket"), sock)?;
        extra.set_item(intern!(py, "sockname"), own_name(sock, fd)?)?;
        if !extra.contains(intern!(py, "peername"))? {
            extra.set_item(intern!(py, "peername"), sock.invoke_method(intern!(py, "getpeername"), ()).ok())?;
        }
        Ok(Self::Written(extra.unbind()))
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Accepted(accepted) => visit.call(&accepted.sock),
            Self::Written(extra) => visit.call(extra),
        }
    }
}

impl Accepted {
    fn new(sock: &Bound<'_, PyAny>, fd: RawFd, peer: &SockAddr) -> Option<Self> {
        let peer = peer.to_inet()?;
        let own = attempt::own_name(fd).ok()?.to_inet()?;
        Some(Self { sock: sock.clone().unbind(), own, peer })
    }

    /// In asyncio's order.
    fn write<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let extra = PyDict::new(py);
        extra.set_item(intern!(py, "peername"), address::to_python(py, &self.peer.into())?)?;
        extra.set_item(intern!(py, "socket"), &self.sock)?;
        extra.set_item(intern!(py, "sockname"), address::to_python(py, &self.own.into())?)?;
        Ok(extra)
    }
}

/// The socket's own address, or None.
fn own_name<'py>(sock: &Bound<'py, PyAny>, fd: RawFd) -> PyResult<Option<Bound<'py, PyAny>>> {
    if socket::is_plain(sock)? {
        return attempt::own_name(fd).ok().map(|name| address::to_python(sock.py(), &name)).transpose();
    }
    Ok(sock.invoke_method(intern!(sock.py(), "getsockname"), ()).ok())
}

/// All that is known, in a dict that is the transport's own.
fn extra<'py>(conn: Conn<'_, 'py>) -> Answer<'py> {
    let py = conn.py();
    let asked = conn.state(|state| match &state.known {
        Known::Accepted(known) => Err(Accepted { sock: known.sock.clone_ref(py), ..**known }),
        Known::Written(extra) => Ok(extra.bind(py).clone()),
    });
    let accepted = match asked {
        Ok(extra) => return Ok(extra),
        Err(accepted) => accepted,
    };
    let extra = accepted.write(py)?.into_any();
    let (extra, _old) = conn.state(|state| match &state.known {
        // Another thread was quicker.
        Known::Written(first) => (first.bind(py).clone(), None),
        Known::Accepted(_) => {
            let known = Known::Written(extra.clone().unbind());
            (extra, Some(std::mem::replace(&mut state.known, known)))
        }
    });
    Ok(extra)
}

pub fn get_extra<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    with_conn(slf, extra)
}

pub fn get_extra_info<'py>(slf: &Bound<'py, PyAny>, args: Args<'_, 'py>) -> Answer<'py> {
    let py = slf.py();
    let name = required(args, "StreamTransport.get_extra_info", "name")?;
    if name.eq(intern!(py, "socket"))? {
        return show_socket(slf);
    }
    get_extra(slf)?.invoke_method(intern!(py, "get"), (name, args.named(1, "default")))
}

/// What is shown in the socket's place, one object for each transport, made when it is first asked for.
fn show_socket<'py>(slf: &Bound<'py, PyAny>) -> Answer<'py> {
    static SHOWN: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let (py, name) = (slf.py(), intern!(slf.py(), "socket"));
    let class = SHOWN.import(py, "zloop._shown", "TransportSocket")?;
    // A program may ask for it only to hand it, or its number, to somebody else.
    with_conn(slf, write::send_first)?;
    let extra = get_extra(slf)?;
    let known = extra.get_item(name)?;
    if known.is_instance(class)? {
        return Ok(known);
    }
    let shown = class.invoke((known, slf))?;
    extra.set_item(name, &shown)?;
    Ok(shown)
}
