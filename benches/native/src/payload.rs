//! Message contents that make a lost, stale, swapped or corrupted byte visible.
#![forbid(unsafe_code)]

/// How many different messages there are. Odd and prime, so that it shares no factor with the
/// number of connections or with the size of anybody's buffer.
pub const VARIANTS: usize = 251;

/// Messages of one size: slices, at moving offsets, of one string of noise.
///
/// Neighbouring messages of a connection, and messages of neighbouring connections at the same
/// time, differ in nearly every byte; none has to be copied or generated while measuring.
pub struct Payload {
    noise: Vec<u8>,
    size: usize,
}

impl Payload {
    /// Messages of `size` bytes.
    ///
    /// # Panics
    /// If `size` is 0: an echo of nothing cannot be waited for.
    pub fn new(size: usize) -> Self {
        assert!(size > 0, "a message must have at least one byte");
        let noise = noise(size + VARIANTS);
        Self { noise, size }
    }

    /// Bytes per message.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Message number `sequence` of connection `connection`.
    pub fn message(&self, connection: usize, sequence: u64) -> &[u8] {
        self.content(variant(connection, sequence))
    }

    /// The message of a [`variant`].
    pub fn content(&self, variant: usize) -> &[u8] {
        &self.noise[variant..variant + self.size]
    }

    /// Compares `bytes`, which start at offset `at` of the reply, with what was sent; says where
    /// they differ.
    pub fn verify(&self, sent: &[u8], at: usize, bytes: &[u8]) -> Result<(), String> {
        let Some(expected) = sent.get(at..at + bytes.len()) else {
            let extra = at + bytes.len() - sent.len();
            return Err(format!("{extra} bytes more than the {} sent", sent.len()));
        };
        if expected == bytes {
            return Ok(());
        }
        let wrong = expected.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(0);
        Err(format!(
            "byte {} of {} is {:#04x} instead of {:#04x}",
            at + wrong,
            self.size,
            bytes[wrong],
            expected[wrong]
        ))
    }
}

/// Which of the [`VARIANTS`] is message number `sequence` of connection `connection`.
pub fn variant(connection: usize, sequence: u64) -> usize {
    let sequence = (sequence % VARIANTS as u64) as usize;
    (connection * 61 + sequence) % VARIANTS
}

/// SplitMix64: the same noise in every run, with no period that a buffer size could hide in.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x7a6c_6f6f_7000_0001_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_messages_differ() {
        let payload = Payload::new(1024);
        let first = payload.message(0, 0);
        assert_ne!(first, payload.message(0, 1));
        assert_ne!(first, payload.message(1, 0));
        assert_eq!(first, payload.message(0, VARIANTS as u64));
    }

    #[test]
    fn every_wrong_byte_is_found() {
        let payload = Payload::new(300);
        let sent = payload.message(2, 7);
        for wrong in 0..300 {
            let mut reply = sent.to_vec();
            reply[wrong] ^= 1;
            let said = payload.verify(sent, 0, &reply).unwrap_err();
            assert!(said.starts_with(&format!("byte {wrong} ")), "{said}");
        }
    }

    #[test]
    fn a_shifted_or_longer_reply_is_refused() {
        let payload = Payload::new(64);
        let sent = payload.message(0, 0);
        assert!(payload.verify(sent, 0, &sent[1..]).is_err());
        assert!(payload.verify(sent, 60, &sent[60..64]).is_ok());
        assert!(payload.verify(sent, 60, &sent[59..64]).is_err());
    }
}
