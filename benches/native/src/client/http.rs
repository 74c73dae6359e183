//! The dialogue of HTTP/1.1 with keep-alive: one request over and over, whose reply must have
//! status 200, a `Content-Length`, and the same body every time.
#![forbid(unsafe_code)]

use crate::client::exchange::Dialogue;

/// The longest head of a reply that is accepted, in bytes.
const HEAD_MAX: usize = 16 * 1024;
/// The most header lines in one reply.
const HEADERS_MAX: usize = 64;

/// Sends one request and checks its replies.
pub struct Http {
    request: Vec<u8>,
    /// The length every body must have, if it is known beforehand.
    expected: Option<usize>,
    /// The first body that came, which all others must equal.
    body: Option<Vec<u8>>,
}

impl Http {
    /// Sends `request` as it is. Bodies must be `expected` bytes long, if that is given.
    pub fn new(request: Vec<u8>, expected: Option<usize>) -> Self {
        Self { request, expected, body: None }
    }

    /// A plain `GET` of `path` from `host`.
    pub fn get(path: &str, host: &str, expected: Option<usize>) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n");
        Self::new(request.into_bytes(), expected)
    }

    /// Compares `bytes`, at offset `at` of a body of `length` bytes, with the first body.
    fn compare(&self, at: usize, length: usize, bytes: &[u8]) -> Result<(), String> {
        let known = self.body.as_deref().unwrap_or_default();
        if known.len() != length {
            return Err(format!("the body has {length} bytes, the first had {}", known.len()));
        }
        match known.get(at..at + bytes.len()) {
            Some(expected) if expected == bytes => Ok(()),
            _ => Err(format!("the body differs from the first one at or after byte {at}")),
        }
    }

    /// Takes a whole `body` as the one to compare with, unless another came first.
    fn adopt(&mut self, body: Vec<u8>) -> Result<(), String> {
        if self.body.is_some() {
            return self.compare(0, body.len(), &body);
        }
        self.body = Some(body);
        Ok(())
    }
}

/// How far a reply has come.
#[derive(Default)]
pub struct Reply {
    /// The head, while it is incomplete.
    head: Vec<u8>,
    /// Length of the body, once the head is complete.
    length: Option<usize>,
    /// Bytes of the body that have come.
    came: usize,
    /// The body itself, if there was none to compare with when it began.
    kept: Option<Vec<u8>>,
}

impl Dialogue for Http {
    type Reply = Reply;

    fn request(&self, _connection: usize, _sequence: u64) -> &[u8] {
        &self.request
    }

    fn receive(&mut self, reply: &mut Reply, _connection: usize, _sequence: u64, bytes: &[u8]) -> Result<bool, String> {
        let mut bytes = bytes;
        let length = match reply.length {
            Some(length) => length,
            None => {
                let Some((length, rest)) = head(reply, bytes)? else { return Ok(false) };
                if self.expected.is_some_and(|expected| expected != length) {
                    return Err(format!("the body has {length} bytes"));
                }
                reply.kept = self.body.is_none().then(Vec::new);
                bytes = rest;
                length
            }
        };
        if reply.came + bytes.len() > length {
            return Err(format!("{} bytes after the end", reply.came + bytes.len() - length));
        }
        let at = reply.came;
        reply.came += bytes.len();
        let complete = reply.came == length;
        match &mut reply.kept {
            None => self.compare(at, length, bytes)?,
            Some(kept) => {
                kept.extend_from_slice(bytes);
                if complete {
                    let body = std::mem::take(kept);
                    self.adopt(body)?;
                }
            }
        }
        Ok(complete)
    }

    fn progress(&self, reply: &Reply) -> String {
        match reply.length {
            Some(length) => format!("{} of {length} bytes of the body came", reply.came),
            None => format!("{} bytes of the head came", reply.head.len()),
        }
    }
}

/// Adds `bytes` to the head; once it is complete, returns the length of the body and those of
/// `bytes` that belong to it.
fn head<'a>(reply: &mut Reply, bytes: &'a [u8]) -> Result<Option<(usize, &'a [u8])>, String> {
    let before = reply.head.len();
    // Nearly always the whole head is in one piece and needs no copy.
    let parsed = if before == 0 {
        parse_head(bytes)?
    } else {
        reply.head.extend_from_slice(bytes);
        parse_head(&reply.head)?
    };
    match parsed {
        Some((head_length, body_length)) => {
            reply.length = Some(body_length);
            Ok(Some((body_length, &bytes[head_length - before..])))
        }
        None => {
            if before == 0 {
                reply.head.extend_from_slice(bytes);
            }
            if reply.head.len() > HEAD_MAX {
                return Err(format!("a head of more than {HEAD_MAX} bytes"));
            }
            Ok(None)
        }
    }
}

/// Lengths of a complete head and of the body it announces.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_length = match response.parse(bytes).map_err(|error| error.to_string())? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    if response.code != Some(200) {
        return Err(format!("status {:?}", response.code));
    }
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
    match length {
        Some(length) => Ok(Some((head_length, length))),
        None => Err("no usable Content-Length".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

    /// Feeds `pieces` as one reply.
    fn feed(http: &mut Http, pieces: &[&[u8]]) -> Result<bool, String> {
        let mut reply = Reply::default();
        let mut done = false;
        for piece in pieces {
            assert!(!done, "complete before its end");
            done = http.receive(&mut reply, 0, 0, piece)?;
        }
        Ok(done)
    }

    #[test]
    fn a_reply_may_come_in_any_two_pieces() {
        for at in 1..REPLY.len() {
            let mut http = Http::get("/", "localhost", Some(5));
            assert_eq!(feed(&mut http, &[&REPLY[..at], &REPLY[at..]]), Ok(true), "cut at {at}");
            assert_eq!(feed(&mut http, &[REPLY]), Ok(true));
            assert_eq!(feed(&mut http, &[&REPLY[..at], &REPLY[at..]]), Ok(true), "cut at {at}");
        }
    }

    #[test]
    fn first_bodies_of_two_connections_may_overlap() {
        let mut http = Http::get("/", "localhost", None);
        let (mut one, mut two) = (Reply::default(), Reply::default());
        assert_eq!(http.receive(&mut one, 0, 0, &REPLY[..40]), Ok(false));
        assert_eq!(http.receive(&mut two, 1, 0, &REPLY[..41]), Ok(false));
        assert_eq!(http.receive(&mut one, 0, 0, &REPLY[40..]), Ok(true));
        assert_eq!(http.receive(&mut two, 1, 0, &REPLY[41..42]), Ok(false));
        assert_eq!(http.receive(&mut two, 1, 0, &REPLY[42..]), Ok(true));
    }

    #[test]
    fn wrong_replies_are_refused() {
        let wrong: [&[u8]; 6] = [
            b"HTTP/1.1 500 No\r\ncontent-length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello!",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhellO",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello!",
            b"nonsense\r\n\r\n",
        ];
        for reply in wrong {
            let mut http = Http::get("/", "localhost", None);
            assert_eq!(feed(&mut http, &[REPLY]), Ok(true));
            assert!(feed(&mut http, &[reply]).is_err(), "{}", reply.escape_ascii());
        }
        let mut http = Http::get("/", "localhost", Some(20));
        assert!(feed(&mut http, &[REPLY]).is_err());
    }
}
