//! The records of one session: OpenSSL called directly, over a [`Pipe`].

use std::mem::MaybeUninit;

use super::openssl::{Bio, OpenSsl, SSL_ERROR_WANT_READ, Ssl, SslCtx};
use super::pipe::{Incoming, Pipe};

/// The most data of one record.
const RECORD_MAX: usize = 16 * 1024;

/// What a record adds to its data, to begin with; measured from then on.
const OVERHEAD: usize = 22;

/// Why an operation stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All is done, or the room is full.
    Done,
    /// The peer's next bytes are needed.
    Again,
    /// Something else, about which the session's owner has to be asked: it will say the same, in its own words.
    Ask,
}

/// A session whose bytes go through a pipe of ours.
pub struct Session {
    openssl: &'static OpenSsl,
    ssl: *mut Ssl,
    bio: *mut Bio,
    pipe: *mut Pipe,
    /// What a record adds to its data, as far as is known.
    overhead: usize,
}

// SAFETY: OpenSSL's sessions and BIOs may be used from any thread, by one at a time, which `&mut self` sees to.
unsafe impl Send for Session {}

/// What the owner of a session says of it, to be compared with what OpenSSL says.
pub struct Claims {
    /// The context that it was made from.
    pub context: *mut SslCtx,
    /// Where it reads.
    pub incoming: *mut Bio,
    /// Where it writes.
    pub outgoing: *mut Bio,
}

impl Session {
    /// Puts a pipe in the place of the session's BIOs. None if the session is not what it is said to be, or OpenSSL has
    /// no memory; it is as before then.
    ///
    /// # Safety
    /// `ssl` is a session of this library that has not begun, and its owner outlives the result.
    pub unsafe fn of(openssl: &'static OpenSsl, ssl: *mut Ssl, claims: &Claims) -> Option<Self> {
        // SAFETY: a session of this library, by the caller's promise.
        unsafe {
            let same = (openssl.SSL_get_SSL_CTX)(ssl) == claims.context
                && (openssl.SSL_get_rbio)(ssl) == claims.incoming
                && (openssl.SSL_get_wbio)(ssl) == claims.outgoing;
            if !same {
                return None;
            }
            let (bio, pipe) = Pipe::bio(openssl)?;
            // Three owners: both directions of the session, and this object.
            (openssl.BIO_up_ref)(bio);
            (openssl.BIO_up_ref)(bio);
            (openssl.SSL_set0_rbio)(ssl, bio);
            (openssl.SSL_set0_wbio)(ssl, bio);
            Some(Self { openssl, ssl, bio, pipe, overhead: OVERHEAD })
        }
    }

    /// Takes bytes of the peer.
    pub fn feed(&mut self, data: Incoming) {
        self.pipe(|pipe| pipe.feed(data));
    }

    /// How many of the peer's bytes OpenSSL has not looked at.
    pub fn unread(&mut self) -> usize {
        self.pipe(|pipe| pipe.unread())
    }

    /// Takes out the buffers that were read to their end.
    pub fn spent(&mut self) -> Vec<Incoming> {
        self.pipe(Pipe::spent)
    }

    /// How many bytes for the peer lie here. What a write put into its room is not among them.
    pub fn spilt(&mut self) -> usize {
        self.pipe(|pipe| pipe.spill().len())
    }

    /// Takes the bytes for the peer that lie here.
    pub fn take_spill<R>(&mut self, take: impl FnOnce(&[u8]) -> R) -> R {
        self.pipe(|pipe| {
            let taken = take(pipe.spill());
            pipe.clear_spill();
            taken
        })
    }

    /// How much room is surely enough for the data of what has come, or nearly so; 0 if reading would bring nothing.
    pub fn readable(&mut self) -> usize {
        let unread = self.unread();
        // SAFETY: the session is alive: its owner is.
        let (pending, begun) =
            unsafe { ((self.openssl.SSL_pending)(self.ssl), (self.openssl.SSL_has_pending)(self.ssl)) };
        let pending = usize::try_from(pending).unwrap_or(0);
        match (unread, pending) {
            (0, pending) => pending,
            // A record whose first part OpenSSL has: its data may be longer than what has come now.
            (unread, pending) if begun != 0 => unread + pending + RECORD_MAX,
            // Every record is longer than its data.
            (unread, pending) => unread.saturating_sub(OVERHEAD).max(1) + pending,
        }
    }

    /// Fills the room with data as far as what has come suffices. Says how much it filled.
    pub fn read(&mut self, room: &mut [MaybeUninit<u8>]) -> (usize, Stop) {
        let mut filled = 0;
        self.forget_errors();
        while filled < room.len() {
            let (rest, mut count) = (&mut room[filled..], 0);
            // SAFETY: the session is alive, and the room is as long as it is said to be.
            let done =
                unsafe { (self.openssl.SSL_read_ex)(self.ssl, rest.as_mut_ptr().cast(), rest.len(), &raw mut count) };
            if done != 1 {
                return (filled, self.why());
            }
            filled += count;
            // Asked in vain, OpenSSL makes an error to say so.
            // SAFETY: as above.
            if self.unread() == 0 && unsafe { (self.openssl.SSL_pending)(self.ssl) } == 0 {
                return (filled, Stop::Again);
            }
        }
        (filled, Stop::Done)
    }

    /// How much room the records of so much data take.
    pub fn room_for(&self, length: usize) -> usize {
        length + length.div_ceil(RECORD_MAX) * self.overhead
    }

    /// Turns data into records, in the room as far as they fit there. Nothing may lie here from before. Says how much of
    /// the room it filled, and how much of the data it took or why none.
    pub fn write(&mut self, data: &[u8], room: &mut [MaybeUninit<u8>]) -> (usize, Result<usize, Stop>) {
        self.forget_errors();
        let mut count = 0;
        // SAFETY: the room outlives the loan, which ends below; the session is alive and the data as long as is said.
        let done = unsafe {
            (*self.pipe).lend_room(room);
            (self.openssl.SSL_write_ex)(self.ssl, data.as_ptr().cast(), data.len(), &raw mut count)
        };
        let filled = self.pipe(Pipe::take_room);
        if done != 1 {
            return (filled, Err(self.why()));
        }
        let records = count.div_ceil(RECORD_MAX).max(1);
        let size = filled + self.spilt();
        self.overhead = size.saturating_sub(count).div_ceil(records).clamp(OVERHEAD, 512);
        (filled, Ok(count))
    }

    fn why(&self) -> Stop {
        // SAFETY: the session is alive; its last operation failed, and the errors were forgotten before it.
        let error = unsafe { (self.openssl.SSL_get_error)(self.ssl, 0) };
        if error == SSL_ERROR_WANT_READ { Stop::Again } else { Stop::Ask }
    }

    /// What others left in the thread's list of errors would be taken for this session's. There is seldom anything, and
    /// asking is cheaper than clearing the list.
    fn forget_errors(&self) {
        // SAFETY: both take nothing.
        unsafe {
            if (self.openssl.ERR_peek_error)() != 0 {
                (self.openssl.ERR_clear_error)();
            }
        }
    }

    fn pipe<R>(&mut self, body: impl FnOnce(&mut Pipe) -> R) -> R {
        // SAFETY: our reference to the BIO keeps it, and nobody calls into the session meanwhile, so nobody uses it.
        body(unsafe { &mut *self.pipe })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: gives up our own reference.
        unsafe { (self.openssl.BIO_free)(self.bio) };
    }
}
