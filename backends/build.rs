//! Names the platforms by what they have, once for the whole crate.

fn main() {
    cfg_aliases::cfg_aliases! {
        epoll: { any(target_os = "linux", target_os = "android") },
        io_uring: { all(target_os = "linux", target_pointer_width = "64") },
        libkqueue: { all(target_os = "linux", feature = "libkqueue") },
        pidfd: { any(target_os = "linux", target_os = "android") },
        // A report carries as many bits as a pointer has; a token needs 64.
        kqueue: { all(
            any(
                target_vendor = "apple",
                target_os = "dragonfly",
                target_os = "freebsd",
                target_os = "netbsd",
                target_os = "openbsd",
                libkqueue
            ),
            target_pointer_width = "64"
        ) },
        // The others have it since lately, if at all, and nix not yet.
        kqueue_user: { all(
            kqueue,
            not(any(target_os = "netbsd", target_os = "openbsd"))
        ) },
    }
    #[cfg(feature = "libkqueue")]
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        let found = pkg_config::Config::new().atleast_version("2.7").probe("libkqueue");
        found.expect("the feature libkqueue needs an installed libkqueue, 2.7 or newer");
    }
}
