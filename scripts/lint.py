"""Every check of style and types; runs them all and fails if any failed."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

CLIPPY = ["cargo", "clippy", "--quiet", "--all-targets"]
DENY = ["--", "--deny", "warnings"]

# clippy goes package by package: in one run cargo would unify their features.
CHECKS = {
    "Cargo.lock is up to date": ["cargo", "fetch", "--locked", "--quiet"],
    "rustfmt": ["cargo", "fmt", "--all", "--check"],
    "clippy, backends": [*CLIPPY, "--package", "zloop-backends", *DENY],
    "clippy, zloop": [*CLIPPY, "--package", "zloop", *DENY],
    "clippy, zloop without Python": [*CLIPPY, "--package", "zloop", "--no-default-features", *DENY],
    "clippy, conformance": [*CLIPPY, "--package", "zloop-conformance", *DENY],
    "clippy, load generator": [*CLIPPY, "--package", "zloop-bench", *DENY],
    "ruff": [str(BIN / "ruff"), "check", "."],
    "ruff format": [str(BIN / "ruff"), "format", "--check", "--quiet", "."],
    "mypy --strict": [str(BIN / "mypy")],
    # By itself, because programs of the benchmarks and examples share names.
    "mypy --strict, benches": [str(BIN / "mypy"), "--python-version", "3.14", "benches"],
    "stubtest": [sys.executable, "-m", "mypy.stubtest", "zloop"],
    "shell syntax": ["sh", "-n", "scripts/find-python"],
}


# What this machine cannot run is at least type-checked, the extension too: no library and no linker is needed for that.
TARGETS = [
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "x86_64-unknown-freebsd",
    "x86_64-unknown-netbsd",
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-gnu",
]
CROSS = ["--package", "zloop-backends", "--package", "zloop"]
CROSS_PYTHON = {"PYO3_CROSS": "1", "PYO3_CROSS_PYTHON_VERSION": "3.14"}


# How Linux is given a kqueue, for tests.
LIBKQUEUE = ["pkg-config", "--exists", "libkqueue >= 2.7"]
WITH_LIBKQUEUE = [*CLIPPY, "--package", "zloop-backends", "--features", "libkqueue", *DENY]


def succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def main() -> int:
    checks, failures = dict(CHECKS), []
    for target in TARGETS:
        # Whether the compiler has the target's standard library, or can get it.
        if succeeds("rustup", "target", "add", target):
            checks[f"clippy, {target}"] = [*CLIPPY, *CROSS, "--target", target, *DENY]
        else:
            print(f"clippy, {target}: skipped: rustup cannot add this target")
    if sys.platform == "linux":
        if succeeds(*LIBKQUEUE):
            checks["clippy, backends with libkqueue"] = WITH_LIBKQUEUE
        else:
            print("clippy, backends with libkqueue: skipped: pkg-config finds no libkqueue")
    # clippy builds against the interpreter that runs this, and needs no link to libpython.
    here = {**os.environ, "PYO3_PYTHON": sys.executable}
    for name, command in checks.items():
        start = time.monotonic()
        print(f"{name:36}", end="", flush=True)
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **CROSS_PYTHON} if "--target" in command else here,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(f"{'ok' if done.returncode == 0 else 'FAILED':8}{time.monotonic() - start:6.1f} s")
        if done.returncode != 0:
            failures.append(name)
            print(done.stdout)
    print(f"{len(checks) - len(failures)} checks passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
