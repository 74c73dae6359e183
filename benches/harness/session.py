"""One run: every workload on every loop, in turn, round after round."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import trustme
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from harness.applications import AiohttpClient, AiohttpServer, UvloopBench, WebSockets
from harness.environment import FREE_THREADED, GROUPS, Environment
from harness.parallel import Parallel
from harness.processes import Cores, RunError
from harness.results import Results, is_disturbed
from harness.workloads import (
    NATIVE,
    Bench,
    Churn,
    Echo,
    Files,
    Http,
    Idle,
    Import,
    Metrics,
    Operations,
    Timing,
    TlsEcho,
    Workload,
)

QUICK_GROUPS = ["echo", "http", "ops"]
KIB = 1024


def timing(options: argparse.Namespace) -> Timing:
    """Return how long measurements last."""
    duration = options.duration or (0.4 if options.quick else 1.5)
    return Timing(
        warmup=min(0.3, duration / 3), duration=duration, operation=0.03 if options.quick else 0.2
    )


def run(
    options: argparse.Namespace,
    environment: Environment,
    machine: dict[str, object],
    loops: list[str],
) -> Results:
    """Measure everything that `options` ask for."""
    bench = Bench(environment, Cores.choose(options.cores), timing(options))
    settings: dict[str, object] = {"rounds": options.rounds, "duration_s": bench.timing.duration}
    results = Results(machine, settings, loops)
    if bench.cores.server is None:
        print("Server and load generator share their cores here: distrust the numbers.")
    with tempfile.TemporaryDirectory() as folder:
        Session(results, bench, workloads(options, Path(folder)), options.rounds).measure()
    return results


class Session:
    """Fills in results: each workload on each loop in turn, round after round."""

    def __init__(self, results: Results, bench: Bench, todo: list[Workload], rounds: int) -> None:
        self.results = results
        self.bench = bench
        self.rounds = rounds
        loops = results.loops
        self.todo = [(work, [NATIVE, *loops] if work.has_ceiling else loops) for work in todo]
        self.total = rounds * sum(len(loops) for _, loops in self.todo)
        # On a machine that is never quiet, repeating disturbed samples must come to an end.
        self.failed: set[tuple[Workload, str]] = set()
        self.repeats_left = max(3, self.total // 10)

    def measure(self) -> None:
        """Measure everything, or until the user interrupts."""
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        ) as progress:
            bar = progress.add_task("", total=self.total)
            try:
                for work, loops in self.todo:
                    for number in range(1, self.rounds + 1):
                        for loop in loops:
                            title = f"{work.title}, round {number}: {loop}"
                            progress.update(bar, description=title)
                            self.measure_once(work, loop)
                            progress.advance(bar)
            except KeyboardInterrupt:
                progress.update(bar, description="interrupted; what follows is incomplete")

    def measure_once(self, work: Workload, loop: str) -> None:
        """Measure one loop once, and once more if something disturbed that."""
        if (work, loop) in self.failed:
            return
        try:
            rows = work.measure(self.bench, loop)
            self.keep(work, loop, rows)
            spoilt = any(is_disturbed(found) for found in rows.values() if isinstance(found, dict))
            if spoilt and self.repeats_left:
                self.repeats_left -= 1
                self.keep(work, loop, work.measure(self.bench, loop))
        except RunError as error:
            self.failed.add((work, loop))
            self.results.row(work.group, work.title).trouble[loop] = str(error)

    def keep(self, work: Workload, loop: str, rows: dict[str, Metrics | str]) -> None:
        """Add what a measurement found."""
        for title, found in rows.items():
            row = self.results.row(work.group, title)
            if isinstance(found, str):
                row.trouble[loop] = found
            else:
                row.samples.setdefault(loop, []).append(found)


def workloads(options: argparse.Namespace, folder: Path) -> list[Workload]:
    """Return what to measure."""
    makers: dict[str, Callable[[argparse.Namespace], list[Workload]]] = {
        "echo": echo,
        "unix": lambda options: [
            Echo(8, mode, size, "unix")
            for mode in options.modes or ["proto", "streams"]
            for size in options.sizes or [KIB, 100 * KIB]
        ],
        "rate": lambda options: [
            Echo(count, mode, KIB, rate=10_000)
            for count in options.conns or [64]
            for mode in options.modes or ["proto", "streams"]
        ],
        "udp": lambda _: [Echo(8, "udp", KIB)],
        "sock": lambda _: [Echo(8, "sock", KIB)],
        "connections": lambda _: [Churn(8, "proto", 1), Churn(8, "streams", 1)],
        "http": lambda options: http(options, None, None),
        "https": lambda options: http(options, *certificate(folder)),
        "sendfile": lambda _: [Files(8, 10_000), Files(1, 10_000_000), Files(8, 10_000_000)],
        "tls": lambda options: [
            TlsEcho(count, size, *certificate(folder))
            for count in options.conns or [1, 8]
            for size in options.sizes or [20, 100 * KIB, KIB * KIB]
        ],
        "aiohttp": lambda _: [AiohttpServer(32, body) for body in (20, 100_000)],
        "client": lambda _: [AiohttpClient(8, body) for body in (20, 100_000)],
        "websockets": lambda _: [WebSockets(8, size) for size in (KIB, 100 * KIB)],
        "uvloop-bench": lambda options: [
            UvloopBench(mode, size)
            for mode in options.modes or ["proto", "buffered", "streams"]
            for size in options.sizes or [1000, 10_000, 100_000]
        ],
        "ops": lambda _: [Operations()],
        "parallel": parallel,
        "idle": lambda options: [Idle(1000 if options.quick else 10_000, 2.0)],
        "tls-idle": lambda options: [
            Idle(count, 2.0, *certificate(folder))
            for count in options.conns or [1000 if options.quick else 10_000]
        ],
        "import": lambda _: [Import()],
    }
    groups = options.only or (QUICK_GROUPS if options.quick else GROUPS)
    return [workload for group in groups for workload in makers[group](options)]


def echo(options: argparse.Namespace) -> list[Workload]:
    """Return the rows of the echo table: those asked for, or a selection."""
    if options.modes or options.sizes or options.conns:
        return [
            Echo(count, mode, size)
            for count in options.conns or [8]
            for mode in options.modes or ["proto", "buffered", "streams"]
            for size in options.sizes or [KIB, 10 * KIB, 100 * KIB]
        ]
    if options.quick:
        return [Echo(8, "proto", KIB), Echo(8, "streams", KIB), Echo(8, "proto", 100 * KIB)]
    modes = ["proto", "buffered", "streams"]
    rows: list[Workload] = [
        Echo(8, mode, size) for mode in modes for size in (KIB, 10 * KIB, 100 * KIB)
    ]
    return rows + [
        Echo(count, mode, KIB) for count in (1, 64, 512) for mode in ("proto", "streams")
    ]


def parallel(options: argparse.Namespace) -> list[Workload]:
    """Return the rows of several loops in one process."""
    if not FREE_THREADED:
        print("parallel: left out, since threads share a core under a GIL; use PYTHON=3.14t")
        return []
    return [
        Parallel(mode, size, count)
        for mode in options.modes or ["proto", "streams"]
        for size in options.sizes or [KIB]
        for count in options.conns or [8]
    ]


def http(
    options: argparse.Namespace, certificate: str | None, authority: str | None
) -> list[Workload]:
    """Return the rows of HTTP, or of HTTPS if there is a certificate."""
    bodies = options.bodies or ([20] if options.quick else [20, 10_000, 100_000])
    counts = options.conns or [32]
    return [Http(count, body, certificate, authority) for count in counts for body in bodies]


def certificate(folder: Path) -> tuple[str, str]:
    """Make a certificate for localhost; return the files of it, with its key, and of its issuer."""
    authority = trustme.CA()
    made, trusted = folder / "server.pem", folder / "authority.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(made)
    authority.cert_pem.write_to_path(trusted)
    return str(made), str(trusted)
