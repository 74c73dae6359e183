//! Why a ring cannot be had, in words that a user can act on.

#![forbid(unsafe_code)]

use std::{fs, io};

use nix::sys::utsname::uname;

/// The cause and the cure for an error of the ring's setup.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EINVAL) => refused(&release()),
        Some(libc::ENOSYS) => format!(
            "this kernel ({}) was built without it, or a sandbox hides it; use epoll, or a kernel with \
             CONFIG_IO_URING=y",
            release()
        ),
        Some(libc::EPERM) => forbidden(&read("/proc/sys/kernel/io_uring_disabled"), &read("/proc/thread-self/status")),
        Some(libc::EACCES) => "a security module (SELinux, AppArmor) forbids it; its log tells which rule".into(),
        Some(libc::ENOMEM) => {
            "the kernel is out of memory for it, or the limit of locked memory is too low (ulimit -l, \
             LimitMEMLOCK= of systemd)"
                .into()
        }
        Some(libc::EMFILE) => {
            "the process is out of fds; raise the limit of open files (ulimit -n) or close some".into()
        }
        Some(libc::ENFILE) => "the whole system is out of open files (sysctl fs.file-max)".into(),
        _ => error.to_string(),
    }
}

/// What EINVAL means, by the kernel's release.
fn refused(release: &str) -> String {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (6, 1) => format!(
            "io_uring_setup refuses a ring with a single issuer and deferred task work (EINVAL), although this kernel \
             ({release}) is new enough for both; a sandbox that stands in for the kernel, or a patch, may be the reason"
        ),
        _ => format!("it needs Linux 6.1 or newer; this is {release}"),
    }
}

/// Who answers EPERM: the administrator, or a filter.
fn forbidden(sysctl: &str, status: &str) -> String {
    match sysctl.trim() {
        "2" => "the administrator has switched it off; sysctl kernel.io_uring_disabled=0 allows it".into(),
        "1" => "it is kept for privileged processes; sysctl kernel.io_uring_disabled=0 allows it to all, or join the \
             group of kernel.io_uring_group"
            .into(),
        _ if status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])) => {
            "a seccomp filter forbids it, as the default profile of Docker, containerd and Kubernetes does; run with a \
             profile that allows io_uring_setup, io_uring_enter and io_uring_register"
                .into()
        }
        _ => "the kernel forbids it to this process (EPERM)".into(),
    }
}

fn release() -> String {
    uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_else(|_| "older".into())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_cause_and_cure() {
        let filtered = "Name:\tpython\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert!(forbidden("0\n", filtered).contains("seccomp"));
        assert!(forbidden("", filtered).contains("Docker"));
        assert!(forbidden("2\n", filtered).contains("io_uring_disabled=0"));
        assert!(forbidden("1\n", "").contains("io_uring_group"));
        assert!(forbidden("0\n", "Seccomp:\t0\n").contains("EPERM"));
        let of = |errno| reason(&io::Error::from_raw_os_error(errno));
        for old in ["5.15.0-91-generic", "6.0.19", "4", "unknown"] {
            assert_eq!(refused(old), format!("it needs Linux 6.1 or newer; this is {old}"));
        }
        for new in ["6.1.0-18-amd64", "6.10", "7.0-rc1"] {
            assert!(refused(new).contains("io_uring_setup refuses") && refused(new).contains(new));
        }
        assert_eq!(of(libc::EINVAL), refused(&release()));
        assert!(of(libc::ENOSYS).contains("CONFIG_IO_URING"));
        assert!(of(libc::ENOMEM).contains("ulimit -l"));
        assert!(of(libc::EIO).contains("os error 5"));
    }
}
