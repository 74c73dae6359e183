//! Addresses as the command lines spell them: `tcp:HOST:PORT` or `unix:PATH`.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IPv4 or IPv6 address with a port; port 0 lets the system choose when listening.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", "")) => Err("unix: needs a path".to_owned()),
            Some(("unix", path)) => Ok(Self::Unix(PathBuf::from(path))),
            Some(("tcp", rest)) => resolve(rest).map(Self::Tcp),
            _ => Err(format!("{text:?} is neither tcp:HOST:PORT nor unix:PATH")),
        }
    }
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| format!("{text:?}: {error}"))?;
    found.next().ok_or_else(|| format!("{text:?} names no address"))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in ["tcp:127.0.0.1:80", "tcp:[::1]:8080", "unix:/some/where"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_spelling() {
        for text in ["127.0.0.1:80", "unix:", "tcp:127.0.0.1", "udp:1.2.3.4:5"] {
            assert!(text.parse::<Address>().is_err(), "{text} was accepted");
        }
    }
}
