//! Non-blocking system calls, each tried once: the answer, or an error whose kind may be
//! [`WouldBlock`](io::ErrorKind::WouldBlock). `EINTR` is retried and never returned.
//!
//! The functions take fds in non-blocking mode; those that receive and send on sockets do not block on others either.
//! None raises `SIGPIPE`, none allocates.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::addr::{ROOM, SockAddr};

/// Keeps a send to a closed peer from raising `SIGPIPE`. Apple's kernels know only a socket option for that, which
/// [`adopt`] sets.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: libc::c_int = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: libc::c_int = 0;

/// How everything is received and sent.
const RECEIVE: libc::c_int = libc::MSG_DONTWAIT;
const SEND: libc::c_int = libc::MSG_DONTWAIT | NO_SIGNAL;

/// Receives into one buffer; 0 is the end of the stream. The first so many bytes of `buffer` are initialised then.
///
/// # Errors
/// The kernel's; `WouldBlock` if nothing has arrived.
#[inline]
pub fn recv(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    retry(|| {
        // SAFETY: the pointer and length describe a buffer that we may write to.
        unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), RECEIVE) }
    })
}

/// Receives into the capacity of `buffer`, whose contents the bytes replace.
///
/// # Errors
/// As [`recv`]; `buffer` is empty then.
#[inline]
pub fn recv_vec(fd: RawFd, buffer: &mut Vec<u8>) -> io::Result<usize> {
    fill(buffer, usize::MAX, |room| Ok((recv(fd, room)?, ())))?;
    Ok(buffer.len())
}

/// [`recv`] from a socket whose messages may come with more than bytes, as those of Unix sockets do. The kernel ends a read
/// behind file descriptors and where the sender changes, whatever else waits: the second value says so.
///
/// # Errors
/// As [`recv`].
#[inline]
pub fn recv_marked(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<(usize, bool)> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a header without parts.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
    let count = retry(|| {
        // SAFETY: the header describes one buffer that we may write to, and both outlive the call.
        unsafe { libc::recvmsg(fd, &raw mut header, RECEIVE) }
    })?;
    // What came with the bytes had no room.
    Ok((count, header.msg_flags & libc::MSG_CTRUNC != 0))
}

/// [`recv_marked`] into the capacity of `buffer`, whose contents the bytes replace.
///
/// # Errors
/// As [`recv`]; `buffer` is empty then.
#[inline]
pub fn recv_marked_vec(fd: RawFd, buffer: &mut Vec<u8>) -> io::Result<bool> {
    fill(buffer, usize::MAX, |room| recv_marked(fd, room))
}

/// [`recv_vec`] of no more than `most` bytes.
///
/// # Errors
/// As [`recv`]; `buffer` is empty then.
#[inline]
pub fn recv_at_most(fd: RawFd, buffer: &mut Vec<u8>, most: usize) -> io::Result<()> {
    fill(buffer, most, |room| Ok((recv(fd, room)?, ())))
}

/// Receives a datagram, no more of it than `most` bytes, into the capacity of `buffer`, and says who sent it.
///
/// # Errors
/// As [`recv`]; `buffer` is empty then.
#[inline]
pub fn recv_from(fd: RawFd, buffer: &mut Vec<u8>, most: usize) -> io::Result<SockAddr> {
    fill(buffer, most, |room| recv_into_from(fd, room))
}

/// Has `receive` replace the contents of `buffer` by no more than `most` bytes, and no more than its capacity.
#[inline]
fn fill<T>(
    buffer: &mut Vec<u8>,
    most: usize,
    receive: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<(usize, T)>,
) -> io::Result<T> {
    buffer.clear();
    let room = buffer.spare_capacity_mut();
    let room_len = room.len().min(most);
    let (count, rest) = receive(&mut room[..room_len])?;
    assert!(count <= room_len, "more was written than fits");
    // SAFETY: that many bytes have been written at the start of the spare capacity, which begins at 0.
    unsafe { buffer.set_len(count) };
    Ok(rest)
}

/// Receives a datagram into one buffer, cut off where the buffer ends; how many bytes, and who sent them.
///
/// # Errors
/// As [`recv`].
#[inline]
pub fn recv_into_from(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<(usize, SockAddr)> {
    let mut bytes = [0; ROOM];
    let mut len = ROOM as libc::socklen_t;
    let count = retry(|| {
        // SAFETY: the pointer and length describe a buffer that we may write to, and so do those of the address; the
        // kernel asks for no alignment.
        unsafe {
            let address = bytes.as_mut_ptr().cast();
            libc::recvfrom(fd, buffer.as_mut_ptr().cast(), buffer.len(), RECEIVE, address, &raw mut len)
        }
    })?;
    Ok((count, SockAddr::new(bytes, len as usize)))
}

/// [`recv`] for pipes and other files that are no sockets.
///
/// # Errors
/// As [`recv`].
#[inline]
pub fn read(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    retry(|| {
        // SAFETY: the pointer and length describe a buffer that we may write to.
        unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) }
    })
}

/// [`recv_vec`] for pipes and other files that are no sockets.
///
/// # Errors
/// As [`recv`]; `buffer` is empty then.
#[inline]
pub fn read_vec(fd: RawFd, buffer: &mut Vec<u8>) -> io::Result<usize> {
    buffer.clear();
    let count = read(fd, buffer.spare_capacity_mut())?;
    // SAFETY: the kernel has written that many bytes at the start of the spare capacity, which begins at 0.
    unsafe { buffer.set_len(count) };
    Ok(count)
}

/// Sends on a socket: `send` for one slice, `sendmsg` for more. The answer may be less than all.
///
/// # Errors
/// The kernel's; `WouldBlock` if nothing could leave.
#[inline]
pub fn send(fd: RawFd, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    if let [only] = bufs {
        return retry(|| {
            // SAFETY: the pointer and length describe bytes that we may read.
            unsafe { libc::send(fd, only.as_ptr().cast(), only.len(), SEND) }
        });
    }
    let mut header = empty_header();
    // `IoSlice` has the layout of `iovec`, and the kernel only reads through it.
    header.msg_iov = bufs.as_ptr().cast_mut().cast();
    header.msg_iovlen = bufs.len() as _;
    retry(|| {
        // SAFETY: the header names slices that we may read, and nothing else.
        unsafe { libc::sendmsg(fd, &raw const header, SEND) }
    })
}

/// Sends one datagram to an address.
///
/// # Errors
/// As [`send`].
#[inline]
pub fn send_to(fd: RawFd, data: &[u8], address: &SockAddr) -> io::Result<usize> {
    let name = address.as_bytes();
    retry(|| {
        // SAFETY: both pointers and lengths describe bytes that we may read; the kernel asks for no alignment.
        unsafe {
            let len = name.len() as libc::socklen_t;
            libc::sendto(fd, data.as_ptr().cast(), data.len(), SEND, name.as_ptr().cast(), len)
        }
    })
}

/// Sends up to `count` bytes of a file, those from `offset` on, without a copy in this process. The answer may be less
/// than that, and is 0 at the end of the file. The file's own position is neither used nor moved.
///
/// # Errors
/// The kernel's; `WouldBlock` if nothing could leave, `ENOSYS` where there is no such call.
pub fn send_file(fd: RawFd, file: RawFd, offset: libc::off_t, count: usize) -> io::Result<usize> {
    let (socket, file) = (crate::fd::borrow(fd)?, crate::fd::borrow(file)?);
    loop {
        match send_file_once(socket, file, offset, count) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn send_file_once(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    mut offset: libc::off_t,
    count: usize,
) -> nix::Result<usize> {
    nix::sys::sendfile::sendfile(socket, file, Some(&mut offset), count)
}

#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
fn send_file_once(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: libc::off_t,
    count: usize,
) -> nix::Result<usize> {
    use nix::sys::sendfile::sendfile;
    // A count of 0 would mean the whole file.
    if count == 0 {
        return Ok(0);
    }
    #[cfg(target_vendor = "apple")]
    let (answer, sent) = sendfile(file, socket, offset, Some(count.try_into().unwrap_or(libc::off_t::MAX)), None, None);
    #[cfg(target_os = "freebsd")]
    let (answer, sent) =
        sendfile(file, socket, offset, Some(count), None, None, nix::sys::sendfile::SfFlags::empty(), 0);
    // A full socket is an error here even if part of it has left.
    if sent > 0 { Ok(sent as usize) } else { answer.map(|()| 0) }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple", target_os = "freebsd")))]
fn send_file_once(_: BorrowedFd<'_>, _: BorrowedFd<'_>, _: libc::off_t, _: usize) -> nix::Result<usize> {
    Err(Errno::ENOSYS)
}

/// Whether the kernel calls a socket writable now, which it does not for a little room. If not, a later report of room
/// counts as news, also where news are edges.
///
/// # Errors
/// The kernel's: `EBADF`.
pub fn has_room(fd: RawFd) -> io::Result<bool> {
    is_ready(fd, PollFlags::POLLOUT)
}

/// Whether somebody waits to be accepted, or there is an error to tell. An [`accept`] in vain costs ten times as much,
/// since the kernel makes a socket before it looks.
///
/// # Errors
/// The kernel's: `EBADF`.
pub fn is_awaited(fd: RawFd) -> io::Result<bool> {
    is_ready(fd, PollFlags::POLLIN)
}

/// Whether a socket waits for connections. An [`accept`] fails at once on one that does not.
pub fn listens(fd: RawFd) -> bool {
    use nix::sys::socket::{getsockopt, sockopt::AcceptConn};
    crate::fd::borrow(fd).is_ok_and(|socket| getsockopt(&socket, AcceptConn).unwrap_or(false))
}

fn is_ready(fd: RawFd, direction: PollFlags) -> io::Result<bool> {
    let mut asked = [PollFd::new(crate::fd::borrow(fd)?, direction)];
    loop {
        match poll(&mut asked, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

/// Connects: true if that is done, false if it goes on in the background and the fd turns writable at its end.
///
/// # Errors
/// The kernel's.
pub fn connect(fd: RawFd, address: &SockAddr) -> io::Result<bool> {
    let name = address.as_bytes();
    // SAFETY: the pointer and length describe bytes that we may read; the kernel asks for no alignment.
    if unsafe { libc::connect(fd, name.as_ptr().cast(), name.len() as libc::socklen_t) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // After a signal it goes on, too.
        Some(libc::EINPROGRESS | libc::EALREADY | libc::EINTR | libc::EAGAIN) => Ok(false),
        _ => Err(error),
    }
}

/// [`send`] for pipes and other files that are no sockets. A closed reader raises `SIGPIPE` here unless the process
/// ignores it, as Python does.
///
/// # Errors
/// As [`send`].
#[inline]
pub fn write(fd: RawFd, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    if let [only] = bufs {
        return retry(|| {
            // SAFETY: the pointer and length describe bytes that we may read.
            unsafe { libc::write(fd, only.as_ptr().cast(), only.len()) }
        });
    }
    retry(|| {
        // SAFETY: `IoSlice` has the layout of `iovec`, and names bytes that we may read.
        unsafe { libc::writev(fd, bufs.as_ptr().cast(), bufs.len() as libc::c_int) }
    })
}

/// The error that waits at a socket for whoever uses it next, if there is one; it is taken.
pub fn take_error(fd: RawFd) -> Option<io::Error> {
    let socket = crate::fd::borrow(fd).ok()?;
    match nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::SocketError) {
        Ok(0) | Err(_) => None,
        Ok(errno) => Some(io::Error::from_raw_os_error(errno)),
    }
}

/// Has a TCP socket send small segments at once; a socket of another kind stays as it is. Says whether it is one.
pub fn set_nodelay(fd: RawFd) -> bool {
    use nix::sys::socket::{setsockopt, sockopt::TcpNoDelay};
    crate::fd::borrow(fd).is_ok_and(|socket| setsockopt(&socket, TcpNoDelay, &true).is_ok())
}

/// Shuts down the sending side: the peer reads the end of the stream after what has been sent.
///
/// # Errors
/// The kernel's (`ENOTCONN`, ...).
pub fn shutdown_write(fd: RawFd) -> io::Result<()> {
    retry(|| {
        // SAFETY: no memory is involved.
        unsafe { libc::shutdown(fd, libc::SHUT_WR) as isize }
    })?;
    Ok(())
}

/// Accepts one connection, non-blocking and closed on exec.
///
/// # Errors
/// The kernel's; `WouldBlock` if nobody waits.
pub fn accept(fd: RawFd) -> io::Result<(OwnedFd, SockAddr)> {
    let mut bytes = [0; ROOM];
    let mut len = ROOM as libc::socklen_t;
    let accepted = retry(|| accept_raw(fd, &mut bytes, &mut len))?;
    // SAFETY: the kernel has just given us this fd, and nobody else knows it.
    let accepted = unsafe { OwnedFd::from_raw_fd(accepted as RawFd) };
    #[cfg(target_vendor = "apple")]
    {
        use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
        fcntl(&accepted, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        fcntl(&accepted, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    Ok((accepted, SockAddr::new(bytes, len as usize)))
}

#[cfg(not(target_vendor = "apple"))]
fn accept_raw(fd: RawFd, bytes: &mut [u8; ROOM], len: &mut libc::socklen_t) -> isize {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the address buffer has `len` bytes that we may write to; the kernel asks for no alignment.
    unsafe { libc::accept4(fd, bytes.as_mut_ptr().cast(), len, flags) as isize }
}

#[cfg(target_vendor = "apple")]
fn accept_raw(fd: RawFd, bytes: &mut [u8; ROOM], len: &mut libc::socklen_t) -> isize {
    // SAFETY: the address buffer has `len` bytes that we may write to; the kernel asks for no alignment.
    unsafe { libc::accept(fd, bytes.as_mut_ptr().cast(), len) as isize }
}

/// The address of a socket itself.
///
/// # Errors
/// The kernel's.
pub fn own_name(fd: RawFd) -> io::Result<SockAddr> {
    let mut bytes = [0; ROOM];
    let mut len = ROOM as libc::socklen_t;
    // SAFETY: the address buffer has `len` bytes that we may write to; the kernel asks for no alignment.
    retry(|| unsafe { libc::getsockname(fd, bytes.as_mut_ptr().cast(), &raw mut len) as isize })?;
    Ok(SockAddr::new(bytes, len as usize))
}

/// What a stream needs before its first [`send`]. Free where the flag of each call does.
pub(crate) fn adopt(fd: RawFd) -> io::Result<()> {
    #[cfg(target_vendor = "apple")]
    {
        let on: libc::c_int = 1;
        let size = size_of_val(&on) as libc::socklen_t;
        // SAFETY: the option is an int, and its address and size are given.
        let answer =
            unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_NOSIGPIPE, (&raw const on).cast(), size) };
        // EINVAL: the connection is gone already, and a send will say so.
        if answer < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
            return Err(io::Error::last_os_error());
        }
    }
    let _ = fd;
    Ok(())
}

fn empty_header() -> libc::msghdr {
    // SAFETY: all zero is a valid value: no name, no slices, no control data.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_name = ptr::null_mut();
    header
}

/// Calls until the answer is anything but `EINTR`.
#[inline]
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        let answer = call();
        if answer >= 0 {
            return Ok(answer as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fork::CHILDREN;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    fn initialised(buffer: &[MaybeUninit<u8>]) -> Vec<u8> {
        // SAFETY: the tests pass only the part that a call has filled.
        buffer.iter().map(|byte| unsafe { byte.assume_init() }).collect()
    }

    #[test]
    fn one_slice_and_several_arrive_in_order() {
        let (ours, mut theirs) = pair();
        let fd = ours.as_raw_fd();
        assert_eq!(send(fd, &[IoSlice::new(b"one")]).unwrap(), 3);
        assert_eq!(send(fd, &[IoSlice::new(b" two"), IoSlice::new(b""), IoSlice::new(b" three")]).unwrap(), 10);
        assert_eq!(write(fd, &[IoSlice::new(b" 4")]).unwrap(), 2);
        assert_eq!(write(fd, &[IoSlice::new(b" "), IoSlice::new(b"5")]).unwrap(), 2);
        shutdown_write(fd).unwrap();
        let mut all = String::new();
        theirs.read_to_string(&mut all).unwrap();
        assert_eq!(all, "one two three 4 5");
    }

    #[test]
    fn a_receive_fills_its_buffer_and_reports_the_end() {
        let _no_children = CHILDREN.read();
        let (ours, mut theirs) = pair();
        let fd = ours.as_raw_fd();
        let mut first = [MaybeUninit::uninit(); 3];
        assert_eq!(recv(fd, &mut first).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        theirs.write_all(b"abchi").unwrap();
        assert_eq!(recv(fd, &mut first).unwrap(), 3);
        assert_eq!(initialised(&first), b"abc");
        drop(theirs);
        assert_eq!(recv(fd, &mut first).unwrap(), 2);
        assert_eq!(initialised(&first[..2]), b"hi");
        assert_eq!(recv(fd, &mut first).unwrap(), 0);
    }

    #[test]
    fn a_send_to_nobody_is_an_error_and_no_signal() {
        let _no_children = CHILDREN.read();
        let (ours, theirs) = pair();
        drop(theirs);
        // Rust's runtime ignores SIGPIPE; a process of C's or Python's would not have to.
        // SAFETY: sets the default action of one signal for this process, and puts it back below.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        adopt(ours.as_raw_fd()).unwrap();
        let one = send(ours.as_raw_fd(), &[IoSlice::new(b"x")]).unwrap_err();
        let more = send(ours.as_raw_fd(), &[IoSlice::new(b"x"), IoSlice::new(b"y")]).unwrap_err();
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        assert_eq!((one.raw_os_error(), more.raw_os_error()), (Some(libc::EPIPE), Some(libc::EPIPE)));
    }

    #[test]
    fn a_full_stream_would_block_and_a_partial_send_says_how_much() {
        let (ours, _theirs) = pair();
        let chunk = vec![7; 1 << 20];
        let sent = send(ours.as_raw_fd(), &[IoSlice::new(&chunk)]).unwrap();
        assert!(0 < sent && sent < chunk.len());
        while send(ours.as_raw_fd(), &[IoSlice::new(&chunk)]).is_ok() {}
        let full = send(ours.as_raw_fd(), &[IoSlice::new(&chunk)]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_file_is_sent_from_where_it_is_asked_for_until_the_socket_is_full() {
        let _no_children = CHILDREN.read();
        let (ours, mut theirs) = pair();
        let path = std::env::temp_dir().join(format!("zloop-send-file-{}", std::process::id()));
        let data: Vec<u8> = (0..1_u32 << 21).map(|index| (index % 251) as u8).collect();
        std::fs::write(&path, &data).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (fd, file) = (ours.as_raw_fd(), file.as_raw_fd());
        assert!(has_room(fd).unwrap());
        assert_eq!(send_file(fd, file, 5, 3).unwrap(), 3);
        let mut got = [0; 3];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(got, data[5..8]);
        assert_eq!(send_file(fd, file, data.len() as libc::off_t, 9).unwrap(), 0);
        let mut sent = 0;
        let full = loop {
            match send_file(fd, file, sent as libc::off_t, data.len()) {
                Ok(more) => sent += more,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert!(0 < sent && sent < data.len(), "{sent}");
        assert!(!has_room(fd).unwrap());
        let mut got = vec![0; sent];
        theirs.read_exact(&mut got).unwrap();
        assert!(got == data[..sent]);
        drop(theirs);
        assert_eq!(send_file(fd, file, 0, 1).unwrap_err().raw_os_error(), Some(libc::EPIPE));
        assert_eq!(send_file(fd, -1, 0, 1).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn an_accepted_connection_is_ready_to_use_and_knows_its_peer() {
        use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(listens(listener.as_raw_fd()) && !is_awaited(listener.as_raw_fd()).unwrap());
        assert_eq!(accept(listener.as_raw_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(is_awaited(listener.as_raw_fd()).unwrap());
        let (accepted, peer) = accept(listener.as_raw_fd()).unwrap();
        assert_eq!(peer.to_inet(), Some(client.local_addr().unwrap()));
        assert_eq!(own_name(client.as_raw_fd()).unwrap().to_inet(), Some(client.local_addr().unwrap()));
        assert_eq!(peer.family(), libc::AF_INET);
        assert!(!listens(accepted.as_raw_fd()) && !listens(-1));
        let status = OFlag::from_bits_retain(fcntl(&accepted, FcntlArg::F_GETFL).unwrap());
        assert!(status.contains(OFlag::O_NONBLOCK));
        let flags = FdFlag::from_bits_retain(fcntl(&accepted, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
    }
}
