//! The dialogue of an echo over WebSockets (RFC 6455): the first request of a connection is the
//! handshake, all others are binary messages of one frame each that must come back likewise.
#![forbid(unsafe_code)]

use crate::client::exchange::Dialogue;
use crate::payload::{Payload, VARIANTS, variant};

/// The number that the exchange gives a connection's first request.
const HANDSHAKE: u64 = 1;
/// The key and the answer that the RFC has as its example.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Clients must mask what they send. Servers must not care with what.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// First byte of a binary message's only frame.
const WHOLE_BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
/// The longest head of a handshake's reply that is accepted, in bytes.
const HEAD_MAX: usize = 4096;
const HEADERS_MAX: usize = 32;

/// Sends the messages of a [`Payload`] in frames and expects them back.
pub struct WebSocket {
    payload: Payload,
    handshake: Vec<u8>,
    /// A masked frame for each variant of the payload: none is made while measuring.
    frames: Vec<Vec<u8>>,
    /// What precedes the payload in every reply.
    head: Vec<u8>,
}

impl WebSocket {
    /// Messages of `size` bytes for the server called `host`.
    pub fn new(size: usize, host: &str) -> Self {
        let payload = Payload::new(size);
        let handshake = format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        let frames = (0..VARIANTS).map(|variant| masked(payload.content(variant))).collect();
        Self { payload, handshake: handshake.into_bytes(), frames, head: head(size, 0) }
    }
}

/// How far a reply has come.
#[derive(Default)]
pub struct Reply {
    /// The reply to the handshake, while it is incomplete.
    handshake: Vec<u8>,
    /// Bytes of a frame that have come, its head included.
    came: usize,
}

impl Dialogue for WebSocket {
    type Reply = Reply;

    fn request(&self, connection: usize, sequence: u64) -> &[u8] {
        if sequence == HANDSHAKE { &self.handshake } else { &self.frames[variant(connection, sequence)] }
    }

    fn receive(&mut self, reply: &mut Reply, connection: usize, sequence: u64, bytes: &[u8]) -> Result<bool, String> {
        if sequence == HANDSHAKE {
            reply.handshake.extend_from_slice(bytes);
            return accepted(&reply.handshake);
        }
        let known = reply.came.min(self.head.len());
        let (of_head, of_payload) = bytes.split_at(bytes.len().min(self.head.len() - known));
        let expected = &self.head[known..known + of_head.len()];
        if of_head != expected {
            return Err(format!("a frame with {of_head:02x?} in its head instead of {expected:02x?}"));
        }
        let sent = self.payload.message(connection, sequence);
        self.payload.verify(sent, reply.came.saturating_sub(self.head.len()), of_payload)?;
        reply.came += bytes.len();
        Ok(reply.came == self.head.len() + self.payload.size())
    }

    fn progress(&self, reply: &Reply) -> String {
        format!("{} bytes of a frame came", reply.came + reply.handshake.len())
    }
}

/// The head of a frame for `size` bytes; `mask` is 0 or [`MASKED`].
fn head(size: usize, mask: u8) -> Vec<u8> {
    let mut head = vec![WHOLE_BINARY];
    match (u8::try_from(size), u16::try_from(size)) {
        (Ok(size @ 0..126), _) => head.push(size | mask),
        (_, Ok(size)) => {
            head.push(126 | mask);
            head.extend_from_slice(&size.to_be_bytes());
        }
        _ => {
            head.push(127 | mask);
            head.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    head
}

/// A whole frame as a client sends it.
fn masked(message: &[u8]) -> Vec<u8> {
    let mut frame = head(message.len(), MASKED);
    frame.extend_from_slice(&MASK);
    frame.extend(message.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Whether `bytes` are the whole reply of a server that accepts the handshake, or not all of it yet.
fn accepted(bytes: &[u8]) -> Result<bool, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes).map_err(|error| error.to_string())? {
        httparse::Status::Partial if bytes.len() > HEAD_MAX => Err(format!("a head of more than {HEAD_MAX} bytes")),
        httparse::Status::Partial => Ok(false),
        httparse::Status::Complete(_) if response.code != Some(101) => Err(format!("status {:?}", response.code)),
        httparse::Status::Complete(length) if length < bytes.len() => Err("a frame that nobody asked for".to_owned()),
        httparse::Status::Complete(_) => {
            let proof = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("sec-websocket-accept"));
            match proof {
                Some(header) if header.value == ACCEPT => Ok(true),
                _ => Err("no proof that the server read the handshake".to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    /// What a server sends back for a frame of ours.
    fn echoed(socket: &WebSocket, connection: usize, sequence: u64) -> Vec<u8> {
        let mut frame = head(socket.payload.size(), 0);
        frame.extend_from_slice(socket.payload.message(connection, sequence));
        frame
    }

    #[test]
    fn a_frame_may_come_in_any_two_pieces_and_wrong_ones_are_refused() {
        for size in [1, 125, 126, 300, 70_000] {
            let mut socket = WebSocket::new(size, "localhost");
            let frame = echoed(&socket, 3, 9);
            for at in (1..frame.len()).take(20).chain([frame.len() - 1]) {
                let mut reply = Reply::default();
                assert_eq!(socket.receive(&mut reply, 3, 9, &frame[..at]), Ok(false), "{size} cut at {at}");
                assert_eq!(socket.receive(&mut reply, 3, 9, &frame[at..]), Ok(true), "{size} cut at {at}");
            }
            for at in [0, 1, frame.len() - 1] {
                let mut wrong = frame.clone();
                wrong[at] ^= 1;
                assert!(socket.receive(&mut Reply::default(), 3, 9, &wrong).is_err(), "{size} wrong at {at}");
            }
            let longer = [&frame[..], b"x"].concat();
            assert!(socket.receive(&mut Reply::default(), 3, 9, &longer).is_err());
        }
    }

    #[test]
    fn a_frame_is_masked_and_says_its_length() {
        let frame = masked(b"Hello");
        assert_eq!(frame, [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        assert_eq!(head(300, 0), [0x82, 126, 1, 44]);
        assert_eq!(head(70_000, MASKED), [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }

    #[test]
    fn only_a_whole_proven_handshake_counts() {
        let mut socket = WebSocket::new(8, "localhost");
        let mut reply = Reply::default();
        assert_eq!(socket.receive(&mut reply, 0, HANDSHAKE, &REPLY[..50]), Ok(false));
        assert_eq!(socket.receive(&mut reply, 0, HANDSHAKE, &REPLY[50..]), Ok(true));
        let other = String::from_utf8_lossy(REPLY).replace("s3pP", "S3pP");
        assert!(accepted(other.as_bytes()).is_err());
        assert!(accepted(&[REPLY, b"x"].concat()).is_err());
        assert!(accepted(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
