"""Runs the test suites one after the other and sums them up.

    run_tests.py                       everything
    run_tests.py rust | python         one half
    run_tests.py clauses               a line for each clause on each backend that opens here
    run_tests.py conform --backend X   both conformance suites on one backend

Each suite's own output is shown as it comes; the table at the end has its counts and seconds, and
target/test-times.tsv the seconds of every Python test. A suite that ran no test is a failure.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONFORMANCE = "conformance/python"
SLOWEST_SHOWN = 10


@dataclass
class Outcome:
    """What one suite did. `times` holds the seconds of its single tests, where the runner tells."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    times: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    name: str
    run: Callable[[], Outcome]


def cargo(*arguments: str) -> Outcome:
    """Runs `cargo test` and adds up its `test result:` lines."""
    command = ["cargo", "test", *arguments]
    outcome = Outcome()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := re.match(
                r"test result: .* (\d+) passed; (\d+) failed; (\d+) ignored", line
            ):
                outcome.passed += int(found[1])
                outcome.failed += int(found[2])
                outcome.skipped += int(found[3])
    # Without a failed test it is the build that failed, or a test that ended the process.
    if process.returncode != 0 and outcome.failed == 0:
        outcome.failed = 1
    return outcome


def pytest(*arguments: str) -> Outcome:
    """Runs pytest in a process of its own and reads the report that it leaves."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        if not report.exists():
            return Outcome(failed=1)
        suite = ElementTree.parse(report).getroot()[0]
    counts = {
        name: int(suite.get(name, "0")) for name in ("tests", "errors", "failures", "skipped")
    }
    outcome = Outcome(failed=counts["errors"] + counts["failures"], skipped=counts["skipped"])
    outcome.passed = counts["tests"] - outcome.failed - outcome.skipped
    if status != 0 and outcome.failed == 0:
        outcome.failed = 1
    for case in suite.iter("testcase"):
        outcome.times[f"{case.get('classname')}::{case.get('name')}"] = float(case.get("time", "0"))
    return outcome


RUST = [
    Suite("backends", lambda: cargo("--package", "zloop-backends")),
    Suite("scheduler", lambda: cargo("--package", "zloop", "--no-default-features")),
    Suite("conformance, Rust", lambda: cargo("--package", "zloop-conformance")),
    Suite("load generator", lambda: cargo("--package", "zloop-bench")),
]

PYTHON = [
    Suite("conformance, Python", lambda: pytest(CONFORMANCE)),
    Suite("upstream runner", lambda: pytest("conformance/python/upstream")),
    Suite("examples", lambda: pytest("examples")),
]


def conform(backend: str, features: str) -> list[Suite]:
    """Both conformance suites, narrowed to one backend where it is named."""
    if not backend:
        return [RUST[2], PYTHON[0]]
    if backend == "kqueue" and sys.platform == "linux" and not features:
        print(
            "kqueue: skipped: on Linux it needs libkqueue, 2.7 or newer, and pkg-config finds none"
        )
        return []
    os.environ["ZLOOP_REQUIRE"] = backend  # one that cannot open here is a failure, not a skip
    os.environ["ZLOOP_TEST_BACKENDS"] = f"asyncio,{backend}"
    suites = [Suite(f"conformance, Rust, {backend}", lambda: clauses(backend, features=features))]
    if backend in loops_run_on():
        suites.append(Suite(f"conformance, Python, {backend}", lambda: pytest(CONFORMANCE)))
    return suites


def loops_run_on() -> list[str]:
    """The backends on which a loop can be made here: not `sim`, which lives in memory, for one."""
    command = [sys.executable, "-c", "import zloop; print(*zloop.available_backends())"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def clauses(*backends: str, features: str = "") -> Outcome:
    """Runs the contract's cases, with one line for each clause, on all backends if none is named."""
    command = ["cargo", "run", "--quiet", "--package", "zloop-conformance", "--bin", "conform"]
    command += ["--features", features] if features else []
    outcome = Outcome()
    with subprocess.Popen(
        [*command, "--", *backends], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := re.search(r"(\d+) of (\d+) cases passed", line):
                outcome.passed += int(found[1])
                outcome.failed += int(found[2]) - int(found[1])
    # Without a failed case it is the build that failed, or a backend that is missing.
    if process.returncode != 0 and outcome.failed == 0:
        outcome.failed = 1
    return outcome


def run(suites: list[Suite]) -> list[tuple[Suite, Outcome, float]]:
    results = []
    for suite in suites:
        print(f"\n==== {suite.name} ====", flush=True)
        start = time.monotonic()
        outcome = suite.run()
        if outcome.passed + outcome.failed == 0:
            print(f"no test of {suite.name!r} ran")
            outcome.failed = 1
        results.append((suite, outcome, time.monotonic() - start))
    return results


def summarise(results: list[tuple[Suite, Outcome, float]]) -> int:
    """Prints the table and the closing line; returns the number of failures."""
    times = {name: spent for _, outcome, _ in results for name, spent in outcome.times.items()}
    slowest = sorted(times.items(), key=lambda item: item[1], reverse=True)
    if slowest:
        (ROOT / "target").mkdir(exist_ok=True)
        lines = (f"{spent:.3f}\t{name}\n" for name, spent in slowest)
        (ROOT / "target" / "test-times.tsv").write_text("".join(lines))
        print("\nThe slowest Python tests (all of them: target/test-times.tsv)")
        for name, spent in slowest[:SLOWEST_SHOWN]:
            print(f"  {spent:7.2f} s  {name}")

    print(f"\nPython {sys.version.split()[0]}{' free-threaded' if 't' in sys.abiflags else ''}")
    print(f"  {'suite':28} {'passed':>7} {'failed':>7} {'skipped':>7} {'seconds':>8}")
    for suite, outcome, spent in results:
        row = f"{outcome.passed:7} {outcome.failed:7} {outcome.skipped:7} {spent:8.1f}"
        print(f"  {suite.name:28} {row}")
    passed = sum(outcome.passed for _, outcome, _ in results)
    failed = sum(outcome.failed for _, outcome, _ in results)
    skipped = sum(outcome.skipped for _, outcome, _ in results)
    print(f"  in {sum(spent for *_, spent in results):.0f} s\n")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Run zloop's tests.")
    parser.add_argument(
        "what", nargs="?", default="all", choices=["all", "rust", "python", "clauses", "conform"]
    )
    parser.add_argument("--backend", default="", help="for conform: this backend alone")
    parser.add_argument("--features", default="", help="for conform: how the Rust suite is built")
    options = parser.parse_args()
    suites = {
        "all": RUST + PYTHON,
        "rust": RUST,
        "python": PYTHON,
        "clauses": [Suite("contract, by clause", clauses)],
        "conform": conform(options.backend, options.features) if options.what == "conform" else [],
    }
    return 1 if summarise(run(suites[options.what])) else 0


if __name__ == "__main__":
    sys.exit(main())
