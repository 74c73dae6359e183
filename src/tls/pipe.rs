//! The two ends of a session's ciphertext, as a BIO: OpenSSL reads the peer's bytes from the buffers in which they came,
//! and writes into the place where the transport wants them.
//!
//! The BIO owns the [`Pipe`]: whoever keeps the session keeps both. The callbacks run while Python is let go of, as in
//! handshakes, so they neither drop nor make anything of Python's.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::mem::MaybeUninit;

use super::openssl::{BIO_CTRL_FLUSH, Bio, OpenSsl, READ_LATER, RETRY_FLAGS};

/// A buffer of the peer's bytes. It can be read from any thread.
pub type Incoming = Box<dyn AsRef<[u8]> + Send + Sync>;

/// Above so many bytes an empty spill gives its memory back.
const SPILL_KEPT: usize = 4 * 1024;

/// What the BIO knows.
pub struct Pipe {
    /// The peer's bytes, in the buffers in which they came.
    incoming: Vec<Incoming>,
    /// The first buffer that is not read to its end, and how far it is.
    at: (usize, usize),
    /// Bytes in all buffers that are not read.
    unread: usize,
    /// Where records go while a write lends its room: the place, its size, and how much of it is filled.
    room: (*mut u8, usize, usize),
    /// Records that had no such place.
    spill: Vec<u8>,
}

impl Pipe {
    /// Makes a BIO around an empty pipe; None if OpenSSL does not.
    pub fn bio(openssl: &OpenSsl) -> Option<(*mut Bio, *mut Self)> {
        let room = (std::ptr::null_mut(), 0, 0);
        let pipe = Self { incoming: Vec::new(), at: (0, 0), unread: 0, room, spill: Vec::new() };
        // SAFETY: the method was made by this library; the BIO takes the pipe over and frees it in `destroy`.
        unsafe {
            let bio = (openssl.BIO_new)(openssl.method);
            if bio.is_null() {
                return None;
            }
            let pipe = Box::into_raw(Box::new(pipe));
            (openssl.BIO_set_data)(bio, pipe.cast());
            (openssl.BIO_set_init)(bio, 1);
            Some((bio, pipe))
        }
    }

    /// Adds bytes of the peer.
    pub fn feed(&mut self, data: Incoming) {
        self.unread += (*data).as_ref().len();
        self.incoming.push(data);
    }

    /// How many of the peer's bytes are not read.
    pub fn unread(&self) -> usize {
        self.unread
    }

    /// Takes out the buffers that were read to their end.
    pub fn spent(&mut self) -> Vec<Incoming> {
        let (read, within) = self.at;
        self.at = (0, within);
        if read == self.incoming.len() {
            return std::mem::take(&mut self.incoming);
        }
        self.incoming.drain(..read).collect()
    }

    /// Lends a place for records, until [`Pipe::take_room`]. Bytes before it must have been taken.
    ///
    /// # Safety
    /// The place stays valid, and nobody else uses it, until it is taken back.
    pub unsafe fn lend_room(&mut self, room: &mut [MaybeUninit<u8>]) {
        debug_assert!(self.spill.is_empty(), "earlier bytes would come later");
        self.room = (room.as_mut_ptr().cast(), room.len(), 0);
    }

    /// Ends the loan; says how much of the place is filled.
    pub fn take_room(&mut self) -> usize {
        std::mem::replace(&mut self.room, (std::ptr::null_mut(), 0, 0)).2
    }

    /// Records that had no place.
    pub fn spill(&self) -> &[u8] {
        &self.spill
    }

    /// They were taken.
    pub fn clear_spill(&mut self) {
        if self.spill.capacity() > SPILL_KEPT { self.spill = Vec::new() } else { self.spill.clear() }
    }

    fn read(&mut self, mut room: &mut [MaybeUninit<u8>]) -> usize {
        let mut count = 0;
        while let Some(buffer) = self.incoming.get(self.at.0).filter(|_| !room.is_empty()) {
            let rest = &(**buffer).as_ref()[self.at.1..];
            let part = rest.len().min(room.len());
            let (filled, free) = room.split_at_mut(part);
            // SAFETY: both are `part` bytes long, and initialised bytes are valid where any may be.
            unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), filled.as_mut_ptr().cast(), part) };
            room = free;
            count += part;
            self.at = if part == rest.len() { (self.at.0 + 1, 0) } else { (self.at.0, self.at.1 + part) };
        }
        self.unread -= count;
        count
    }

    fn write(&mut self, data: &[u8]) {
        let (place, size, filled) = self.room;
        if data.is_empty() {
            return;
        }
        if self.spill.is_empty() && data.len() <= size - filled {
            // SAFETY: the room was lent, and this much of it is free.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), place.add(filled), data.len()) };
            self.room.2 += data.len();
        } else {
            self.spill.extend_from_slice(data);
        }
    }
}

/// The pipe of a BIO.
///
/// # Safety
/// `bio` is one of [`Pipe::bio`]'s that has not been freed, and nobody else uses its pipe.
unsafe fn pipe_of<'a>(openssl: &OpenSsl, bio: *mut Bio) -> Option<&'a mut Pipe> {
    // SAFETY: the caller's promise; `Pipe::bio` put it there, and until then there is NULL.
    unsafe { (openssl.BIO_get_data)(bio).cast::<Pipe>().as_mut() }
}

/// OpenSSL wants bytes of the peer.
///
/// # Safety
/// As OpenSSL calls it: `room` has space for `size` bytes. The thread that calls into the session has the pipe.
pub unsafe extern "C" fn read(bio: *mut Bio, room: *mut c_char, size: c_int) -> c_int {
    let Some(openssl) = OpenSsl::known() else { return -1 };
    // SAFETY: OpenSSL's promise, and the session's: nobody uses its pipe while it calls into OpenSSL.
    unsafe {
        (openssl.BIO_clear_flags)(bio, RETRY_FLAGS);
        let (Some(pipe), Ok(size)) = (pipe_of(openssl, bio), usize::try_from(size)) else { return -1 };
        if room.is_null() || size == 0 {
            return 0;
        }
        let count = pipe.read(std::slice::from_raw_parts_mut(room.cast(), size));
        if count == 0 {
            (openssl.BIO_set_flags)(bio, READ_LATER);
            return -1;
        }
        count as c_int
    }
}

/// OpenSSL has bytes for the peer. It never has to wait.
///
/// # Safety
/// As OpenSSL calls it: `data` has `size` bytes. The thread that calls into the session has the pipe.
pub unsafe extern "C" fn write(bio: *mut Bio, data: *const c_char, size: c_int) -> c_int {
    let Some(openssl) = OpenSsl::known() else { return -1 };
    // SAFETY: as for `read`.
    unsafe {
        (openssl.BIO_clear_flags)(bio, RETRY_FLAGS);
        let (Some(pipe), Ok(length)) = (pipe_of(openssl, bio), usize::try_from(size)) else { return -1 };
        if data.is_null() {
            return 0;
        }
        pipe.write(std::slice::from_raw_parts(data.cast(), length));
    }
    size
}

/// Questions that OpenSSL asks of any BIO. Only "send what you hold" has an answer: there is nothing held.
///
/// # Safety
/// None: it looks at nothing.
pub unsafe extern "C" fn control(_bio: *mut Bio, command: c_int, _number: c_long, _pointer: *mut c_void) -> c_long {
    c_long::from(command == BIO_CTRL_FLUSH)
}

/// The last owner has let go of the BIO.
///
/// # Safety
/// As OpenSSL calls it: once, with nobody left to use the BIO.
pub unsafe extern "C" fn destroy(bio: *mut Bio) -> c_int {
    let Some(openssl) = OpenSsl::known() else { return 0 };
    // SAFETY: `Pipe::bio` gave the box away, and this is the end of it.
    unsafe {
        let pipe = (openssl.BIO_get_data)(bio).cast::<Pipe>();
        (openssl.BIO_set_data)(bio, std::ptr::null_mut());
        if !pipe.is_null() {
            drop(Box::from_raw(pipe));
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(parts: &[&'static str]) -> Pipe {
        let room = (std::ptr::null_mut(), 0, 0);
        let mut pipe = Pipe { incoming: Vec::new(), at: (0, 0), unread: 0, room, spill: Vec::new() };
        parts.iter().for_each(|part| pipe.feed(Box::new(*part)));
        pipe
    }

    fn read(pipe: &mut Pipe, size: usize) -> Vec<u8> {
        let mut room = vec![MaybeUninit::new(0); size];
        let count = pipe.read(&mut room);
        // SAFETY: all of it was initialised.
        room[..count].iter().map(|byte| unsafe { byte.assume_init() }).collect()
    }

    #[test]
    fn bytes_come_out_in_order_whatever_the_sizes() {
        for size in 1..12 {
            let mut pipe = pipe(&["one", "two", "three"]);
            let mut all = Vec::new();
            while pipe.unread() > 0 {
                all.extend(read(&mut pipe, size));
                drop(pipe.spent());
            }
            assert_eq!(all, b"onetwothree");
            assert!(read(&mut pipe, size).is_empty());
        }
    }

    #[test]
    fn a_buffer_read_in_part_is_kept() {
        let mut pipe = pipe(&["one", "two"]);
        assert_eq!(read(&mut pipe, 4), b"onet");
        assert_eq!(pipe.spent().len(), 1);
        assert_eq!(pipe.unread(), 2);
        assert_eq!(read(&mut pipe, 9), b"wo");
        assert_eq!(pipe.spent().len(), 1);
    }

    #[test]
    fn what_does_not_fit_is_spilt_and_so_is_all_behind_it() {
        let mut pipe = pipe(&[]);
        let mut room = [MaybeUninit::new(0); 5];
        // SAFETY: the room outlives the loan.
        unsafe { pipe.lend_room(&mut room) };
        for part in ["abc", "defg", "h"] {
            pipe.write(part.as_bytes());
        }
        assert_eq!(pipe.take_room(), 3);
        assert_eq!(pipe.spill(), b"defgh");
        pipe.write(b"i");
        assert_eq!(pipe.spill(), b"defghi");
    }
}
