//! Names the platforms by what they have, once for the whole crate.

fn main() {
    cfg_aliases::cfg_aliases! {
        epoll: { any(target_os = "linux", target_os = "android") },
        io_uring: { all(target_os = "linux", target_pointer_width = "64") },
        // A report carries as many bits as a pointer has; a token needs 64.
        kqueue: { all(
            any(
                target_vendor = "apple",
                target_os = "dragonfly",
                target_os = "freebsd",
                target_os = "netbsd",
                target_os = "openbsd"
            ),
            target_pointer_width = "64"
        ) },
    }
}
