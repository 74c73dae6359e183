//! The ceiling: a single-threaded echo server on epoll (kqueue elsewhere) without any Python.
//!
//! It does per message what a loop must do at least: one wait, one read, one write.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Registry, Token};

use crate::address::Address;

/// Bytes asked for in one read, as many as uvloop asks for.
const SCRATCH: usize = 256 * 1024;
/// The listener's token; connections have their index in the table.
const LISTENER: Token = Token(usize::MAX);

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A bound echo server for streams.
pub struct EchoServer {
    poll: Poll,
    listener: Listener,
    address: Address,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

struct Connection {
    stream: Box<dyn Stream>,
    /// What the peer has not taken yet. While this is not empty nothing is read.
    unsent: Vec<u8>,
}

trait Stream: Read + Write + Source + Send {}
impl<T: Read + Write + Source + Send> Stream for T {}

impl EchoServer {
    /// Binds to `address`.
    pub fn bind(address: &Address) -> io::Result<Self> {
        let poll = Poll::new()?;
        let (mut listener, address) = match address {
            Address::Tcp(wanted) => {
                let listener = TcpListener::bind(*wanted)?;
                let address = Address::Tcp(listener.local_addr()?);
                (Listener::Tcp(listener), address)
            }
            Address::Unix(path) => (Listener::Unix(UnixListener::bind(path)?), address.clone()),
        };
        let source: &mut dyn Source = match &mut listener {
            Listener::Tcp(listener) => listener,
            Listener::Unix(listener) => listener,
        };
        poll.registry().register(source, LISTENER, Interest::READABLE)?;
        Ok(Self { poll, listener, address, connections: Vec::new(), free: Vec::new() })
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Serves until the process ends or the system fails.
    pub fn serve(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut scratch = vec![0; SCRATCH];
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(index) => self.echo(index, event.is_read_closed(), &mut scratch)?,
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream: Box<dyn Stream> = match self.accept_one() {
                Ok(stream) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The peer may already have gone, which is its own affair.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            self.adopt(stream)?;
        }
    }

    fn accept_one(&self) -> io::Result<Box<dyn Stream>> {
        match &self.listener {
            Listener::Tcp(listener) => {
                let stream: TcpStream = listener.accept()?.0;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Listener::Unix(listener) => {
                let stream: UnixStream = listener.accept()?.0;
                Ok(Box::new(stream))
            }
        }
    }

    fn adopt(&mut self, mut stream: Box<dyn Stream>) -> io::Result<()> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut *stream, Token(index), both)?;
        self.connections[index] = Some(Connection { stream, unsent: Vec::new() });
        Ok(())
    }

    fn echo(&mut self, index: usize, ending: bool, scratch: &mut [u8]) -> io::Result<()> {
        // An event may be left of a connection that an earlier one of the same batch closed.
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        if connection.echo(ending, scratch).is_err() {
            self.drop_connection(index, &self.poll.registry().try_clone()?)?;
        }
        Ok(())
    }

    fn drop_connection(&mut self, index: usize, registry: &Registry) -> io::Result<()> {
        if let Some(mut connection) = self.connections[index].take() {
            registry.deregister(&mut *connection.stream)?;
            self.free.push(index);
        }
        Ok(())
    }
}

impl Connection {
    /// Moves bytes until the stream has or takes no more; an error means that it is over.
    fn echo(&mut self, ending: bool, scratch: &mut [u8]) -> io::Result<()> {
        if !self.flush()? {
            return Ok(());
        }
        loop {
            let count = match self.stream.read(scratch) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            let sent = or_nothing(self.stream.write(&scratch[..count]))?;
            if sent < count {
                self.unsent.extend_from_slice(&scratch[sent..count]);
                if !self.flush()? {
                    return Ok(());
                }
                continue;
            }
            // Less than was asked for: the stream is empty, and the next byte is a new event.
            if count < scratch.len() && !ending {
                return Ok(());
            }
        }
    }

    /// Sends what is unsent; returns whether all of it is gone.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match or_nothing(self.stream.write(&self.unsent))? {
                0 => return Ok(false),
                sent => drop(self.unsent.drain(..sent)),
            }
        }
        Ok(true)
    }
}

fn or_nothing(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

/// A bound echo server for datagrams.
pub struct DatagramServer {
    socket: UdpSocket,
    address: Address,
}

impl DatagramServer {
    /// Binds to `address`, which must be one of IP.
    pub fn bind(address: &Address) -> io::Result<Self> {
        let Address::Tcp(wanted) = address else {
            return Err(io::Error::new(ErrorKind::InvalidInput, "datagrams need HOST:PORT"));
        };
        let socket = UdpSocket::bind(*wanted)?;
        let address = Address::Tcp(socket.local_addr()?);
        Ok(Self { socket, address })
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Serves until the process ends or the system fails.
    pub fn serve(mut self) -> io::Result<()> {
        let mut poll = Poll::new()?;
        poll.registry().register(&mut self.socket, LISTENER, Interest::READABLE)?;
        let mut events = Events::with_capacity(16);
        let mut scratch = vec![0; 65_536];
        loop {
            poll.poll(&mut events, None)?;
            loop {
                let (count, peer) = match self.socket.recv_from(&mut scratch) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    other => other?,
                };
                or_nothing(self.socket.send_to(&scratch[..count], peer))?;
            }
        }
    }
}
