//! The one place that vouches for a raw fd.
//!
//! Python hands fds around as numbers, so the crate's interface does too. Everything below this file borrows them.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat};

/// Borrows an fd that the caller promised to keep open for the length of the call.
///
/// # Errors
/// `EBADF` for negative numbers, as the kernel would say.
pub(crate) fn borrow<'fd>(fd: RawFd) -> io::Result<BorrowedFd<'fd>> {
    if fd < 0 {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: the number is not -1. A stale number names a closed or a different file, for which the kernel answers
    // with an error or acts on that file; memory safety does not depend on it.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Borrows an fd that can be waited for, and refuses what epoll refuses: other kernel interfaces report regular files
/// as always ready.
///
/// # Errors
/// `EPERM` for regular files, directories and disks, and, where there is an epoll to ask, for devices without anything
/// to wait for (`/dev/null`); `EBADF` for what is not open.
pub(crate) fn waitable<'fd>(fd: RawFd) -> io::Result<BorrowedFd<'fd>> {
    let fd = borrow(fd)?;
    let mode = SFlag::from_bits_truncate(fstat(fd)?.st_mode);
    match mode & SFlag::S_IFMT {
        SFlag::S_IFDIR | SFlag::S_IFBLK => Err(Errno::EPERM.into()),
        // Some files of /proc look like regular ones and can be waited for.
        SFlag::S_IFREG => asked_epoll(fd).unwrap_or(Err(Errno::EPERM)).map_err(io::Error::from),
        SFlag::S_IFCHR => asked_epoll(fd).unwrap_or(Ok(())).map_err(io::Error::from),
        _ => Ok(()),
    }?;
    Ok(fd)
}

/// What an epoll says to a file; `None` if there is none to ask.
#[cfg(epoll)]
fn asked_epoll(fd: BorrowedFd<'_>) -> Option<nix::Result<()>> {
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).ok()?;
    Some(epoll.add(fd, EpollEvent::new(EpollFlags::empty(), 0)))
}

#[cfg(not(epoll))]
fn asked_epoll(_fd: BorrowedFd<'_>) -> Option<nix::Result<()>> {
    None
}

/// What poll(2) says of a file at this moment, in its own bits. None, if it could not look.
#[allow(dead_code, reason = "not every platform has a backend that asks")]
pub(crate) fn look(fd: RawFd, asked: libc::c_short) -> libc::c_short {
    let Ok(fd) = borrow(fd) else { return libc::POLLNVAL };
    let mut asked = [PollFd::new(fd, PollFlags::from_bits_retain(asked))];
    match poll(&mut asked, PollTimeout::ZERO) {
        Ok(_) => asked[0].revents().unwrap_or(PollFlags::POLLERR).bits(),
        // A signal interrupts it only when there is nothing to say.
        Err(_) => 0,
    }
}

/// What kind of file an fd is open on, as far as it matters for waiting and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A pipe, or a FIFO that has a name in the file system.
    Pipe {
        /// It has a name. Linux says so of every pipe.
        named: bool,
    },
    /// A socket of any kind.
    Socket,
    /// A terminal or another character device.
    Character,
    /// Everything else.
    Other,
}

impl FileKind {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The kernel's: `EBADF`.
    pub fn of(fd: RawFd) -> io::Result<Self> {
        let stat = fstat(borrow(fd)?)?;
        Ok(match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFIFO => Self::Pipe { named: stat.st_nlink > 0 },
            SFlag::S_IFSOCK => Self::Socket,
            SFlag::S_IFCHR => Self::Character,
            _ => Self::Other,
        })
    }

    /// Whether what one call writes to such a file stays together: a packet, or what a device makes of it, say a frame of
    /// a network device. Several buffers in one call would be one of those.
    #[must_use]
    pub fn has_records(self, fd: RawFd) -> bool {
        let Ok(fd) = borrow(fd) else { return false };
        match self {
            Self::Character => true,
            Self::Socket => getsockopt(&fd, sockopt::SockType).is_ok_and(|kind| kind != SockType::Stream),
            #[cfg(epoll)]
            Self::Pipe { .. } => {
                fcntl(fd, FcntlArg::F_GETFL).is_ok_and(|flags| OFlag::from_bits_retain(flags).contains(OFlag::O_DIRECT))
            }
            _ => false,
        }
    }
}

/// Puts a file into non-blocking mode.
///
/// # Errors
/// The kernel's: `EBADF`.
pub fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    let fd = borrow(fd)?;
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn files_are_told_apart() {
        let (end, _other) = nix::unistd::pipe().unwrap();
        let socket = UnixStream::pair().unwrap().0;
        let null = std::fs::File::open("/dev/null").unwrap();
        let folder = std::fs::File::open("/").unwrap();
        for (fd, kind) in [
            (socket.as_raw_fd(), FileKind::Socket),
            (null.as_raw_fd(), FileKind::Character),
            (folder.as_raw_fd(), FileKind::Other),
        ] {
            assert_eq!(FileKind::of(fd).unwrap(), kind);
        }
        assert!(matches!(FileKind::of(end.as_raw_fd()), Ok(FileKind::Pipe { .. })));
        assert_eq!(FileKind::of(-1).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[cfg(epoll)]
    #[test]
    fn what_epoll_refuses_cannot_be_waited_for() {
        let refusal = |path: &str| {
            let file = std::fs::File::open(path).unwrap();
            waitable(file.as_raw_fd()).err().and_then(|error| error.raw_os_error())
        };
        for path in ["/", "/dev/null", "/dev/zero", "/proc/self/exe", "/proc/self/stat"] {
            assert_eq!(refusal(path), Some(libc::EPERM), "{path}");
        }
        assert_eq!(refusal("/proc/self/mounts"), None, "it tells of changes");
        let (end, _other) = nix::unistd::pipe().unwrap();
        assert!(waitable(end.as_raw_fd()).is_ok());
        assert_eq!(waitable(-1).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn packets_and_devices_keep_calls_apart() {
        let stream = UnixStream::pair().unwrap().0;
        let datagrams = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let (end, _other) = nix::unistd::pipe().unwrap();
        for (fd, records) in [
            (stream.as_raw_fd(), false),
            (datagrams.as_raw_fd(), true),
            (null.as_raw_fd(), true),
            (end.as_raw_fd(), false),
        ] {
            assert_eq!(FileKind::of(fd).unwrap().has_records(fd), records);
        }
        #[cfg(epoll)]
        {
            let (_end, packets) = nix::unistd::pipe2(OFlag::O_DIRECT).unwrap();
            let packets = packets.as_raw_fd();
            assert!(FileKind::of(packets).unwrap().has_records(packets));
        }
    }

    #[test]
    fn non_blocking_is_for_good() {
        let (end, _other) = nix::unistd::pipe().unwrap();
        for _ in 0..2 {
            set_nonblocking(end.as_raw_fd()).unwrap();
            let mut byte = [std::mem::MaybeUninit::uninit()];
            let error = crate::attempt::read(end.as_raw_fd(), &mut byte).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    }
}
