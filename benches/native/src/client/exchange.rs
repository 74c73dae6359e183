//! Requests and replies over long-lived streams, one outstanding request per connection.
//!
//! In a *closed* loop a connection sends its next request when it has the reply to the last one.
//! In an *open* loop requests fall due at a fixed rate, whatever the server does; one that finds
//! every connection busy waits, and its latency counts from when it fell due, so a stall of the
//! server is charged to every request that it delayed.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::address::Address;
use crate::fault::Fault;
use crate::measure::{Plan, Recorder, Report, Stage};
use crate::socket::{Received, Socket, Tls};

/// Bytes asked for in one receive.
const SCRATCH: usize = 256 * 1024;

/// What is said over a connection: requests, and how their replies are checked.
pub trait Dialogue {
    /// How far a reply has come.
    type Reply: Default;

    /// The bytes of request `sequence` of connection `connection`.
    fn request(&self, connection: usize, sequence: u64) -> &[u8];

    /// Takes the next bytes of a reply. Returns whether it is complete, or what is wrong with it.
    fn receive(
        &mut self,
        reply: &mut Self::Reply,
        connection: usize,
        sequence: u64,
        bytes: &[u8],
    ) -> Result<bool, String>;

    /// How far `reply` has come, in words.
    fn progress(&self, reply: &Self::Reply) -> String;
}

/// Whom to talk to, and how.
pub struct Target {
    /// Where the server listens.
    pub address: Address,
    /// Whether to speak TLS.
    pub tls: Option<Tls>,
    /// How many connections to open.
    pub connections: usize,
    /// Requests per second over all connections for an open loop; `None` for a closed one.
    pub rate: Option<f64>,
}

/// Runs `dialogue` against `target`, as long as `plan` says.
pub fn run<D: Dialogue>(target: &Target, dialogue: D, plan: Plan) -> Result<Report, Fault> {
    let mut exchange = Exchange::connect(target, dialogue)?;
    exchange.run(plan)
}

struct Link<R> {
    socket: Socket,
    sequence: u64,
    /// When the outstanding request was made or fell due; `None` while there is none.
    since: Option<Instant>,
    sent: usize,
    reply: R,
}

struct Exchange<D: Dialogue> {
    poll: Poll,
    links: Vec<Link<D::Reply>>,
    dialogue: D,
    pacer: Option<Pacer>,
    scratch: Vec<u8>,
}

impl<D: Dialogue> Exchange<D> {
    fn connect(target: &Target, dialogue: D) -> Result<Self, Fault> {
        let poll = Poll::new()?;
        let mut links = Vec::with_capacity(target.connections);
        for index in 0..target.connections {
            let mut socket = Socket::connect(&target.address, target.tls.as_ref())?;
            socket.register(poll.registry(), Token(index))?;
            links.push(Link { socket, sequence: 0, since: None, sent: 0, reply: D::Reply::default() });
        }
        let pacer = target.rate.map(|rate| Pacer::new(rate, target.connections));
        Ok(Self { poll, links, dialogue, pacer, scratch: vec![0; SCRATCH] })
    }

    fn run(&mut self, plan: Plan) -> Result<Report, Fault> {
        let mut recorder = Recorder::start(plan);
        let mut events = Events::with_capacity(1024);
        if self.pacer.is_some() {
            recorder.tell_slices();
        } else {
            for index in 0..self.links.len() {
                self.begin(index, Instant::now())?;
            }
        }
        loop {
            let now = Instant::now();
            let stage = recorder.stage(now);
            if stage == Stage::Drain {
                let waiting = self.links.iter().position(|link| link.since.is_some());
                match waiting {
                    None => return recorder.report(),
                    Some(index) if recorder.out_of_patience(now) => return Err(self.lost(index)),
                    Some(_) => {}
                }
            } else {
                self.begin_due(now)?;
            }
            self.wait(&mut events, now, &recorder)?;
            for event in &events {
                self.serve(event.token().0, event.is_read_closed(), &mut recorder)?;
            }
        }
    }

    /// Waits for events. An open loop never sleeps: no timer of the system is fine enough.
    fn wait(&mut self, events: &mut Events, now: Instant, recorder: &Recorder) -> Result<(), Fault> {
        let timeout = match self.pacer {
            Some(_) => Duration::ZERO,
            None => recorder.until().saturating_duration_since(now),
        };
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            other => other.map_err(Fault::from),
        }
    }

    /// Makes the requests of an open loop that are due.
    fn begin_due(&mut self, now: Instant) -> Result<(), Fault> {
        while let Some((index, due)) = self.pacer.as_mut().and_then(|pacer| pacer.next(now)) {
            self.begin(index, due)?;
        }
        Ok(())
    }

    /// Makes the next request on connection `index`; its latency counts from `since`.
    fn begin(&mut self, index: usize, since: Instant) -> Result<(), Fault> {
        let link = &mut self.links[index];
        link.sequence += 1;
        link.since = Some(since);
        link.sent = 0;
        link.reply = D::Reply::default();
        self.send(index)
    }

    /// Sends what the stream takes of the outstanding request.
    fn send(&mut self, index: usize) -> Result<(), Fault> {
        let link = &mut self.links[index];
        link.socket.flush()?;
        if link.since.is_none() {
            return Ok(());
        }
        let request = self.dialogue.request(index, link.sequence);
        while link.sent < request.len() {
            match link.socket.send(&request[link.sent..])? {
                0 => break,
                count => link.sent += count,
            }
        }
        Ok(())
    }

    /// Serves an event of connection `index`.
    fn serve(&mut self, index: usize, ending: bool, recorder: &mut Recorder) -> Result<(), Fault> {
        self.send(index)?;
        loop {
            let link = &mut self.links[index];
            match link.socket.receive(&mut self.scratch)? {
                Received::Nothing => return Ok(()),
                Received::End => return Err(self.closed(index)),
                Received::Bytes(count, drained) => {
                    self.take(index, count, recorder)?;
                    if drained && !ending {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Takes the `count` bytes in the scratch buffer as part of a reply.
    fn take(&mut self, index: usize, count: usize, recorder: &mut Recorder) -> Result<(), Fault> {
        let link = &mut self.links[index];
        let bytes = &self.scratch[..count];
        let corrupted = |detail| Fault::Corrupted { connection: index, detail };
        let Some(since) = link.since else {
            return Err(corrupted(format!("{count} bytes that nobody asked for")));
        };
        let complete = self.dialogue.receive(&mut link.reply, index, link.sequence, bytes).map_err(corrupted)?;
        if !complete {
            return Ok(());
        }
        if link.sent < self.dialogue.request(index, link.sequence).len() {
            return Err(corrupted("the reply was complete before the request".to_owned()));
        }
        link.since = None;
        let now = Instant::now();
        recorder.record(now - since);
        self.follow(index, now, recorder)
    }

    /// Makes the request that follows a completed one, if one is to follow at once.
    fn follow(&mut self, index: usize, now: Instant, recorder: &mut Recorder) -> Result<(), Fault> {
        if recorder.stage(now) == Stage::Drain {
            return Ok(());
        }
        match &mut self.pacer {
            None => self.begin(index, now),
            Some(pacer) => {
                pacer.idle.push_back(index);
                Ok(())
            }
        }
    }

    fn lost(&self, index: usize) -> Fault {
        let link = &self.links[index];
        let waited_s = link.since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        Fault::Lost { connection: index, waited_s, detail: self.dialogue.progress(&link.reply) }
    }

    fn closed(&self, index: usize) -> Fault {
        let detail = self.dialogue.progress(&self.links[index].reply);
        Fault::Closed { connection: index, detail }
    }
}

/// Decides when the requests of an open loop fall due, and on which connection they go.
struct Pacer {
    start: Instant,
    /// Time between two requests, in seconds.
    interval_s: f64,
    /// Requests that have fallen due and been made.
    made: u64,
    /// Connections without a request, the longest idle one first.
    idle: VecDeque<usize>,
}

impl Pacer {
    fn new(rate: f64, connections: usize) -> Self {
        let idle = (0..connections).collect();
        Self { start: Instant::now(), interval_s: 1.0 / rate, made: 0, idle }
    }

    /// The next request to make by `now`: its connection and when it fell due.
    fn next(&mut self, now: Instant) -> Option<(usize, Instant)> {
        let due = self.start + Duration::from_secs_f64(self.made as f64 * self.interval_s);
        if due > now {
            return None;
        }
        let index = self.idle.pop_front()?;
        self.made += 1;
        Some((index, due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_request_keeps_the_time_it_fell_due() {
        let mut pacer = Pacer::new(1000.0, 1);
        let (index, first) = pacer.next(pacer.start).unwrap();
        assert_eq!((index, first), (0, pacer.start));
        let late = pacer.start + Duration::from_millis(10);
        assert_eq!(pacer.next(late), None, "the only connection is busy");
        pacer.idle.push_back(0);
        let (_, second) = pacer.next(late).unwrap();
        assert_eq!(second, pacer.start + Duration::from_millis(1));
    }
}
