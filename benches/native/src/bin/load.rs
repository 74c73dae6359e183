//! `load`: the load generator. One JSON object on stdout; a fault goes to stderr, with status 1.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use zloop_bench::address::Address;
use zloop_bench::client::echo::Echo;
use zloop_bench::client::exchange::{self, Target};
use zloop_bench::client::http::Http;
use zloop_bench::client::websocket::WebSocket;
use zloop_bench::client::{churn, datagram};
use zloop_bench::measure::{Plan, Report};
use zloop_bench::socket::Tls;

/// Measures a server with a single-threaded, checking client.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Subcommand)]
enum Workload {
    /// Send messages over streams and expect each one back.
    Echo {
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        streams: Streams,
        /// Bytes per message.
        #[arg(long, default_value_t = 1024, value_parser = size)]
        size: usize,
    },
    /// Send one HTTP/1.1 request over and over, over connections that are kept alive.
    Http {
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        streams: Streams,
        /// What to get.
        #[arg(long, default_value = "/")]
        path: String,
        /// A file whose bytes are sent as the request, instead of a GET of --path.
        #[arg(long)]
        request: Option<PathBuf>,
        /// Bytes that every body must have; otherwise the first reply sets the standard.
        #[arg(long)]
        body: Option<usize>,
    },
    /// Send binary messages over WebSockets and expect each one back.
    Websocket {
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        streams: Streams,
        /// Bytes per message.
        #[arg(long, default_value_t = 1024, value_parser = size)]
        size: usize,
    },
    /// Send datagrams and expect each one back. --connect tcp:HOST:PORT is read as UDP.
    Udp {
        #[command(flatten)]
        server: Server,
        /// Bytes per datagram.
        #[arg(long, default_value_t = 1024, value_parser = size)]
        size: usize,
    },
    /// Connect, send one message, expect it back, close; over and over.
    Churn {
        #[command(flatten)]
        server: Server,
        /// Bytes per message.
        #[arg(long, default_value_t = 1, value_parser = size)]
        size: usize,
    },
}

#[derive(Args)]
struct Server {
    /// Where the server listens: tcp:HOST:PORT or unix:PATH.
    #[arg(long)]
    connect: Address,
    /// How many connections (or sockets) to keep busy.
    #[arg(long, default_value_t = 8, value_parser = size)]
    connections: usize,
    /// Seconds of load before anything counts.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    warmup: f64,
    /// Seconds that count.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    duration: f64,
    /// Seconds to wait for a reply before it is called lost.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    patience: f64,
    /// The server's process, whose CPU time is reported too.
    #[arg(long)]
    server_pid: Option<u32>,
}

#[derive(Args)]
struct Streams {
    /// Requests per second over all connections, whatever the server does (an open loop), instead
    /// of one request per connection at a time (a closed loop).
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Speak TLS and trust only the certificates in this PEM file.
    #[arg(long)]
    tls_ca: Option<PathBuf>,
    /// The name that the server's certificate must carry.
    #[arg(long, default_value = "localhost")]
    tls_name: String,
}

fn main() -> ExitCode {
    let report = run(Arguments::parse().workload);
    match report.and_then(|report| Ok(serde_json::to_string(&report)?)) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(workload: Workload) -> Result<Report, Box<dyn Error>> {
    match workload {
        Workload::Echo { server, streams, size } => {
            Ok(exchange::run(&target(&server, &streams)?, Echo::new(size), server.plan())?)
        }
        Workload::Http { server, streams, path, request, body } => {
            let dialogue = match request {
                Some(file) => Http::new(std::fs::read(file)?, body),
                None => Http::get(&path, &streams.tls_name, body),
            };
            Ok(exchange::run(&target(&server, &streams)?, dialogue, server.plan())?)
        }
        Workload::Websocket { server, streams, size } => {
            let dialogue = WebSocket::new(size, &streams.tls_name);
            Ok(exchange::run(&target(&server, &streams)?, dialogue, server.plan())?)
        }
        Workload::Udp { server, size } => match &server.connect {
            Address::Tcp(to) => Ok(datagram::run(*to, size, server.connections, server.plan())?),
            Address::Unix(_) => Err("datagrams need HOST:PORT".into()),
        },
        Workload::Churn { server, size } => Ok(churn::run(&server.connect, size, server.connections, server.plan())?),
    }
}

fn target(server: &Server, streams: &Streams) -> Result<Target, Box<dyn Error>> {
    let tls = match &streams.tls_ca {
        Some(authority) => Some(Tls::trusting(authority, &streams.tls_name)?),
        None => None,
    };
    Ok(Target { address: server.connect.clone(), tls, connections: server.connections, rate: streams.rate })
}

impl Server {
    fn plan(&self) -> Plan {
        Plan {
            warmup: Duration::from_secs_f64(self.warmup),
            duration: Duration::from_secs_f64(self.duration),
            patience: Duration::from_secs_f64(self.patience),
            server_pid: self.server_pid,
        }
    }
}

fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(size) => Ok(size),
        Err(error) => Err(format!("{error}")),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from_secs_f64(seconds).map(|_| seconds).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        Ok(_) => Err("must be more than 0".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}
