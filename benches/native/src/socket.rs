//! One non-blocking stream: TCP or Unix, plain or under TLS.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::address::Address;
use crate::fault::Fault;

/// What a client needs to speak TLS.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Trusts only the certificates in the PEM file `authority`; expects the server to be `name`.
    pub fn trusting(authority: &Path, name: &str) -> Result<Self, Fault> {
        let mut roots = RootCertStore::empty();
        let unusable = |error| Fault::Io(io::Error::other(error));
        for certificate in CertificateDer::pem_file_iter(authority).map_err(unusable)? {
            roots.add(certificate.map_err(unusable)?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| Fault::Io(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        Ok(Self { config: Arc::new(config), name })
    }
}

enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Transport {
    fn io(&mut self) -> &mut dyn ReadWrite {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// A connected stream that never blocks once it is connected.
pub struct Socket {
    transport: Transport,
    tls: Option<Box<ClientConnection>>,
}

/// What one receive found.
pub enum Received {
    /// So many bytes, and whether the stream is known to hold no more for now.
    Bytes(usize, bool),
    /// Nothing for now.
    Nothing,
    /// The peer is done.
    End,
}

impl Socket {
    /// Connects (this blocks) and, if asked for, prepares TLS, whose handshake then runs along
    /// with the first request.
    pub fn connect(address: &Address, tls: Option<&Tls>) -> Result<Self, Fault> {
        let transport = match address {
            Address::Tcp(address) => {
                let stream = std::net::TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Transport::Tcp(TcpStream::from_std(stream))
            }
            Address::Unix(path) => {
                let stream = std::os::unix::net::UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Transport::Unix(UnixStream::from_std(stream))
            }
        };
        Self::with_tls(transport, tls)
    }

    /// Takes over a TCP stream whose connect may still be under way.
    pub fn connecting(stream: TcpStream) -> Self {
        Self { transport: Transport::Tcp(stream), tls: None }
    }

    fn with_tls(transport: Transport, tls: Option<&Tls>) -> Result<Self, Fault> {
        let tls = match tls {
            Some(tls) => {
                let connection = ClientConnection::new(tls.config.clone(), tls.name.clone())?;
                Some(Box::new(connection))
            }
            None => None,
        };
        Ok(Self { transport, tls })
    }

    /// Asks for edge-triggered events in both directions.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.transport.source().register(registry, token, both)
    }

    /// Ends the registration.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.transport.source().deregister(registry)
    }

    /// Sends what the stream takes; 0 means that it is full.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = match &mut self.tls {
            None => or_nothing(self.transport.io().write(bytes)),
            Some(tls) => tls.writer().write(bytes),
        }?;
        self.flush()?;
        Ok(sent)
    }

    /// Sends what TLS still holds. Does nothing on a plain stream.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            match tls.write_tls(self.transport.io()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                other => other?,
            };
        }
        Ok(())
    }

    /// Receives into `scratch`.
    pub fn receive(&mut self, scratch: &mut [u8]) -> io::Result<Received> {
        match &mut self.tls {
            None => self.receive_plain(scratch),
            Some(_) => self.receive_tls(scratch),
        }
    }

    fn receive_plain(&mut self, scratch: &mut [u8]) -> io::Result<Received> {
        match self.transport.io().read(scratch) {
            Ok(0) => Ok(Received::End),
            // A stream that gave less than it was asked for is empty; the next byte is an edge.
            Ok(count) => Ok(Received::Bytes(count, count < scratch.len())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) => Err(error),
        }
    }

    fn receive_tls(&mut self, scratch: &mut [u8]) -> io::Result<Received> {
        loop {
            let Some(tls) = &mut self.tls else { return Ok(Received::Nothing) };
            match tls.reader().read(scratch) {
                Ok(0) => return Ok(Received::End),
                Ok(count) => return Ok(Received::Bytes(count, false)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match tls.read_tls(self.transport.io()) {
                Ok(0) => return Ok(Received::End),
                Ok(_) => tls.process_new_packets().map_err(io::Error::other)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Received::Nothing);
                }
                Err(error) => return Err(error),
            };
            self.flush()?;
        }
    }
}

/// Turns "would block" into a count of 0.
fn or_nothing(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
