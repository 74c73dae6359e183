//! The load generator against servers that cheat: each kind of wrong reply must end the run.
//! The servers here are plain threads with blocking sockets, so they share no code with it.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use zloop_bench::address::Address;
use zloop_bench::client::echo::Echo;
use zloop_bench::client::exchange::{self, Target};
use zloop_bench::client::http::Http;
use zloop_bench::client::{churn, datagram};
use zloop_bench::echo_server::{DatagramServer, EchoServer};
use zloop_bench::fault::Fault;
use zloop_bench::measure::{Plan, Report};
use zloop_bench::socket::Tls;

/// Replies a cheating server leaves right before it cheats.
const HONEST_REPLIES: usize = 20;

fn plan() -> Plan {
    Plan {
        warmup: Duration::from_millis(20),
        duration: Duration::from_millis(150),
        patience: Duration::from_millis(300),
        server_pid: Some(std::process::id()),
    }
}

fn target(address: SocketAddr, connections: usize, rate: Option<f64>) -> Target {
    Target { address: Address::Tcp(address), tls: None, connections, rate }
}

fn echo(address: SocketAddr, size: usize, connections: usize) -> Result<Report, Fault> {
    exchange::run(&target(address, connections, None), Echo::new(size), plan())
}

/// A server that reads messages of `size` bytes and lets `cheat` change the reply numbered
/// [`HONEST_REPLIES`] of each connection.
fn cheating(size: usize, cheat: fn(&mut TcpStream, Vec<u8>)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut message = vec![0; size];
                let mut count = 0;
                while stream.read_exact(&mut message).is_ok() {
                    count += 1;
                    if count == HONEST_REPLIES {
                        cheat(&mut stream, message.clone());
                    } else if stream.write_all(&message).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn native(address: &str) -> Address {
    let server = EchoServer::bind(&address.parse().unwrap()).unwrap();
    let address = server.address().clone();
    thread::spawn(move || server.serve());
    address
}

#[test]
fn an_honest_server_is_measured() {
    let address = cheating(700, |stream, message| stream.write_all(&message).unwrap());
    let report = echo(address, 700, 3).unwrap();
    assert!(report.requests > 100, "{report:?}");
    assert!(report.requests_per_s > 100.0, "{report:?}");
    assert!(report.latency_us.p50 > 0.0 && report.latency_us.p50 <= report.latency_us.p99);
    assert!(report.latency_us.p99 <= report.latency_us.max * 1.001);
    #[cfg(target_os = "linux")]
    assert!(report.server_cpu_us_per_request.unwrap() > 0.1, "{report:?}");
}

#[test]
fn one_corrupted_byte_is_noticed() {
    let address = cheating(700, |stream, mut message| {
        message[613] ^= 0x40;
        stream.write_all(&message).unwrap();
    });
    let fault = echo(address, 700, 3).unwrap_err();
    assert!(matches!(&fault, Fault::Corrupted { detail, .. } if detail.contains("byte 613 of 700")), "{fault}");
}

#[test]
fn one_lost_byte_at_the_end_is_noticed() {
    let address = cheating(700, |stream, message| stream.write_all(&message[..699]).unwrap());
    let fault = echo(address, 700, 1).unwrap_err();
    assert!(matches!(&fault, Fault::Lost { detail, .. } if detail.contains("699 of 700")), "{fault}");
}

#[test]
fn one_lost_byte_in_the_middle_is_noticed() {
    let address = cheating(700, |stream, mut message| {
        message.remove(350);
        stream.write_all(&message).unwrap();
    });
    let fault = echo(address, 700, 1).unwrap_err();
    assert!(matches!(fault, Fault::Corrupted { .. }), "{fault}");
}

#[test]
fn one_silent_connection_among_busy_ones_is_noticed() {
    static FIRST: std::sync::Once = std::sync::Once::new();
    let address = cheating(64, |stream, message| {
        let mut silent = false;
        FIRST.call_once(|| silent = true);
        if !silent {
            stream.write_all(&message).unwrap();
        }
    });
    let fault = echo(address, 64, 4).unwrap_err();
    assert!(matches!(&fault, Fault::Lost { detail, .. } if detail.contains("0 of 64")), "{fault}");
}

#[test]
fn one_extra_byte_is_noticed() {
    let address = cheating(700, |stream, mut message| {
        message.push(0);
        stream.write_all(&message).unwrap();
    });
    let fault = echo(address, 700, 1).unwrap_err();
    assert!(matches!(fault, Fault::Corrupted { .. }), "{fault}");
}

#[test]
fn a_stale_reply_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = vec![0; 64];
        stream.read_exact(&mut first).unwrap();
        let mut message = first.clone();
        while stream.write_all(&first).is_ok() && stream.read_exact(&mut message).is_ok() {}
    });
    let fault = echo(address, 64, 1).unwrap_err();
    assert!(matches!(fault, Fault::Corrupted { .. }), "{fault}");
}

#[test]
fn a_hang_up_is_noticed() {
    let address = cheating(700, |stream, message| {
        stream.write_all(&message[..100]).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    });
    let fault = echo(address, 700, 1).unwrap_err();
    assert!(matches!(&fault, Fault::Closed { detail, .. } if detail.contains("100 of 700")), "{fault}");
}

#[test]
fn an_open_loop_keeps_its_rate_and_charges_stalls_to_the_server() {
    let address = cheating(64, |stream, message| {
        thread::sleep(Duration::from_millis(50));
        stream.write_all(&message).unwrap();
    });
    let mut plan = plan();
    plan.warmup = Duration::ZERO;
    let report = exchange::run(&target(address, 1, Some(1000.0)), Echo::new(64), plan).unwrap();
    assert!((50..=160).contains(&report.requests), "{report:?}");
    // Some 50 requests fell due in the stall; a client that forgot them would show one slow reply.
    assert!(report.latency_us.p90 > 25_000.0, "{report:?}");
}

#[test]
fn one_stall_of_an_open_loop_spoils_its_own_slices_only() {
    let stalling = || {
        cheating(64, |stream, message| {
            thread::sleep(Duration::from_millis(40));
            stream.write_all(&message).unwrap();
        })
    };
    let plan = Plan { warmup: Duration::ZERO, duration: Duration::from_millis(500), ..plan() };
    let report = exchange::run(&target(stalling(), 1, Some(1000.0)), Echo::new(64), plan).unwrap();
    let quiet = report.latency_us.quiet_p99.unwrap();
    assert!(report.latency_us.p99 > 20_000.0 && quiet < 10_000.0, "{report:?}");
    assert_eq!(echo(stalling(), 64, 1).unwrap().latency_us.quiet_p99, None, "a closed loop has none");
}

#[test]
fn the_native_server_echoes_over_every_transport() {
    for size in [1, 1024, 1_000_000] {
        let Address::Tcp(address) = native("tcp:127.0.0.1:0") else { unreachable!() };
        assert!(echo(address, size, 8).unwrap().requests > 10, "{size}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echo");
    let address = native(&format!("unix:{}", path.display()));
    let target = Target { address, tls: None, connections: 8, rate: None };
    assert!(exchange::run(&target, Echo::new(300_000), plan()).unwrap().requests > 10);
}

#[test]
fn churn_connects_anew_for_each_message() {
    let report = churn::run(&native("tcp:127.0.0.1:0"), 10, 4, plan()).unwrap();
    assert!(report.requests > 50, "{report:?}");
    let address = cheating(10, |stream, message| stream.write_all(&message).unwrap());
    assert!(churn::run(&Address::Tcp(address), 10, 4, plan()).is_ok());
}

#[test]
fn churn_notices_corruption_and_loss() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"0123456789").unwrap();
        }
    });
    let fault = churn::run(&address, 10, 1, plan()).unwrap_err();
    assert!(matches!(fault, Fault::Corrupted { .. }), "{fault}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(silent.local_addr().unwrap());
    let mut plan = plan();
    plan.duration = Duration::from_secs(5);
    let fault = churn::run(&address, 10, 1, plan).unwrap_err();
    assert!(matches!(fault, Fault::Lost { .. }), "{fault}");
}

/// A UDP server that answers each datagram with what `reply` makes of it.
fn datagrams(mut reply: impl FnMut(usize, &mut Vec<u8>) -> bool + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        for number in 0.. {
            let (count, peer) = socket.recv_from(&mut buffer).unwrap();
            let mut message = buffer[..count].to_vec();
            if reply(number, &mut message) {
                socket.send_to(&message, peer).unwrap();
            }
        }
    });
    address
}

#[test]
fn udp_counts_losses_and_notices_corruption() {
    let server = DatagramServer::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
    let Address::Tcp(address) = server.address().clone() else { unreachable!() };
    thread::spawn(move || server.serve());
    let report = datagram::run(address, 500, 4, plan()).unwrap();
    assert!(report.requests > 50 && report.lost == 0, "{report:?}");

    let dropping = datagrams(|number, _| number != HONEST_REPLIES);
    let mut patient = plan();
    patient.duration = Duration::from_millis(500);
    let report = datagram::run(dropping, 500, 1, patient).unwrap();
    assert_eq!(report.lost, 1, "{report:?}");

    let corrupting = datagrams(|number, message| {
        message[499] ^= u8::from(number == HONEST_REPLIES);
        true
    });
    let fault = datagram::run(corrupting, 500, 1, plan()).unwrap_err();
    assert!(matches!(fault, Fault::Corrupted { .. }), "{fault}");
}

/// An HTTP server whose replies come from `body`, given their number.
fn http_server(tls: Option<rustls::ServerConfig>, body: fn(usize) -> Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let tls = tls.map(std::sync::Arc::new);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let tls = tls.clone();
            thread::spawn(move || match tls {
                None => talk(stream, body),
                Some(config) => {
                    let connection = rustls::ServerConnection::new(config).unwrap();
                    talk(rustls::StreamOwned::new(connection, stream), body);
                }
            });
        }
    });
    address
}

fn talk(mut stream: impl Read + Write, body: fn(usize) -> Vec<u8>) {
    let mut buffer = [0; 4096];
    for number in 0.. {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => request.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        }
        assert!(request.starts_with(b"GET /some/path HTTP/1.1\r\n"));
        let body = body(number);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).is_err() {
            return;
        }
        let _ = stream.flush();
    }
}

fn get(address: SocketAddr, tls: Option<Tls>, length: usize) -> Result<Report, Fault> {
    let target = Target { address: Address::Tcp(address), tls, connections: 2, rate: None };
    exchange::run(&target, Http::get("/some/path", "localhost", Some(length)), plan())
}

#[test]
fn http_replies_are_measured_and_compared() {
    let honest = http_server(None, |_| vec![b'x'; 100_000]);
    assert!(get(honest, None, 100_000).unwrap().requests > 20);
    assert!(get(honest, None, 99_999).is_err());

    let changing = http_server(None, |number| {
        let mut body = vec![b'x'; 100_000];
        body[99_999] = if number == HONEST_REPLIES { b'y' } else { b'x' };
        body
    });
    let fault = get(changing, None, 100_000).unwrap_err();
    assert!(matches!(fault, Fault::Corrupted { .. }), "{fault}");
}

/// A server's configuration with a fresh certificate, and the file that holds the certificate.
fn certificate(folder: &Path) -> (rustls::ServerConfig, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = folder.join("certificate.pem");
    std::fs::write(&file, made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (config, file)
}

#[test]
fn https_is_measured_and_the_certificate_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (config, file) = certificate(folder.path());
    let server = http_server(Some(config), |_| vec![b'x'; 300_000]);
    let tls = Tls::trusting(&file, "localhost").unwrap();
    assert!(get(server, Some(tls), 300_000).unwrap().requests > 5);
    let wrong_name = Tls::trusting(&file, "example.org").unwrap();
    assert!(get(server, Some(wrong_name), 300_000).is_err());
}

#[test]
fn the_commands_work_together() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let mut server = Command::new(env!("CARGO_BIN_EXE_echo")).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("READY ").unwrap();
    let load = |address: &str| {
        let pid = server.id().to_string();
        let times = ["--warmup", "0", "--duration", "0.1", "--server-pid", &pid];
        Command::new(env!("CARGO_BIN_EXE_load")).args(["echo", "--connect", address]).args(times).output().unwrap()
    };
    let output = load(address);
    let refused = load("tcp:127.0.0.1:1");
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["requests"].as_u64().unwrap() > 10, "{report}");
    #[cfg(target_os = "linux")]
    assert!(report["server_cpu_us_per_request"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["core_wait_share"].as_f64().is_some(), "{report}");
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.is_empty() && refused.stderr.starts_with(b"load: "));
}
