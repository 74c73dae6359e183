"""Several loops at once, each in a thread of its own: what free-threaded CPython is for."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from harness.environment import SCRIPTS
from harness.processes import RunError, python_server
from harness.workloads import Bench, Metrics, Workload, spell_size


@dataclass(frozen=True)
class Parallel(Workload):
    """Echo servers and their clients in one loop, in two, in four, up to one for each core.

    One measurement takes them all, one after the other, so that the scaling is that of neighbours
    in time.
    """

    mode: str
    size: int
    connections: int

    @property
    def group(self) -> str:
        return "parallel loops"

    @property
    def title(self) -> str:
        return f"{self.mode} {spell_size(self.size)}, {self.connections} connections per loop"

    def measure(self, bench: Bench, loop: str) -> dict[str, Metrics | str]:
        rows: dict[str, Metrics | str] = {}
        alone: float | None = None
        for count in counts():
            found = self.run(bench, loop, count)
            alone = alone or found["cpu_us"]
            # By CPU time, since the cores of a shared machine are never all ours: how many times
            # the work of one loop all of them do with a core each.
            found["scaling"] = count * alone / found["cpu_us"]
            rows[f"{self.title}, {count} loop{'s' if count > 1 else ''}"] = found
        return rows

    def run(self, bench: Bench, loop: str, count: int) -> Metrics:
        """Run `count` loops in a fresh process."""
        timing = bench.timing
        arguments = ["--loops", count, "--mode", self.mode, "--size", self.size]
        arguments += ["--connections", self.connections]
        arguments += ["--warmup", timing.warmup, "--duration", timing.duration]
        script = SCRIPTS / "parallel_echo.py"
        command, variables = python_server(bench.environment, loop, script, *map(str, arguments))
        limit = timing.warmup + timing.duration + 60
        try:
            done = subprocess.run(
                command, env=variables, capture_output=True, text=True, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            raise RunError("it hung") from None
        if done.returncode or not done.stdout:
            raise RunError((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
        report = json.loads(done.stdout)
        if report["gil"]:
            raise RunError("it turned the global interpreter lock on")
        return {
            "per_s": report["round_trips_per_s"],
            "cpu_us": report["cpu_us_per_round_trip"],
            "core_wait_share": report["core_wait_share"],
        }


def counts() -> Iterator[int]:
    """Yield 1, 2, 4, ... up to the number of cores."""
    count = 1
    while count <= (os.process_cpu_count() or 1):
        yield count
        count *= 2
