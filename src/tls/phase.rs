//! The life of a TLS session, and of the protocol above it.
#![forbid(unsafe_code)]

/// Where a session stands, by asyncio's names for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not begun, or over.
    #[default]
    Unwrapped,
    /// The handshake is under way.
    DoHandshake,
    /// Data goes both ways.
    Wrapped,
    /// No more is taken from the program; what has come is still delivered.
    Flushing,
    /// Our end was announced; the peer's is awaited.
    Shutdown,
}

impl Phase {
    /// Goes to the next phase. Every session may end at any time; otherwise the phases follow each other.
    ///
    /// # Errors
    /// The two phases, if one does not follow the other. Nothing changes then.
    pub fn advance(&mut self, next: Self) -> Result<(), (Self, Self)> {
        use Phase::{DoHandshake, Flushing, Shutdown, Unwrapped, Wrapped};
        match (*self, next) {
            (_, Unwrapped)
            | (Unwrapped, DoHandshake)
            | (DoHandshake, Wrapped)
            | (Wrapped, Flushing)
            | (Flushing, Shutdown) => *self = next,
            pair => return Err(pair),
        }
        Ok(())
    }

    /// Whether data of the program is not taken any more, or not yet again.
    #[must_use]
    pub fn is_ending(self) -> bool {
        matches!(self, Self::Flushing | Self::Shutdown | Self::Unwrapped)
    }

    /// asyncio's name, as its messages show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unwrapped => "UNWRAPPED",
            Self::DoHandshake => "DO_HANDSHAKE",
            Self::Wrapped => "WRAPPED",
            Self::Flushing => "FLUSHING",
            Self::Shutdown => "SHUTDOWN",
        }
    }
}

/// What the program's protocol was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing yet.
    Nothing,
    /// `connection_made`, and perhaps data.
    Made,
    /// `eof_received`.
    Eof,
    /// `connection_lost`.
    Lost,
}

impl Told {
    /// Moves on from `connection_made` to `eof_received`; false if that was said, or does not come next.
    pub fn eof(&mut self) -> bool {
        let due = *self == Self::Made;
        if due {
            *self = Self::Eof;
        }
        due
    }

    /// Moves on to `connection_lost`; false for a protocol that never knew of a connection, or knows of its end.
    pub fn lost(&mut self) -> bool {
        let due = matches!(self, Self::Made | Self::Eof);
        if due {
            *self = Self::Lost;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Phase; 5] = [Phase::Unwrapped, Phase::DoHandshake, Phase::Wrapped, Phase::Flushing, Phase::Shutdown];

    #[test]
    fn phases_follow_each_other_and_may_end_at_any_time() {
        for (at, from) in ALL.into_iter().enumerate() {
            for (to, next) in ALL.into_iter().enumerate() {
                let mut phase = from;
                let allowed = to == 0 || to == at + 1;
                assert_eq!(phase.advance(next).is_ok(), allowed, "{from:?} to {next:?}");
                assert_eq!(phase, if allowed { next } else { from });
            }
        }
    }

    #[test]
    fn a_protocol_is_told_each_thing_once_and_in_order() {
        let mut told = Told::Nothing;
        assert!(!told.eof() && !told.lost(), "nobody is told the end of what did not begin");
        told = Told::Made;
        assert!(told.eof() && !told.eof());
        assert!(told.lost() && !told.lost() && !told.eof());
    }
}
