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
    "stubtest": [sys.executable, "-m", "mypy.stubtest", "zloop"],
    "shell syntax": ["sh", "-n", "scripts/find-python"],
}


def main() -> int:
    failures = []
    # clippy builds against the interpreter that runs this, and needs no link to libpython.
    environment = {**os.environ, "PYO3_PYTHON": sys.executable}
    for name, command in CHECKS.items():
        start = time.monotonic()
        print(f"{name:30}", end="", flush=True)
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(f"{'ok' if done.returncode == 0 else 'FAILED':8}{time.monotonic() - start:6.1f} s")
        if done.returncode != 0:
            failures.append(name)
            print(done.stdout)
    print(f"{len(CHECKS) - len(failures)} checks passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
