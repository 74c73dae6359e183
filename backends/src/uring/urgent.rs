//! Urgent data, before which a read ends whatever is behind it, and no edge follows.
//!
//! What a poll reports is what woke it, and urgent data wakes it as other data does. To ask after each message would
//! cost a tenth of it. So streams that had something to read are asked later and together; the next poll asks at once
//! if the last time is long enough ago.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::polls::File;
use crate::api::{Event, Interest, Token, Wait, What};
use crate::fd;
use crate::table::Table;

/// How long what is behind urgent data waits at most. (Asking costs 0.2 µs and 0.04 for each stream.)
const PATIENCE: Duration = Duration::from_millis(10);

/// The streams to ask.
#[derive(Debug)]
pub(super) struct Urgency {
    suspects: Vec<Token>,
    /// When streams were asked last.
    asked: Instant,
}

impl Urgency {
    pub(super) fn new() -> Self {
        Self { suspects: Vec::new(), asked: Instant::now() }
    }

    /// A stream has something to read.
    #[inline]
    pub(super) fn suspect(&mut self, token: Token) {
        self.suspects.push(token);
    }

    /// Whether to ask now.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        !self.suspects.is_empty() && self.asked.elapsed() >= PATIENCE
    }

    /// How long a wait may be, so that nobody waits too long for being asked.
    #[inline]
    pub(super) fn limit(&self, wait: Wait) -> Wait {
        match wait {
            Wait::Forever if !self.suspects.is_empty() => Wait::For(PATIENCE),
            Wait::For(time) if !self.suspects.is_empty() => Wait::For(time.min(PATIENCE)),
            _ => wait,
        }
    }

    /// Asks, and reports those that have urgent data: they are to be read to the end.
    #[cold]
    pub(super) fn look(&mut self, files: &mut Table<File>, reports: &mut VecDeque<Event>) {
        self.asked = Instant::now();
        let (tokens, mut asked): (Vec<Token>, Vec<PollFd<'_>>) =
            self.suspects.drain(..).filter_map(|token| Some((token, question(files, token)?))).unzip();
        // A signal interrupts it only when there is nothing to say.
        if poll(&mut asked, PollTimeout::ZERO).is_ok_and(|found| found > 0) {
            let urgent = |asked: &PollFd<'_>| asked.revents().is_some_and(|flags| flags.contains(PollFlags::POLLPRI));
            let found = tokens.iter().zip(&asked).filter(|(_, asked)| urgent(asked));
            let what = What::Ready(Interest::READ | Interest::CLOSED);
            reports.extend(found.map(|(token, _)| Event { token: *token, what }));
        }
    }
}

/// What to ask of a stream, unless it is gone.
fn question<'fd>(files: &mut Table<File>, token: Token) -> Option<PollFd<'fd>> {
    let file = files.get_mut(token)?;
    file.suspect = false;
    let fd: BorrowedFd<'fd> = fd::borrow(file.fd).ok()?;
    Some(PollFd::new(fd, PollFlags::POLLPRI))
}
