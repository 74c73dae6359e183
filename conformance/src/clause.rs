//! The clauses of the contract, by number. Their full text is the module documentation of `zloop_backends::api`.

#![forbid(unsafe_code)]

use std::fmt;

macro_rules! clauses {
    ($($name:ident $short:literal,)+) => {
        /// A clause of the contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each says itself what it is about")]
        pub enum Clause {
            $($name,)+
        }

        impl Clause {
            /// Every clause, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// What it is about, in a few words.
            #[must_use]
            pub const fn short(self) -> &'static str {
                match self {
                    $(Self::$name => $short,)+
                }
            }
        }
    };
}

clauses! {
    C1 "a pending send ends exactly once",
    C2 "an answered send is not reported, EAGAIN and EINTR never",
    C3 "cancel is a request, stale tokens are ignored",
    C4 "memory is not touched after the end of a send",
    C5 "no fd leaks, none is closed twice",
    C6 "watches are level-triggered, streams are reported after rearm",
    C7 "nothing arrives after forget",
    C8 "a wake ends one poll and is never lost",
    C9 "waits are never early",
    C10 "a signal ends a wait",
    C11 "no more than fits, the rest comes first",
    C12 "one send in flight for a token",
    C13 "a forked child disturbs nobody",
    C14 "quiesce leaves nothing behind",
    C15 "a backend goes with the thread that binds it",
    C16 "a child that ended is reported once",
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}
