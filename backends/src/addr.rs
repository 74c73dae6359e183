//! A socket address as the kernel wrote it.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for every address family (`sizeof(struct sockaddr_storage)`).
pub(crate) const ROOM: usize = size_of::<libc::sockaddr_storage>();

/// Where `sun_path` begins in `struct sockaddr_un`, and the payload of every other family.
const PAYLOAD: usize = 2;

/// An address of any family, in the kernel's layout.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct SockAddr {
    bytes: [u8; ROOM],
    len: usize,
}

impl SockAddr {
    /// Adopts what the kernel wrote: `len` of these bytes.
    pub(crate) fn new(bytes: [u8; ROOM], len: usize) -> Self {
        Self { bytes, len: len.min(ROOM) }
    }

    /// The address of a Unix socket in the file system; `None` for a path that is empty, too long or not a path.
    #[must_use]
    pub fn from_unix_path(path: &[u8]) -> Option<Self> {
        let mut bytes = [0; ROOM];
        // With the zero byte that ends it.
        let len = PAYLOAD + path.len() + 1;
        if path.is_empty() || path.contains(&0) || len > size_of::<libc::sockaddr_un>() {
            return None;
        }
        bytes[PAYLOAD..PAYLOAD + path.len()].copy_from_slice(path);
        Some(Self::with_head(bytes, len, libc::AF_UNIX))
    }

    /// Fills in the family, and the length where there is a place for it.
    fn with_head(mut bytes: [u8; ROOM], len: usize, family: i32) -> Self {
        if cfg!(any(target_os = "linux", target_os = "android")) {
            bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        } else {
            bytes[..2].copy_from_slice(&[len as u8, family as u8]);
        }
        Self { bytes, len }
    }

    /// The address family (`AF_INET`, ...). Some kernels report none for a peer without a name: `AF_UNSPEC` then.
    #[must_use]
    pub fn family(&self) -> i32 {
        if self.len < PAYLOAD {
            return libc::AF_UNSPEC;
        }
        // The BSDs keep a length in the first byte and the family in the second.
        if cfg!(any(target_os = "linux", target_os = "android")) {
            i32::from(u16::from_ne_bytes([self.bytes[0], self.bytes[1]]))
        } else {
            i32::from(self.bytes[1])
        }
    }

    /// All the bytes that the kernel wrote, header included.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// An IPv4 or IPv6 address, with flow label and scope; `None` for other families.
    #[must_use]
    pub fn to_inet(&self) -> Option<SocketAddr> {
        let port = u16::from_be_bytes(self.array(2));
        match self.family() {
            libc::AF_INET if self.len >= 8 => Some(SocketAddrV4::new(self.array::<4>(4).into(), port).into()),
            libc::AF_INET6 if self.len >= 28 => {
                let flow = u32::from_be_bytes(self.array(4));
                let scope = u32::from_ne_bytes(self.array(24));
                Some(SocketAddrV6::new(Ipv6Addr::from(self.array::<16>(8)), port, flow, scope).into())
            }
            _ => None,
        }
    }

    /// The path of a Unix address as Python shows it: without the final zero byte, empty for an unnamed socket, with
    /// its leading zero byte for an abstract one (Linux). `None` for other families.
    #[must_use]
    pub fn unix_path(&self) -> Option<&[u8]> {
        if self.family() != libc::AF_UNIX {
            return None;
        }
        let path = &self.bytes[PAYLOAD..self.len];
        match path.first() {
            None => Some(path),
            Some(0) if cfg!(target_os = "linux") => Some(path),
            Some(_) => Some(path.split(|byte| *byte == 0).next().unwrap_or_default()),
        }
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[at..at + N]);
        out
    }
}

impl From<SocketAddr> for SockAddr {
    fn from(address: SocketAddr) -> Self {
        let mut bytes = [0; ROOM];
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                Self::with_head(bytes, 16, libc::AF_INET)
            }
            SocketAddr::V6(v6) => {
                bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                Self::with_head(bytes, 28, libc::AF_INET6)
            }
        }
    }
}

impl fmt::Debug for SockAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.to_inet(), self.unix_path()) {
            (Some(inet), _) => inet.fmt(f),
            (_, Some(path)) => write!(f, "unix:{}", path.escape_ascii()),
            _ => write!(f, "family {}: {:02x?}", self.family(), self.as_bytes()),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn made(family: i32, rest: &[u8]) -> SockAddr {
        let mut bytes = [0; ROOM];
        bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        bytes[2..2 + rest.len()].copy_from_slice(rest);
        SockAddr::new(bytes, 2 + rest.len())
    }

    #[test]
    fn inet_addresses_keep_every_field() {
        let v4 = made(libc::AF_INET, &[0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(v4.to_inet(), Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(v4.unix_path(), None);
        let mut rest = vec![0x1f, 0x90, 0, 0, 0, 7];
        rest.extend(Ipv6Addr::LOCALHOST.octets());
        rest.extend(9u32.to_ne_bytes());
        let v6 = made(libc::AF_INET6, &rest);
        assert_eq!(v6.to_inet(), Some(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 8080, 7, 9).into()));
    }

    #[test]
    fn what_is_written_reads_the_same() {
        for text in ["192.0.2.7:65535", "[2001:db8::9%3]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SockAddr::from(address).to_inet(), Some(address));
        }
        assert_eq!(SockAddr::from_unix_path(b"/run/x").unwrap().unix_path(), Some(&b"/run/x"[..]));
        let refused: [&[u8]; 3] = [b"", b"\0abstract", &[b'x'; 108]];
        assert!(refused.iter().all(|path| SockAddr::from_unix_path(path).is_none()));
        assert!(SockAddr::from_unix_path(&[b'x'; 107]).is_some());
    }

    #[test]
    fn unix_paths_look_as_in_python() {
        assert_eq!(made(libc::AF_UNIX, b"").unix_path(), Some(&b""[..]));
        assert_eq!(made(libc::AF_UNIX, b"/run/x\0").unix_path(), Some(&b"/run/x"[..]));
        assert_eq!(made(libc::AF_UNIX, b"\0abs\0tract").unix_path(), Some(&b"\0abs\0tract"[..]));
        assert_eq!(made(libc::AF_UNIX, b"").to_inet(), None);
    }

    #[test]
    fn a_peer_without_a_name_has_no_family() {
        let nobody = SockAddr::new([0; ROOM], 0);
        assert_eq!(nobody.family(), libc::AF_UNSPEC);
        assert_eq!(nobody.as_bytes(), b"");
    }
}
