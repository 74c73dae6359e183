//! The dialogue of an echo: what was sent must come back, no more and no less.
#![forbid(unsafe_code)]

use crate::client::exchange::Dialogue;
use crate::payload::Payload;

/// Sends the messages of a [`Payload`] and expects them back.
pub struct Echo {
    payload: Payload,
}

impl Echo {
    /// Messages of `size` bytes.
    pub fn new(size: usize) -> Self {
        Self { payload: Payload::new(size) }
    }
}

impl Dialogue for Echo {
    /// Bytes of the reply seen so far.
    type Reply = usize;

    fn request(&self, connection: usize, sequence: u64) -> &[u8] {
        self.payload.message(connection, sequence)
    }

    fn receive(&mut self, reply: &mut usize, connection: usize, sequence: u64, bytes: &[u8]) -> Result<bool, String> {
        let sent = self.payload.message(connection, sequence);
        self.payload.verify(sent, *reply, bytes)?;
        *reply += bytes.len();
        Ok(*reply == sent.len())
    }

    fn progress(&self, reply: &usize) -> String {
        format!("{reply} of {} bytes came", self.payload.size())
    }
}
