//! The real world: sockets of this machine, threads that do things later, signals and forks.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Once;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::rig::PATIENCE;
use crate::world::{Deed, Family, World};

/// The world of the operating system.
#[derive(Debug)]
pub struct Os {
    files: HashMap<RawFd, File>,
    threads: Vec<JoinHandle<()>>,
    began: Instant,
    /// The thread that signals are sent to.
    home: Pthread,
    asleep: Asleep,
}

impl Os {
    /// A world without files. Signals go to the calling thread.
    #[must_use]
    pub fn new() -> Self {
        ignore_loudly();
        Self {
            files: HashMap::new(),
            threads: Vec::new(),
            began: Instant::now(),
            home: pthread_self(),
            asleep: Asleep::of_this_thread(),
        }
    }

    fn keep(&mut self, file: impl Into<OwnedFd>) -> RawFd {
        let file = File::from(file.into());
        let fd = file.as_raw_fd();
        self.files.insert(fd, file);
        fd
    }

    fn file(&self, fd: RawFd) -> io::Result<&File> {
        self.files.get(&fd).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

impl Default for Os {
    fn default() -> Self {
        Self::new()
    }
}

impl World for Os {
    fn families(&self) -> &'static [Family] {
        &[Family::Unix, Family::Tcp]
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn pair(&mut self, family: Family) -> (RawFd, RawFd) {
        match family {
            Family::Unix => {
                let (one, two) = UnixStream::pair().expect("a socket pair");
                one.set_nonblocking(true).expect("a socket");
                two.set_nonblocking(true).expect("a socket");
                (self.keep(one), self.keep(two))
            }
            Family::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
                let one = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
                let (two, _) = listener.accept().expect("a connection");
                for end in [&one, &two] {
                    end.set_nonblocking(true).expect("a socket");
                    end.set_nodelay(true).expect("a socket");
                }
                (self.keep(one), self.keep(two))
            }
        }
    }

    fn write(&mut self, fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
        self.file(fd)?.write(bytes)
    }

    fn read(&mut self, fd: RawFd, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; most];
        let count = self.file(fd)?.read(&mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    fn shutdown_write(&mut self, fd: RawFd) -> io::Result<()> {
        let socket: OwnedFd = self.file(fd)?.try_clone()?.into();
        TcpStream::from(socket).shutdown(Shutdown::Write)
    }

    fn close(&mut self, fd: RawFd) -> io::Result<()> {
        self.file(fd)?;
        self.files.remove(&fd);
        Ok(())
    }

    fn is_open(&self, fd: RawFd) -> bool {
        self.file(fd).is_ok_and(|file| fcntl(file, FcntlArg::F_GETFD).is_ok())
    }

    fn duplicate(&mut self, fd: RawFd) -> Option<RawFd> {
        let copy = self.file(fd).and_then(File::try_clone).expect("a duplicate");
        Some(self.keep(copy))
    }

    fn regular_file(&mut self) -> Option<RawFd> {
        let file = File::open(std::env::current_exe().expect("this program")).expect("this program");
        Some(self.keep(file))
    }

    fn later(&mut self, after: Duration, deed: Deed) {
        let deed = self.prepare(deed);
        self.threads.push(thread::spawn(move || {
            thread::sleep(after);
            deed();
        }));
    }
}

impl Os {
    /// Hands the deed's thread what it needs.
    fn prepare(&mut self, deed: Deed) -> Box<dyn FnOnce() + Send> {
        match deed {
            Deed::Write(fd, bytes) => {
                let mut file = self.file(fd).and_then(File::try_clone).expect("an open file");
                Box::new(move || drop(file.write(&bytes)))
            }
            Deed::Read(fd, most) => {
                let mut file = self.file(fd).and_then(File::try_clone).expect("an open file");
                Box::new(move || drop(file.read(&mut vec![0; most])))
            }
            Deed::Close(fd) => {
                let file = self.files.remove(&fd).expect("an open file");
                Box::new(move || drop(file))
            }
            Deed::Wake(waker) => Box::new(move || waker.wake()),
            Deed::Signal => {
                // As a number: some C libraries have a pointer here, which does not go to other threads.
                let home = self.home as usize;
                let asleep = self.asleep.clone();
                Box::new(move || {
                    asleep.wait();
                    pthread_kill(home as Pthread, Signal::SIGUSR1).expect("the thread lives");
                })
            }
        }
    }
}

impl Drop for Os {
    fn drop(&mut self) {
        for thread in self.threads.drain(..) {
            // A deed that panicked has printed why; the case fails for want of it.
            let _ = thread.join();
        }
    }
}

/// Tells when a thread sleeps in the kernel, where the system says so. A signal that comes before the wait has begun ends
/// nothing, and on a busy machine a thread may take long to get that far.
#[derive(Clone, Debug)]
struct Asleep {
    /// Where Linux describes the thread.
    stat: PathBuf,
}

impl Asleep {
    fn of_this_thread() -> Self {
        Self { stat: fs::canonicalize("/proc/thread-self").unwrap_or_default().join("stat") }
    }

    /// Returns when the thread sleeps, at once if that cannot be learnt, and when [`PATIENCE`] has ended.
    fn wait(&self) {
        let began = Instant::now();
        while began.elapsed() < PATIENCE && fs::read_to_string(&self.stat).is_ok_and(|stat| !stat.contains(") S ")) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Gives SIGUSR1 a handler that does nothing but interrupt system calls.
fn ignore_loudly() {
    extern "C" fn nothing(_: libc::c_int) {}
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing at all.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("a handler for SIGUSR1");
    });
}

/// Runs `in_child` in a forked child and waits for its end; true if it came to a good one.
///
/// Other threads of the parent may have held locks: the child may rely on the allocator, which survives a fork, and
/// on little else.
pub fn in_forked_child(in_child: impl FnOnce()) -> bool {
    // SAFETY: the child runs `in_child` and exits without running anything else of the parent's.
    match unsafe { fork() }.expect("a child") {
        ForkResult::Child => {
            let outcome = catch_unwind(AssertUnwindSafe(in_child));
            // SAFETY: ends the process; no handler or destructor of the parent's is run.
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
        ForkResult::Parent { child } => matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))),
    }
}

/// How many fds this process has open.
///
/// # Panics
/// Where the system does not tell.
#[must_use]
pub fn open_fds() -> usize {
    std::fs::read_dir("/dev/fd").expect("a system with /dev/fd").count()
}
