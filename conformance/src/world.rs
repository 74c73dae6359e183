//! What is around a backend: fds, other ends of streams, a clock, things that happen later.

#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

pub use zloop_backends::sim::Deed;
use zloop_backends::sim::World as SimWorld;

/// A kind of stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A Unix socket pair.
    Unix,
    /// A TCP connection over loopback.
    Tcp,
}

/// Where a backend lives. Fds are plain numbers here, as they are to backends.
pub trait World: Debug {
    /// The kinds of streams that can be had.
    fn families(&self) -> &'static [Family];

    /// The time.
    fn now(&self) -> Duration;

    /// Two connected, non-blocking streams.
    fn pair(&mut self, family: Family) -> (RawFd, RawFd);

    /// Writes what fits.
    ///
    /// # Errors
    /// As `write(2)`.
    fn write(&mut self, fd: RawFd, bytes: &[u8]) -> io::Result<usize>;

    /// Reads at most so many bytes.
    ///
    /// # Errors
    /// As `read(2)`.
    fn read(&mut self, fd: RawFd, most: usize) -> io::Result<Vec<u8>>;

    /// Sends the end of the stream.
    ///
    /// # Errors
    /// As `shutdown(2)`.
    fn shutdown_write(&mut self, fd: RawFd) -> io::Result<()>;

    /// Closes an fd.
    ///
    /// # Errors
    /// As `close(2)`.
    fn close(&mut self, fd: RawFd) -> io::Result<()>;

    /// Whether the number is open.
    fn is_open(&self, fd: RawFd) -> bool;

    /// A second number for the same file, where there is such a thing.
    fn duplicate(&mut self, fd: RawFd) -> Option<RawFd>;

    /// A file that cannot be waited for, where there is such a thing.
    fn regular_file(&mut self) -> Option<RawFd>;

    /// Lets something happen after a while, in another thread or as if.
    fn later(&mut self, after: Duration, deed: Deed);
}

impl World for SimWorld {
    fn families(&self) -> &'static [Family] {
        &[Family::Unix]
    }

    fn now(&self) -> Duration {
        self.now()
    }

    fn pair(&mut self, _family: Family) -> (RawFd, RawFd) {
        Self::pair(self)
    }

    fn write(&mut self, fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, fd, bytes)
    }

    fn read(&mut self, fd: RawFd, most: usize) -> io::Result<Vec<u8>> {
        Self::read(self, fd, most)
    }

    fn shutdown_write(&mut self, fd: RawFd) -> io::Result<()> {
        Self::shutdown_write(self, fd)
    }

    fn close(&mut self, fd: RawFd) -> io::Result<()> {
        Self::close(self, fd)
    }

    fn is_open(&self, fd: RawFd) -> bool {
        self.is_open(fd)
    }

    fn duplicate(&mut self, _fd: RawFd) -> Option<RawFd> {
        None
    }

    fn regular_file(&mut self) -> Option<RawFd> {
        None
    }

    fn later(&mut self, after: Duration, deed: Deed) {
        Self::later(self, after, deed);
    }
}
