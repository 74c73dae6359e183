//! Whether sessions can be taken directly: looked into once, and proven by a session between both kinds of engine.
#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;

use super::direct::Direct;
use super::engine::{End, Engine, Step};
use super::portable::Portable;
use crate::py::invoke::Invoke;
use crate::tls::OpenSsl;

/// The versions of CPython whose objects are known.
const KNOWN: std::ops::RangeInclusive<(u8, u8)> = (3, 11)..=(3, 15);

/// The OpenSSL of the ssl module, or the reason why it is not called directly.
pub fn openssl(py: Python<'_>) -> &'static Result<&'static OpenSsl, String> {
    static FOUND: PyOnceLock<Result<&'static OpenSsl, String>> = PyOnceLock::new();
    FOUND.get_or_init(py, || find(py).unwrap_or_else(|error| Err(format!("the proof failed: {error}"))))
}

fn find(py: Python<'_>) -> PyResult<Result<&'static OpenSsl, String>> {
    let version = py.version_info();
    let name: String = py.import("sys")?.getattr("implementation")?.getattr("name")?.extract()?;
    if name != "cpython" || !KNOWN.contains(&(version.major, version.minor)) {
        return Ok(Err(format!("the objects of {name} {}.{} are unknown here", version.major, version.minor)));
    }
    let module = py.import("_ssl")?;
    let Some(path) = module.getattr_opt("__file__")? else {
        return Ok(Err(String::from("the ssl module is part of the interpreter")));
    };
    let openssl = match OpenSsl::get(path.extract()?) {
        Ok(openssl) => openssl,
        Err(reason) => return Ok(Err(reason.to_owned())),
    };
    let (text, number): (String, std::ffi::c_ulong) =
        (module.getattr("OPENSSL_VERSION")?.extract()?, module.getattr("OPENSSL_VERSION_NUMBER")?.extract()?);
    if openssl.version() != text || openssl.version_number() != number {
        return Ok(Err(format!("{} was found where Python has {text}", openssl.version())));
    }
    Ok(prove(py, openssl)?.map(|()| openssl).map_err(|what| format!("{what} differs from Python's own")))
}

/// Has a session taken directly and one of Python's talk to each other, and compares what both say.
fn prove(py: Python<'_>, openssl: &'static OpenSsl) -> PyResult<Result<(), &'static str>> {
    let none = py.None().into_bound(py);
    let server = Portable::of(&context(py, "PROTOCOL_TLS_SERVER")?, true, &none)?;
    let Ok(server) = Direct::over(py, openssl, server) else { return Ok(Err("the layout of objects")) };
    let server = Engine::Direct(server);
    let client = Engine::Portable(Portable::of(&context(py, "PROTOCOL_TLS_CLIENT")?, false, &none)?);
    if !shake_hands(py, &client, &server)? {
        return Ok(Err("the handshake"));
    }
    for size in [1, 20, 5000, 40_000] {
        let data = PyBackedBytes::from(PyBytes::new(py, &vec![size as u8; size]));
        for (from, to) in [(&client, &server), (&server, &client)] {
            if from.write(py, &data, 0..size)? != Some(size) {
                return Ok(Err("writing"));
            }
            carry(py, from, to)?;
            if to.read(py)?.0.is_none_or(|read| read.as_bytes() != &*data) {
                return Ok(Err("reading"));
            }
        }
    }
    client.unwrap(py)?;
    carry(py, &client, &server)?;
    match server.read(py)? {
        (None, End::Closed) => Ok(Ok(())),
        _ => Ok(Err("the end of a session")),
    }
}

/// A context for sessions without certificates.
fn context<'py>(py: Python<'py>, protocol: &str) -> PyResult<Bound<'py, PyAny>> {
    let ssl = py.import("ssl")?;
    let context = ssl.getattr("SSLContext")?.invoke((ssl.getattr(protocol)?,))?;
    context.setattr("check_hostname", false)?;
    context.setattr("verify_mode", ssl.getattr("CERT_NONE")?)?;
    context.setattr("maximum_version", ssl.getattr("TLSVersion")?.getattr("TLSv1_2")?)?;
    context.invoke_method("set_ciphers", ("AECDH:@SECLEVEL=0",))?;
    Ok(context)
}

fn shake_hands(py: Python<'_>, client: &Engine, server: &Engine) -> PyResult<bool> {
    for _ in 0..8 {
        let steps = [client.handshake(py)?, {
            carry(py, client, server)?;
            server.handshake(py)?
        }];
        carry(py, server, client)?;
        if steps == [Step::Done; 2] {
            let ciphers = [client, server].map(|engine| engine.object(py).invoke_method(intern!(py, "cipher"), ()));
            let [one, other] = ciphers;
            return one?.eq(other?);
        }
    }
    Ok(false)
}

fn carry(py: Python<'_>, from: &Engine, to: &Engine) -> PyResult<()> {
    while let Some(records) = from.take(py)? {
        to.feed(records.into_pyobject(py)?.as_any())?;
    }
    Ok(())
}

/// What the doctor asks: None, or why OpenSSL is not called directly.
#[pyfunction]
pub fn tls_problem(py: Python<'_>) -> Option<&'static str> {
    openssl(py).as_ref().err().map(String::as_str)
}
