"""Servers and clients as processes of their own, each on its own core."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import Any

from harness.environment import Environment, python_environment

READY_TIMEOUT_S = 20


class RunError(Exception):
    """A single measurement that failed, in words."""


@dataclass(frozen=True)
class Cores:
    """The cores that the server and the load generator run on; None means anywhere."""

    server: int | None
    load: int | None

    @classmethod
    def choose(cls, wanted: str | None) -> Cores:
        """Return the cores of "SERVER,LOAD", or the first two that this process may use."""
        if wanted:
            server, load = wanted.split(",")
            return cls(int(server), int(load))
        if not hasattr(os, "sched_getaffinity"):
            return cls(None, None)
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[1]) if len(allowed) > 1 else cls(None, None)

    def swapped(self) -> Cores:
        """Return the cores for when the client is measured and the server is its load."""
        return Cores(self.load, self.server)


def pinned(core: int | None) -> Callable[[], None]:
    """Return what a child process calls first: it pins itself and allows itself many files."""

    def prepare() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})
        raise_file_limit()

    return prepare


def raise_file_limit() -> int:
    """Allow as many open files as the system lets us; return how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@dataclass
class Server:
    """A running server."""

    pid: int
    address: str


@contextmanager
def serving(
    command: Sequence[str | Path], variables: dict[str, str], cores: Cores
) -> Iterator[Server]:
    """Run a server that prints `READY ADDRESS`; end it afterwards."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=pinned(cores.server),
        )
        assert process.stdout is not None
        try:
            ready, _, _ = select([process.stdout], [], [], READY_TIMEOUT_S)
            line = process.stdout.readline() if ready else ""
            if not line.startswith("READY "):
                process.kill()
                raise RunError(f"the server did not start: {last_line(errors)}")
            yield Server(process.pid, line.split(" ", 1)[1].strip())
            if process.poll() is not None:
                raise RunError(f"the server ended: {last_line(errors)}")
        except RunError as error:
            said = last_line(errors)
            raise RunError(
                f"{error}; server: {said}" if said and said not in str(error) else str(error)
            ) from None
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def last_line(errors: object) -> str:
    """Return the last line that a server wrote to its error output."""
    errors.seek(0)  # type: ignore[attr-defined]
    lines = errors.read().strip().splitlines()  # type: ignore[attr-defined]
    return lines[-1] if lines else ""


def python_server(
    environment: Environment, loop: str, script: Path, *arguments: str
) -> tuple[list[str | Path], dict[str, str]]:
    """Return the command line and the variables of a Python server."""
    command: list[str | Path] = [sys.executable, script, "--loop", loop, *arguments]
    return command, python_environment(environment, loop)


def run_load(command: Sequence[str | Path], cores: Cores, timeout_s: float) -> dict[str, Any]:
    """Run the load generator; return its report."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            preexec_fn=pinned(cores.load),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"the load generator did not end within {timeout_s:.0f} s") from None
    if done.returncode:
        raise RunError(done.stderr.strip() or f"status {done.returncode}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def wakeups(pid: int) -> int:
    """Return how often the threads of a process have gone to sleep."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def anonymous_bytes(pid: int) -> int:
    """Return the memory of a process that no file backs."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RunError("the system does not tell the memory of a process")
