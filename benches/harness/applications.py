"""Workloads of other people's making: frameworks, and uvloop's own benchmark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from harness.environment import PEERS, SCRIPTS, pip
from harness.processes import RunError, cpu_seconds, pinned, python_server, serving
from harness.workloads import Bench, Load, Metrics, Workload, spell_size


@dataclass(frozen=True)
class AiohttpServer(Load):
    """aiohttp's server."""

    body: int

    @property
    def group(self) -> str:
        return "aiohttp server"

    @property
    def title(self) -> str:
        return f"aiohttp server {spell_size(self.body)}, {self.connections} connections"

    def measure(self, bench: Bench, loop: str) -> dict[str, Metrics | str]:
        command, variables = python_server(bench.environment, loop, SCRIPTS / "aiohttp_app.py")
        with serving(command, variables, bench.cores) as server:
            request = ["--path", f"/{self.body}", "--body", str(self.body)]
            return {self.title: self.load(bench, server.address, server.pid, "http", *request)}


@dataclass(frozen=True)
class WebSockets(Load):
    """The server of the package websockets."""

    size: int

    @property
    def group(self) -> str:
        return "websockets"

    @property
    def title(self) -> str:
        return f"websockets {spell_size(self.size)}, {self.connections} connections"

    def measure(self, bench: Bench, loop: str) -> dict[str, Metrics | str]:
        command, variables = python_server(bench.environment, loop, SCRIPTS / "websocket_server.py")
        with serving(command, variables, bench.cores) as server:
            size = ["--size", str(self.size)]
            return {self.title: self.load(bench, server.address, server.pid, "websocket", *size)}


@dataclass(frozen=True)
class AiohttpClient(Workload):
    """aiohttp's client, which is what is measured here; its server is uvicorn on stock asyncio."""

    connections: int
    body: int

    @property
    def group(self) -> str:
        return "aiohttp client"

    @property
    def title(self) -> str:
        return f"aiohttp client {spell_size(self.body)}, {self.connections} connections"

    def measure(self, bench: Bench, loop: str) -> dict[str, Metrics | str]:
        script, timing = SCRIPTS / "http_app.py", bench.timing
        command, variables = python_server(bench.environment, "asyncio", script)
        with serving(command, variables, bench.cores.swapped()) as server:
            url = f"http://{server.address.removeprefix('tcp:')}/{self.body}"
            arguments = ["--url", url, "--body", str(self.body)]
            arguments += ["--connections", str(self.connections)]
            arguments += ["--warmup", str(timing.warmup), "--duration", str(timing.duration)]
            script = SCRIPTS / "aiohttp_client.py"
            command, variables = python_server(bench.environment, loop, script, *arguments)
            done = subprocess.run(
                command,
                env=variables,
                capture_output=True,
                text=True,
                timeout=30 + timing.warmup + timing.duration,
                preexec_fn=pinned(bench.cores.server),
                check=False,
            )
        if done.returncode:
            raise RunError((done.stderr.strip().splitlines() or ["the client died"])[-1])
        found: Metrics = json.loads(done.stdout)
        return {self.title: found}


@dataclass(frozen=True)
class UvloopBench(Workload):
    """uvloop's own echo benchmark, as it stands in its source distribution.

    Its three clients are Python and share the core that the server leaves: they are the
    bottleneck, so its requests per second tell more about them than about the server.
    """

    mode: str
    size: int

    @property
    def group(self) -> str:
        return "uvloop benchmark"

    @property
    def title(self) -> str:
        return f"uvloop's benchmark, {self.mode} {spell_size(self.size)}"

    def measure(self, bench: Bench, loop: str) -> dict[str, Metrics | str]:
        version = bench.environment.versions.get("uvloop")
        if version is None:
            raise RunError("uvloop, whose benchmark this is, is not installed")
        folder = uvloop_bench(version)
        arguments = ["--program", str(folder / "echoserver.py"), "--mode", self.mode]
        script = SCRIPTS / "uvloop_bench.py"
        command, variables = python_server(bench.environment, loop, script, *arguments)
        count = int(bench.timing.duration * (20_000 if self.size <= 10_000 else 5_000))
        with serving(command, variables, bench.cores) as server:
            program = [sys.executable, str(folder / "echoclient.py"), "--num", str(count)]
            program += ["--msize", str(self.size), "--addr", server.address.removeprefix("tcp:")]
            before = cpu_seconds(server.pid)
            done = subprocess.run(
                program,
                capture_output=True,
                text=True,
                timeout=60 + 10 * bench.timing.duration,
                preexec_fn=pinned(bench.cores.load),
                check=False,
            )
            used = cpu_seconds(server.pid) - before
        said = re.search(r"^(\d+) in [\d.]+\n([\d.]+) requests/sec$", done.stdout, re.MULTILINE)
        if done.returncode or not said:
            raise RunError((done.stderr.strip().splitlines() or ["the client said nothing"])[-1])
        metrics = {"cpu_us": used * 1e6 / int(said[1]), "per_s": float(said[2])}
        return {self.title: metrics}


def uvloop_bench(version: str) -> Path:
    """Return the folder with uvloop's benchmark, from its source distribution."""
    folder = PEERS / f"uvloop-bench-{version}"
    if not folder.exists():
        downloads = PEERS / "downloads"
        source = ["--no-deps", "--no-binary", "uvloop", "--dest", str(downloads)]
        pip("download", *source, f"uvloop=={version}")
        prefix = f"uvloop-{version}"
        with tarfile.open(downloads / f"{prefix}.tar.gz") as archive:
            archive.extractall(downloads, filter="data")
        shutil.move(downloads / prefix / "examples" / "bench", folder)
    return folder
