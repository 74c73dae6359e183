//! An echo over UDP: one datagram outstanding per socket. Datagrams may be lost, so a socket
//! that waits too long gives its datagram up, counts it, and sends the next one.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};

use crate::fault::Fault;
use crate::measure::{Plan, Recorder, Report, Stage};
use crate::payload::Payload;

/// How long a reply is waited for.
const GIVE_UP: Duration = Duration::from_millis(200);

struct Peer {
    socket: UdpSocket,
    sequence: u64,
    since: Instant,
}

/// Sends datagrams of `size` bytes to `address` from `sockets` sockets and checks their echoes.
pub fn run(address: SocketAddr, size: usize, sockets: usize, plan: Plan) -> Result<Report, Fault> {
    let payload = Payload::new(size);
    let mut poll = Poll::new()?;
    let mut peers = Vec::with_capacity(sockets);
    for index in 0..sockets {
        peers.push(connect(address, &poll, index)?);
    }
    let mut recorder = Recorder::start(plan);
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; 65_536];
    let mut lost = 0;
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.ask(&payload, index)?;
    }
    loop {
        let now = Instant::now();
        if recorder.stage(now) == Stage::Drain {
            let report = recorder.report()?;
            return Ok(Report { lost, ..report });
        }
        for (index, peer) in peers.iter_mut().enumerate() {
            if now.saturating_duration_since(peer.since) > GIVE_UP {
                lost += 1;
                peer.ask(&payload, index)?;
            }
        }
        let timeout = recorder.until().saturating_duration_since(now).min(GIVE_UP);
        poll.poll(&mut events, Some(timeout))?;
        for event in &events {
            let index = event.token().0;
            peers[index].serve(&payload, index, &mut scratch, &mut recorder)?;
        }
    }
}

fn connect(address: SocketAddr, poll: &Poll, index: usize) -> Result<Peer, Fault> {
    let local: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let mut socket = UdpSocket::bind(local)?;
    socket.connect(address)?;
    poll.registry().register(&mut socket, Token(index), Interest::READABLE)?;
    Ok(Peer { socket, sequence: 0, since: Instant::now() })
}

impl Peer {
    /// Sends the next datagram. One that finds no room counts as lost later.
    fn ask(&mut self, payload: &Payload, index: usize) -> Result<(), Fault> {
        self.sequence += 1;
        self.since = Instant::now();
        match self.socket.send(payload.message(index, self.sequence)) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn serve(
        &mut self,
        payload: &Payload,
        index: usize,
        scratch: &mut [u8],
        recorder: &mut Recorder,
    ) -> Result<(), Fault> {
        loop {
            let count = match self.socket.recv(scratch) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            let reply = &scratch[..count];
            if reply != payload.message(index, self.sequence) {
                // The echo of a datagram that was given up may still come.
                if self.is_late(payload, index, reply) {
                    continue;
                }
                let detail = format!("a datagram of {count} bytes is not the one sent");
                return Err(Fault::Corrupted { connection: index, detail });
            }
            recorder.record(self.since.elapsed());
            self.ask(payload, index)?;
        }
    }

    fn is_late(&self, payload: &Payload, index: usize, reply: &[u8]) -> bool {
        let recent = self.sequence.saturating_sub(8)..self.sequence;
        recent.into_iter().any(|sequence| payload.message(index, sequence) == reply)
    }
}
