//! How much to read at once: what a stream earned by what it brought.
//!
//! Small messages are read into the loop's scratch buffer and copied to exactly as many bytes. Large ones are worth a
//! buffer of their own, which the kernel fills and the protocol gets as it is.

/// Above this many bytes a copy costs more than a fresh buffer.
const DIRECT_FROM: usize = 32 * 1024;
/// The largest single read, as asyncio's.
const LARGEST: usize = 256 * 1024;

/// The size of a stream's next read, in bytes, and whether it goes straight into its final place.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadSize {
    last: usize,
}

impl ReadSize {
    /// The largest single read, and the size of the scratch buffer.
    pub const LARGEST: usize = LARGEST;

    /// `None` to read into scratch, or the capacity of the buffer to allocate.
    #[must_use]
    pub fn direct(self) -> Option<usize> {
        (self.last > DIRECT_FROM).then_some(LARGEST)
    }

    /// A read brought this many bytes.
    pub fn learn(&mut self, count: usize) {
        self.last = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_streams_of_large_messages_get_buffers_of_their_own() {
        let mut size = ReadSize::default();
        assert_eq!(size.direct(), None);
        size.learn(100_000);
        assert_eq!(size.direct(), Some(LARGEST));
        size.learn(1000);
        assert_eq!(size.direct(), None);
    }
}
