"""What is measured. A workload measures one loop once, in fresh processes."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.environment import SCRIPTS, Environment, python_environment
from harness.processes import (
    Cores,
    RunError,
    anonymous_bytes,
    cpu_seconds,
    pinned,
    python_server,
    raise_file_limit,
    run_load,
    serving,
    wakeups,
)

NATIVE = "native"
# Metrics of which more is better; of all others less is.
MORE_IS_BETTER = {"per_s", "scaling"}
Metrics = dict[str, float]


@dataclass(frozen=True)
class Timing:
    """How long each measurement lasts, in seconds."""

    warmup: float
    duration: float
    operation: float


@dataclass(frozen=True)
class Bench:
    """What every measurement needs to know."""

    environment: Environment
    cores: Cores
    timing: Timing


@dataclass(frozen=True)
class Workload(ABC):
    """One thing to measure. Yields rows, each of them with metrics."""

    @property
    @abstractmethod
    def group(self) -> str:
        """The table that the rows belong to."""

    @property
    @abstractmethod
    def title(self) -> str:
        """A short name, for progress bars and reports."""

    @property
    def has_ceiling(self) -> bool:
        """Whether the server without Python can do this too."""
        return False

    @abstractmethod
    def measure(self, bench: Bench, loop: str) -> dict[str, Metrics | str]:
        """Return metrics by row, or in their place why there are none."""


def from_report(report: dict[str, Any]) -> Metrics:
    """Return the metrics in a report of the load generator."""
    latency = report["latency_us"]
    metrics = {
        "per_s": report["requests_per_s"],
        "p50_us": latency["p50"],
        "p99_us": latency["p99"],
    }
    metrics |= {"p999_us": latency["p999"], "core_wait_share": report["core_wait_share"]}
    if latency["quiet_p99"] is not None:
        metrics["quiet_p99_us"] = latency["quiet_p99"]
    if report["server_cpu_us_per_request"] is not None:
        metrics["cpu_us"] = report["server_cpu_us_per_request"]
    if report["lost"]:
        metrics["lost"] = report["lost"]
    return metrics


@dataclass(frozen=True)
class Load(Workload):
    """A server under the load generator."""

    connections: int
    rate: float | None = field(default=None, kw_only=True)

    def load(self, bench: Bench, address: str, pid: int, kind: str, *arguments: str) -> Metrics:
        """Run the load generator against a server."""
        timing = bench.timing
        command: list[str | Path] = [bench.environment.load, kind, "--connect", address]
        command += ["--connections", str(self.connections), "--server-pid", str(pid), *arguments]
        command += ["--warmup", str(timing.warmup), "--duration", str(timing.duration)]
        if self.rate:
            command += ["--rate", str(self.rate)]
        return from_report(run_load(command, bench.cores, timing.warmup + timing.duration + 20))

    @property
    def pace(self) -> str:
        """How the requests come, in words."""
        return f", {self.rate:g}/s" if self.rate else ""


@dataclass(frozen=True)
class Echo(Load):
    """The echo server, in one of its modes."""

    mode: str
    size: int
    transport: str = "tcp"

    @property
    def group(self) -> str:
        return "echo" if self.rate is None else "echo at a fixed rate"

    @property
    def title(self) -> str:
        unix = "" if self.transport == "tcp" else ", unix"
        plural = "" if self.connections == 1 else "s"
        return f"{self.mode} {spell_size(self.size)}, {self.connections} connection{plural}{unix}{self.pace}"

    @property
    def has_ceiling(self) -> bool:
        return True

    def measure(self, bench: Bench, loop: str) -> dict[str, Metrics | str]:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "echo")
            unix = self.transport == "unix"
            if loop == NATIVE:
                command: list[str | Path] = [bench.environment.echo]
                command += ["--listen", f"unix:{path}"] if unix else []
                command += ["--udp"] if self.mode == "udp" else []
                variables: dict[str, str] = {}
            else:
                arguments = ["--mode", self.mode, *(["--unix", path] if unix else [])]
                script = SCRIPTS / "echo_server.py"
                command, variables = python_server(bench.environment, loop, script, *arguments)
            with serving(command, variables, bench.cores) as server:
                return {self.title: self.drive(bench, server.address, server.pid)}

    def drive(self, bench: Bench, address: str, pid: int) -> Metrics:
        """Load the server in the way of this workload."""
        kind = "udp" if self.mode == "udp" else "echo"
        return self.load(bench, address, pid, kind, "--size", str(self.size))


@dataclass(frozen=True)
class TlsEcho(Load):
    """The echo server of protocols under TLS."""

    size: int
    certificate: str
    authority: str

    @property
    def group(self) -> str:
        return "tls"

    @property
    def title(self) -> str:
        plural = "" if self.connections == 1 else "s"
        return f"TLS echo {spell_size(self.size)}, {self.connections} connection{plural}"

    def measure(self, bench: Bench, loop: str) -> dict[str, Metrics | str]:
        script = SCRIPTS / "echo_server.py"
        arguments = ["--certificate", self.certificate]
        command, variables = python_server(bench.environment, loop, script, *arguments)
        with serving(command, variables, bench.cores) as server:
            request = ["--size", str(self.size), "--tls-ca", self.authority]
            return {self.title: self.load(bench, server.address, server.pid, "echo", *request)}


@dataclass(frozen=True)
class Churn(Echo):
    """Connections that carry one message each."""

    @property
    def group(self) -> str:
        return "connections"

    @property
    def title(self) -> str:
        return f"connect, echo 1 B, close ({self.mode})"

    def drive(self, bench: Bench, address: str, pid: int) -> Metrics:
        return self.load(bench, address, pid, "churn", "--size", str(self.size))


@dataclass(frozen=True)
class Http(Load):
    """uvicorn with httptools."""

    body: int
    certificate: str | None = None
    authority: str | None = None

    @property
    def group(self) -> str:
        return "https" if self.certificate else "http"

    @property
    def title(self) -> str:
        return f"{self.group} {spell_size(self.body)}, {self.connections} connections{self.pace}"

    def measure(self, bench: Bench, loop: str) -> dict[str, Metrics | str]:
        arguments = ["--certificate", self.certificate] if self.certificate else []
        script = SCRIPTS / "http_app.py"
        command, variables = python_server(bench.environment, loop, script, *arguments)
        with serving(command, variables, bench.cores) as server:
            request = ["--path", f"/{self.body}", "--body", str(self.body)]
            request += ["--tls-ca", self.authority] if self.authority else []
            return {self.title: self.load(bench, server.address, server.pid, "http", *request)}


@dataclass(frozen=True)
class Files(Load):
    """Files, sent by `loop.sendfile`."""

    size: int

    @property
    def group(self) -> str:
        return "sendfile"

    @property
    def title(self) -> str:
        plural = "" if self.connections == 1 else "s"
        return f"file of {spell_size(self.size)}, {self.connections} connection{plural}"

    def measure(self, bench: Bench, loop: str) -> dict[str, Metrics | str]:
        script = SCRIPTS / "file_server.py"
        command, variables = python_server(bench.environment, loop, script)
        with serving(command, variables, bench.cores) as server:
            request = ["--path", f"/{self.size}", "--body", str(self.size)]
            return {self.title: self.load(bench, server.address, server.pid, "http", *request)}


@dataclass(frozen=True)
class Operations(Workload):
    """All operations of a loop, one after another in one process."""

    @property
    def group(self) -> str:
        return "loop operations"

    @property
    def title(self) -> str:
        return "loop operations"

    def measure(self, bench: Bench, loop: str) -> dict[str, Metrics | str]:
        script, seconds = SCRIPTS / "loop_ops.py", str(bench.timing.operation)
        command, variables = python_server(bench.environment, loop, script, "--seconds", seconds)
        try:
            done = subprocess.run(
                command,
                env=variables,
                capture_output=True,
                text=True,
                timeout=60 + 60 * bench.timing.operation,
                preexec_fn=pinned(bench.cores.server),
                check=False,
            )
            output, trouble = done.stdout, "the process died" if done.returncode else ""
        except subprocess.TimeoutExpired as expired:
            output, trouble = (expired.stdout or b"").decode(), "it hung"
        rows: dict[str, Metrics | str] = {}
        for line in output.splitlines():
            result = json.loads(line)
            rows[result["name"]] = {"us": result["us"]} if "us" in result else result["error"]
        if trouble:
            rows.setdefault(f"(after {len(rows)} operations)", trouble)
        return rows


@dataclass(frozen=True)
class Import(Workload):
    """How long it takes to import a loop's package, asyncio included."""

    @property
    def group(self) -> str:
        return "import"

    @property
    def title(self) -> str:
        return "import"

    def measure(self, bench: Bench, loop: str) -> dict[str, Metrics | str]:
        module = loop.partition(":")[0]
        module = "zloop" if module in ("base", "zloop-zig") else module
        code = (
            f"import time; t = time.process_time(); import {module}; print(time.process_time() - t)"
        )
        variables = python_environment(bench.environment, loop)
        times = []
        for _ in range(10):
            command = [sys.executable, "-c", code]
            done = subprocess.run(
                command,
                env=variables,
                capture_output=True,
                text=True,
                check=False,
                preexec_fn=pinned(bench.cores.server),
            )
            if done.returncode:
                raise RunError((done.stderr.strip().splitlines() or ["it failed"])[-1])
            times.append(float(done.stdout) * 1e3)
        return {"import, CPU ms": {"ms": min(times)}}


@dataclass(frozen=True)
class Idle(Workload):
    """Connections on which nothing happens: their memory, and whether the loop sleeps."""

    connections: int
    seconds: float
    certificate: str | None = None
    authority: str | None = None

    @property
    def group(self) -> str:
        return "idle TLS connections" if self.certificate else "idle connections"

    @property
    def title(self) -> str:
        return f"{self.connections} {self.group}"

    def measure(self, bench: Bench, loop: str) -> dict[str, Metrics | str]:
        script = SCRIPTS / "echo_server.py"
        arguments = ["--certificate", self.certificate] if self.certificate else []
        command, variables = python_server(bench.environment, loop, script, *arguments)
        context = ssl.create_default_context(cafile=self.authority) if self.authority else None
        if raise_file_limit() < self.connections + 100:
            raise RunError("the system does not allow that many open files")
        with serving(command, variables, bench.cores) as server, contextlib.ExitStack() as stack:
            host, port = server.address.removeprefix("tcp:").rsplit(":", 1)
            # The first connections pay for what all share.
            for _ in range(16):
                self.connect(stack, host, port, context)
            before = anonymous_bytes(server.pid)
            connections = [
                self.connect(stack, host, port, context) for _ in range(self.connections)
            ]
            time.sleep(0.3)
            quiet = anonymous_bytes(server.pid)
            cpu, slept = cpu_seconds(server.pid), wakeups(server.pid)
            time.sleep(self.seconds)
            cpu, slept = cpu_seconds(server.pid) - cpu, wakeups(server.pid) - slept
            for connection in connections:
                echo(connection, 100_000)
            time.sleep(0.3)
            after = anonymous_bytes(server.pid)
        count = self.connections
        return {
            "bytes per idle connection": {"bytes": (quiet - before) / count},
            "bytes per connection after 100 kB": {"bytes": (after - before) / count},
            "CPU ms per idle second": {"ms": cpu * 1e3 / self.seconds},
            "wakeups per idle second": {"count": slept / self.seconds},
        }

    @staticmethod
    def connect(
        stack: contextlib.ExitStack, host: str, port: str, context: ssl.SSLContext | None
    ) -> socket.socket:
        """Open a connection and have a message echoed, so that the server has seen it."""
        connection = socket.create_connection((host, int(port)), timeout=10)
        if context:
            connection = context.wrap_socket(connection, server_hostname="localhost")
        stack.enter_context(connection)
        echo(connection, 1)
        return connection


def echo(connection: socket.socket, size: int) -> None:
    """Send `size` bytes in pieces that fit any buffer and receive them back."""
    piece = b"x" * min(size, 50_000)
    for _ in range(max(1, size // 50_000)):
        connection.sendall(piece)
        left = len(piece)
        while left:
            received = len(connection.recv(left))
            if not received:
                raise RunError("the server closed an idle connection")
            left -= received


def spell_size(size: int) -> str:
    """Spell a number of bytes."""
    if size >= 1024 and size % 1024 == 0:
        return f"{size // 1024} KiB"
    return f"{size // 1000} kB" if size >= 1000 and size % 1000 == 0 else f"{size} B"
