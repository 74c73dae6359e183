//! `echo`: the echo server without Python.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use clap::Parser;
use zloop_bench::address::Address;
use zloop_bench::echo_server::{DatagramServer, EchoServer};

/// A single-threaded echo server. Prints `READY ADDRESS` once it listens.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen: tcp:HOST:PORT (port 0 lets the system choose) or unix:PATH.
    #[arg(long, default_value = "tcp:127.0.0.1:0")]
    listen: Address,
    /// Echo datagrams (at tcp:HOST:PORT read as an address of UDP) instead of streams.
    #[arg(long)]
    udp: bool,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    if arguments.udp {
        let server = DatagramServer::bind(&arguments.listen)?;
        ready(server.address())?;
        server.serve()
    } else {
        let server = EchoServer::bind(&arguments.listen)?;
        ready(server.address())?;
        server.serve()
    }
}

fn ready(address: &Address) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "READY {address}")?;
    stdout.flush()
}
