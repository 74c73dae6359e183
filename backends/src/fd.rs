//! The one place that vouches for a raw fd.
//!
//! Python hands fds around as numbers, so the crate's interface does too. Everything below this file borrows them.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use nix::errno::Errno;
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
/// `EPERM` for regular files, directories and disks; `EBADF` for what is not open.
pub(crate) fn waitable<'fd>(fd: RawFd) -> io::Result<BorrowedFd<'fd>> {
    let fd = borrow(fd)?;
    let mode = SFlag::from_bits_truncate(fstat(fd)?.st_mode);
    match mode & SFlag::S_IFMT {
        SFlag::S_IFREG | SFlag::S_IFDIR | SFlag::S_IFBLK => Err(Errno::EPERM.into()),
        _ => Ok(fd),
    }
}
