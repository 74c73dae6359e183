//! The list of backends: the only place that knows them all.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::io::IoSlice;
use std::os::fd::RawFd;

use enum_dispatch::enum_dispatch;

use crate::api::{Backend, Events, Interest, Profile, Sent, Token, Wait};
use crate::readiness::Readiness;
#[cfg(epoll)]
use crate::readiness::epoll::Epoll;
#[cfg(kqueue)]
use crate::readiness::kqueue::Kqueue;
use crate::readiness::poll::Poll;
#[cfg(feature = "select")]
use crate::readiness::select::Select;
use crate::readiness::selector::Selector;
#[cfg(io_uring)]
use crate::uring::{Uring, probe};
use crate::wake::Waker;

/// A backend by name, whether this machine has it or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// epoll: Linux.
    Epoll,
    /// io_uring: Linux 6.1 or newer, where not blocked.
    IoUring,
    /// kqueue: macOS and the BSDs.
    Kqueue,
    /// poll(2): any Unix.
    Poll,
    /// select(2): the example, any Unix.
    #[cfg(feature = "select")]
    Select,
}

impl Kind {
    /// Every backend, in the order of the documentation.
    pub const ALL: &[Self] = &[
        Self::Epoll,
        Self::IoUring,
        Self::Kqueue,
        Self::Poll,
        #[cfg(feature = "select")]
        Self::Select,
    ];

    /// What an automatic choice tries, best first. A backend that has not been proven better everywhere is not here:
    /// users ask for io_uring by name.
    pub const AUTO: [Self; 3] = [Self::Epoll, Self::Kqueue, Self::Poll];

    /// The name that users select it by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::IoUring => "io_uring",
            Self::Kqueue => "kqueue",
            Self::Poll => "poll",
            #[cfg(feature = "select")]
            Self::Select => "select",
        }
    }

    /// The inverse of [`name`](Kind::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An open backend of any kind.
#[enum_dispatch(Backend)]
#[derive(Debug)]
#[allow(missing_docs, reason = "the variants are the kinds")]
#[allow(clippy::large_enum_variant, reason = "there is one for each loop, and it stays where it is")]
pub enum AnyBackend {
    #[cfg(epoll)]
    Epoll(Readiness<Epoll>),
    #[cfg(io_uring)]
    IoUring(Uring),
    #[cfg(kqueue)]
    Kqueue(Readiness<Kqueue>),
    Poll(Readiness<Poll>),
    #[cfg(feature = "select")]
    Select(Readiness<Select>),
}

/// Opens a backend.
///
/// # Errors
/// Why this machine cannot, in words that its user can act on.
pub fn open(kind: Kind) -> Result<AnyBackend, Unavailable> {
    match kind {
        #[cfg(epoll)]
        Kind::Epoll => readiness::<Epoll>(kind),
        #[cfg(not(epoll))]
        Kind::Epoll => Err(Unavailable::platform(kind, "Linux")),
        #[cfg(io_uring)]
        Kind::IoUring => Uring::open()
            .map(Into::into)
            .map_err(|error| Unavailable { reason: probe::reason(&error), ..Unavailable::system(kind, &error) }),
        #[cfg(not(io_uring))]
        Kind::IoUring => Err(Unavailable::platform(kind, "Linux on a 64-bit machine")),
        #[cfg(kqueue)]
        Kind::Kqueue => readiness::<Kqueue>(kind),
        #[cfg(not(kqueue))]
        Kind::Kqueue => Err(Unavailable::platform(kind, "macOS or a BSD")),
        Kind::Poll => readiness::<Poll>(kind),
        #[cfg(feature = "select")]
        Kind::Select => readiness::<Select>(kind),
    }
}

fn readiness<S: Selector>(kind: Kind) -> Result<AnyBackend, Unavailable>
where
    Readiness<S>: Into<AnyBackend>,
{
    Readiness::<S>::open().map(Into::into).map_err(|error| Unavailable::system(kind, &error))
}

/// Opens the best backend that this machine has.
///
/// # Errors
/// The last one's reason, if none opens: the process is out of fds or memory.
pub fn open_auto() -> Result<AnyBackend, Unavailable> {
    let [first, rest @ ..] = Kind::AUTO;
    rest.into_iter().fold(open(first), |found, next| found.or_else(|_| open(next)))
}

/// The kinds that this machine can open now.
#[must_use]
pub fn available() -> Vec<Kind> {
    Kind::ALL.iter().copied().filter(|kind| open(*kind).is_ok()).collect()
}

/// Why a backend cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// Which one.
    pub kind: Kind,
    /// The kernel's answer; `ENOSYS` where there was nobody to ask.
    pub errno: i32,
    /// The cause and the cure, in words.
    pub reason: String,
}

impl Unavailable {
    /// The platform has no such interface.
    #[allow(dead_code, reason = "a build may have them all")]
    fn platform(kind: Kind, needs: &str) -> Self {
        Self { kind, errno: libc::ENOSYS, reason: format!("it needs {needs}; this is {}", std::env::consts::OS) }
    }

    /// The kernel refused.
    fn system(kind: Kind, error: &io::Error) -> Self {
        let cure = match error.raw_os_error() {
            Some(libc::EMFILE) => "; raise the limit of open files (ulimit -n) or close some",
            Some(libc::ENFILE) => "; the whole system is out of open files (sysctl fs.file-max)",
            Some(libc::ENOMEM) => "; the kernel is out of memory for it",
            _ => "",
        };
        Self { kind, errno: error.raw_os_error().unwrap_or(libc::EIO), reason: format!("{error}{cure}") }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} backend is not available: {}", self.kind, self.reason)
    }
}

impl std::error::Error for Unavailable {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_kind() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(*kind));
        }
        assert_eq!(Kind::from_name("nonsense"), None);
    }

    #[test]
    fn the_automatic_choice_opens_and_bears_its_name() {
        let name = open_auto().unwrap().profile().name;
        assert!(Kind::AUTO.iter().any(|kind| kind.name() == name));
        assert!(available().iter().any(|kind| kind.name() == name));
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        let elsewhere = Unavailable::platform(Kind::Kqueue, "macOS or a BSD").to_string();
        assert!(elsewhere.starts_with("the kqueue backend is not available: it needs macOS or a BSD; this is "));
        let refused = Unavailable::system(Kind::Epoll, &io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(refused.errno, libc::EMFILE);
        assert!(refused.reason.contains("ulimit -n"));
    }
}
