//! Socket addresses as Python's socket module writes them, and back.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::invoke::Invoke;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyInt, PyList, PyString, PyTuple};
use zloop_backends::SockAddr;

/// Whether addresses of this family are understood here.
pub fn is_known(family: i32) -> bool {
    matches!(family, libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX)
}

/// An address as Python's socket module shows it. One that the kernel did not tell is None.
pub fn to_python<'py>(py: Python<'py>, address: &SockAddr) -> PyResult<Bound<'py, PyAny>> {
    match address.to_inet() {
        Some(SocketAddr::V4(v4)) => Ok((v4.ip().to_string(), v4.port()).into_pyobject(py)?.into_any()),
        Some(SocketAddr::V6(v6)) => {
            let socket = py.import("socket")?;
            let host = (socket.getattr(intern!(py, "AF_INET6"))?, PyBytes::new(py, &v6.ip().octets()));
            let host = socket.invoke_method(intern!(py, "inet_ntop"), host)?;
            Ok((host, v6.port(), v6.flowinfo(), v6.scope_id()).into_pyobject(py)?.into_any())
        }
        None if address.as_bytes().is_empty() => Ok(py.None().into_bound(py)),
        None => match address.unix_path() {
            // An abstract name starts with a zero byte and stays bytes.
            Some(path) if path.first() == Some(&0) => Ok(PyBytes::new(py, path).into_any()),
            Some(path) => py.import("os")?.invoke_method("fsdecode", (PyBytes::new(py, path),)),
            None => Ok("".into_pyobject(py)?.into_any()),
        },
    }
}

/// What a socket of this family would make of an address, if it is plain: a tuple of a numeric host and a port, or a
/// path. For all others (names, scopes by name, other families, and whatever is wrong) Python's own socket knows best.
pub fn from_python(address: &Bound<'_, PyAny>, family: i32) -> Option<SockAddr> {
    if family == libc::AF_UNIX {
        let path = address.cast_exact::<PyString>().ok()?;
        // Other characters are encoded as the file system wants them.
        return SockAddr::from_unix_path(path.to_str().ok().filter(|path| path.is_ascii())?.as_bytes());
    }
    let parts = address.cast_exact::<PyTuple>().ok()?;
    let host = parts.get_item(0).ok()?;
    let host = host.cast_exact::<PyString>().ok()?.to_str().ok()?;
    let port = number(parts, 1)?;
    match (family, parts.len()) {
        (libc::AF_INET, 2) => Some(SocketAddrV4::new(host.parse::<Ipv4Addr>().ok()?, port).into()),
        (libc::AF_INET6, 2..=4) => {
            let (flow, scope) = (number_or_zero(parts, 2)?, number_or_zero(parts, 3)?);
            let fits = flow <= 0xf_ffff;
            let host = host.parse::<Ipv6Addr>().ok().filter(|_| fits)?;
            Some(SocketAddrV6::new(host, port, flow, scope).into())
        }
        _ => None,
    }
    .map(|address: SocketAddr| SockAddr::from(address))
}

/// What `socket.getaddrinfo` finds for an IPv4 address in digits and a port of a known kind of socket, as it gives it: a
/// list, or None for everything else, which is the C library's to answer.
#[pyfunction]
pub fn numeric_address<'py>(
    host: &Bound<'py, PyAny>,
    port: &Bound<'py, PyAny>,
    family: &Bound<'py, PyAny>,
    kind: &Bound<'py, PyAny>,
    proto: &Bound<'py, PyAny>,
    flags: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyList>>> {
    let py = host.py();
    let asked = || {
        let is_ip = host.cast_exact::<PyString>().ok()?.to_str().ok()?.parse::<Ipv4Addr>().is_ok();
        // A bool or an enumeration's member is not the port that comes out.
        let is_plain = port.is_exact_instance_of::<PyInt>();
        let port_fits = port.is_none() || is_plain && integer(port).is_some_and(|port| u16::try_from(port).is_ok());
        // Whether the host is known to be a number makes no difference, and what it is for neither.
        let flags_fit = integer(flags)? & !(libc::AI_PASSIVE | libc::AI_NUMERICHOST) == 0;
        let (family, proto) = (integer(family)?, integer(proto)?);
        let family_fits = matches!(family, libc::AF_UNSPEC | libc::AF_INET);
        let place = IPV4_KINDS.iter().position(|(kind_value, _, _)| integer(kind) == Some(*kind_value))?;
        let proto_fits = proto == 0 || proto == IPV4_KINDS[place].2;
        (is_ip && port_fits && flags_fit && family_fits && proto_fits).then_some((place, family, proto))
    };
    let Some((place, family, proto)) = asked() else { return Ok(None) };
    static AUDIT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let told = (intern!(py, "socket.getaddrinfo"), host, port, family, IPV4_KINDS[place].0, proto);
    AUDIT.import(py, "sys", "audit")?.invoke(told)?;
    let (family, kinds) = MEMBERS.get_or_try_init(py, || {
        let socket = py.import("socket")?;
        let kinds: PyResult<Vec<Py<PyAny>>> =
            IPV4_KINDS.iter().map(|(_, name, _)| Ok(socket.getattr(*name)?.unbind())).collect();
        Ok::<_, PyErr>((socket.getattr("AF_INET")?.unbind(), kinds?))
    })?;
    let port = if port.is_none() { PyInt::new(py, 0).into_any() } else { port.clone() };
    let found = (family, &kinds[place], IPV4_KINDS[place].2, intern!(py, ""), (host, port));
    PyList::new(py, [found]).map(Some)
}

/// The kinds of sockets for which IPv4 has one protocol: the number, its name in Python, the protocol.
const IPV4_KINDS: [(i32, &str, i32); 2] =
    [(libc::SOCK_STREAM, "SOCK_STREAM", libc::IPPROTO_TCP), (libc::SOCK_DGRAM, "SOCK_DGRAM", libc::IPPROTO_UDP)];

/// The enumerations' members for IPv4 and for those kinds.
static MEMBERS: PyOnceLock<(Py<PyAny>, Vec<Py<PyAny>>)> = PyOnceLock::new();

fn integer(value: &Bound<'_, PyAny>) -> Option<i32> {
    value.is_instance_of::<PyInt>().then(|| value.extract().ok())?
}

fn number<'py, T: for<'a> FromPyObject<'a, 'py>>(parts: &Bound<'py, PyTuple>, index: usize) -> Option<T> {
    let item = parts.get_item(index).ok()?;
    (item.is_exact_instance_of::<PyInt>() && !item.is_instance_of::<PyBool>()).then(|| item.extract().ok())?
}

fn number_or_zero(parts: &Bound<'_, PyTuple>, index: usize) -> Option<u32> {
    if index < parts.len() { number(parts, index) } else { Some(0) }
}
