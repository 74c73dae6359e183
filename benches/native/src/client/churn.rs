//! Connections that live for one message: connect, one echo, close.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Poll, Token};
use socket2::{Domain, Protocol, SockAddr, Type};

use crate::address::Address;
use crate::client::echo::Echo;
use crate::client::exchange::Dialogue;
use crate::fault::Fault;
use crate::measure::{Plan, Recorder, Report, Stage};
use crate::socket::{Received, Socket};

struct Visit {
    socket: Socket,
    sequence: u64,
    since: Instant,
    sent: usize,
    came: usize,
}

/// Keeps `visitors` connections under way, each of which carries one message of `size` bytes.
pub fn run(address: &Address, size: usize, visitors: usize, plan: Plan) -> Result<Report, Fault> {
    let poll = Poll::new()?;
    let mut churn = Churn { poll, address, echo: Echo::new(size), opened: 0, scratch: vec![0; 65_536] };
    churn.run(visitors, plan)
}

struct Churn<'a> {
    poll: Poll,
    address: &'a Address,
    echo: Echo,
    opened: u64,
    scratch: Vec<u8>,
}

impl Churn<'_> {
    fn run(&mut self, visitors: usize, plan: Plan) -> Result<Report, Fault> {
        let patience = plan.patience;
        let mut recorder = Recorder::start(plan);
        let mut events = Events::with_capacity(1024);
        let mut visits = Vec::with_capacity(visitors);
        for index in 0..visitors {
            visits.push(self.open(index)?);
        }
        loop {
            let now = Instant::now();
            if recorder.stage(now) == Stage::Drain {
                return recorder.report();
            }
            self.find_lost(&visits, now, patience)?;
            let until = recorder.until().saturating_duration_since(now);
            self.poll.poll(&mut events, Some(until.min(Duration::from_secs(1))))?;
            for event in &events {
                let index = event.token().0;
                if self.serve(index, &mut visits[index])? {
                    recorder.record(visits[index].since.elapsed());
                    self.close(&mut visits[index])?;
                    visits[index] = self.open(index)?;
                }
            }
        }
    }

    fn open(&mut self, index: usize) -> Result<Visit, Fault> {
        self.opened += 1;
        let since = Instant::now();
        let mut socket = match self.address {
            Address::Tcp(address) => Socket::connecting(start_connect(*address, self.opened)?),
            Address::Unix(_) => Socket::connect(self.address, None)?,
        };
        socket.register(self.poll.registry(), Token(index))?;
        Ok(Visit { socket, sequence: self.opened, since, sent: 0, came: 0 })
    }

    fn close(&self, visit: &mut Visit) -> Result<(), Fault> {
        // Dropping the socket, which the next visit's assignment does, closes it.
        Ok(visit.socket.deregister(self.poll.registry())?)
    }

    /// Serves an event; returns whether the echo is complete.
    fn serve(&mut self, index: usize, visit: &mut Visit) -> Result<bool, Fault> {
        let request = self.echo.request(index, visit.sequence);
        while visit.sent < request.len() {
            match visit.socket.send(&request[visit.sent..]) {
                Ok(0) => break,
                Ok(count) => visit.sent += count,
                // The first event may come before the connection stands.
                Err(error) if error.kind() == std::io::ErrorKind::NotConnected => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        loop {
            match visit.socket.receive(&mut self.scratch)? {
                Received::Nothing => return Ok(false),
                Received::End => {
                    let detail = self.echo.progress(&visit.came);
                    return Err(Fault::Closed { connection: index, detail });
                }
                Received::Bytes(count, _) => {
                    let bytes = &self.scratch[..count];
                    let complete = self
                        .echo
                        .receive(&mut visit.came, index, visit.sequence, bytes)
                        .map_err(|detail| Fault::Corrupted { connection: index, detail })?;
                    if complete {
                        return Ok(true);
                    }
                }
            }
        }
    }

    fn find_lost(&self, visits: &[Visit], now: Instant, patience: Duration) -> Result<(), Fault> {
        for (connection, visit) in visits.iter().enumerate() {
            let waited = now.saturating_duration_since(visit.since);
            if waited > patience {
                let detail = self.echo.progress(&visit.came);
                return Err(Fault::Lost { connection, waited_s: waited.as_secs_f64(), detail });
            }
        }
        Ok(())
    }
}

/// Starts to connect without blocking.
fn start_connect(address: SocketAddr, number: u64) -> Result<TcpStream, Fault> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    spread_ports(&socket, address, number)?;
    match socket.connect(&SockAddr::from(address)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(TcpStream::from_std(socket.into()))
}

#[cfg(target_os = "linux")]
const EINPROGRESS: i32 = 115;
#[cfg(not(target_os = "linux"))]
const EINPROGRESS: i32 = 36;

/// Takes turns among many loopback addresses. Each closed connection keeps its port for a
/// minute, so a single address would run out of ports within seconds.
#[cfg(target_os = "linux")]
fn spread_ports(socket: &socket2::Socket, server: SocketAddr, number: u64) -> Result<(), Fault> {
    use std::net::Ipv4Addr;

    if server.is_ipv4() && server.ip().is_loopback() {
        let local = Ipv4Addr::new(127, 0, 1, (number % 250) as u8 + 1);
        socket.bind(&SockAddr::from(SocketAddr::from((local, 0))))?;
    }
    Ok(())
}

/// Only Linux answers on all of 127.0.0.0/8.
#[cfg(not(target_os = "linux"))]
fn spread_ports(_: &socket2::Socket, _: SocketAddr, _: u64) -> Result<(), Fault> {
    Ok(())
}
