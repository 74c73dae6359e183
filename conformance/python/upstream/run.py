"""Runs the test suites of other projects on zloop and compares them, test by test, with asyncio.

    run.py --suite uvicorn --backend epoll

The released source distribution and the suite's requirements come from PyPI and are kept in .cache/.
Fails when a test that passes on asyncio fails on zloop and expectations.toml does not say why.
`--backend asyncio` compares asyncio with itself, which must always hold.
"""

import argparse
import json
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import suites
import supervise
import verdict
from suites import Suite
from supervise import Report, Result
from verdict import Verdict

DEFAULT_SUITES = ["uvicorn", "anyio", "starlette"]
RETRIES = 2
LINES_SHOWN = 25


@dataclass
class Row:
    """One line of the closing table."""

    suite: Suite
    backend: str
    baseline: Report
    candidate: Report
    verdict: Verdict
    flaky: dict[str, Result]


def run_suite(suite: Suite, backend: str, only: list[str] | None = None) -> Report:
    python, folder = suites.interpreter(suite), suites.source(suite)
    command = [str(python), "-m", "pytest", "-p", "loop_plugin", "-o", "addopts=", "-q"]
    command += ["-p", "no:cacheprovider", "--continue-on-collection-errors", *suite.tests]
    if suite.from_stdlib:
        command += [f"--rootdir={folder}"]
    variables = {"UPSTREAM_BACKEND": backend}
    if suite.classes:
        variables["UPSTREAM_CLASSES"] = "1"
    if suite.installed:
        variables["PYTHONSAFEPATH"] = "1"
    environment = suites.environment(**variables)
    return supervise.run(command, folder, environment, suite.limit, only or ())


def baseline(suite: Suite, *, fresh: bool) -> Report:
    """The suite on asyncio; kept, because neither the suite nor asyncio changes between two runs."""
    path = suites.CACHE / "baselines" / f"{suite.name}-{suites.TAG}-{suite.fingerprint}.json"
    if path.exists() and not fresh:
        stored = json.loads(path.read_text())
        results = {test: Result(**result) for test, result in stored.pop("results").items()}
        return Report(results, **stored)
    print(f"{suite.label} on asyncio", flush=True)
    report = run_suite(suite, "asyncio")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(report)))
    return report


def settle(suite: Suite, backend: str, before: Report, after: Report) -> dict[str, Result]:
    """Runs again what failed on the candidate alone; returns, for the tests that passed at another try,
    how they had failed.

    A test must fail each time to count as a failure. What passes is named in the report all the same.
    """
    flaky: dict[str, Result] = {}
    for _ in range(RETRIES):
        failing = verdict.regressions(before, after)
        if not failing:
            break
        again = run_suite(suite, backend, only=sorted(failing))
        for test, result in again.results.items():
            if result.outcome in supervise.PASSES:
                flaky[test] = after.results[test]
                after.results[test] = result
    return flaky


def examine(
    suite: Suite, backend: str, expectations: list[verdict.Expectation], *, fresh: bool
) -> Row:
    before = baseline(suite, fresh=fresh)
    print(f"{suite.label} on {backend}", flush=True)
    after = run_suite(suite, backend)
    flaky = settle(suite, backend, before, after)
    covering = [entry for entry in expectations if entry.covers(suite.name, backend)]
    found = verdict.compare(before, after, covering, on_zloop=backend != "asyncio")
    return Row(suite, backend, before, after, found, flaky)


def by_message(regressions: dict[str, Result]) -> dict[str, list[str]]:
    """Tests with one cause tend to end in the same words; each ending is worth printing once.

    An assertion comes last in a failure, the innermost frame comes first in a dump of stacks.
    """
    groups: dict[str, list[str]] = {}
    for test, result in regressions.items():
        lines = result.message.splitlines()
        shown = lines[-LINES_SHOWN:] if result.outcome == "failed" else lines[:LINES_SHOWN]
        groups.setdefault("\n".join(shown), []).append(test)
    return groups


def last_error(result: Result) -> str:
    """The exception that a failed test ended with, in one line."""
    lines = [line[1:].strip() for line in result.message.splitlines() if line.startswith("E  ")]
    return (lines or result.message.splitlines() or [""])[0][:200]


def explain(row: Row) -> None:
    """Says what went wrong, test by test."""
    head = f"{row.suite.label} on {row.backend}"
    for message, tests in by_message(row.verdict.regressions).items():
        print()
        for test in tests:
            outcome = row.verdict.regressions[test].outcome
            print(f"---- {head}: {outcome}: {test}")
        print(message)
    for test in row.verdict.missing:
        print(f"{head}: ran on asyncio only: {test}")
    for test in row.verdict.unexpected_passes:
        print(f"{head}: passes, take it out of expectations.toml: {test}")
    for test in row.verdict.unknown_expectations:
        print(f"{head}: expectations.toml names a test that does not exist: {test}")
    for test, result in row.flaky.items():
        print(f"{head}: {result.outcome} at first and passed when run again: {test}")
        print("    " + last_error(result))
    for test in row.verdict.expected:
        print(f"{head}: fails as expected: {test}")
    if row.verdict.problem:
        print(f"{head}: {row.verdict.problem}")


def table(rows: list[Row]) -> None:
    print(f"\nPython {sys.version.split()[0]}; each test on asyncio / on the candidate")
    head = ("suite", "candidate", "passed", "skipped", "failed", "worse", "expected", "flaky")
    form = "{:18} {:10} {:>13} {:>11} {:>9} {:>6} {:>8} {:>6} {:>7} {:>8}  {}"
    print(form.format(*head, "loops", "seconds", ""))
    for row in rows:
        pairs = [
            f"{row.baseline.count(*kinds)}/{row.candidate.count(*kinds)}"
            for kinds in (["passed"], ["skipped", "xfailed"], ["failed", "hung", "crashed"])
        ]
        made = row.candidate.loops["asyncio" if row.backend == "asyncio" else "zloop"]
        counts = (len(row.verdict.regressions), len(row.verdict.expected), len(row.flaky))
        state = "ok" if row.verdict.held else "FAILED"
        seconds = f"{row.candidate.seconds:.0f}"
        print(form.format(row.suite.label, row.backend, *pairs, *counts, made, seconds, state))


def choose_backends(wanted: list[str]) -> list[str]:
    sys.path.insert(0, str(suites.REPOSITORY / "python"))
    if wanted == ["asyncio"]:
        return wanted
    import zloop

    available = zloop.available_backends()
    if unknown := set(wanted) - {*available, "asyncio"}:
        raise SystemExit(f"no such backend here: {sorted(unknown)}; there are {available}")
    return wanted or available


def main() -> int:
    # An end that is asked for politely still ends the suite's own processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    known = suites.load()
    parser = argparse.ArgumentParser(description="Run other projects' test suites on zloop.")
    parser.add_argument("--suite", action="append", choices=list(known), default=[])
    parser.add_argument("--backend", action="append", default=[], help="default: every one here")
    parser.add_argument("--fresh", action="store_true", help="run asyncio's side again, too")
    options = parser.parse_args()
    backends = choose_backends(options.backend)
    expectations = verdict.load_expectations(
        Path(__file__).with_name("expectations.toml"), set(known)
    )
    rows = [
        examine(known[name], backend, expectations, fresh=options.fresh)
        for name in options.suite or DEFAULT_SUITES
        for backend in backends
    ]
    for row in rows:
        explain(row)
    table(rows)
    failed = sum(not row.verdict.held for row in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
