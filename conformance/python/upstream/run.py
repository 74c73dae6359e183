"""Runs the test suites of other projects on zloop and compares them, test by test, with asyncio.

    run.py --suite uvicorn --backend epoll

The released source distribution and the suite's requirements come from PyPI and are kept in .cache/.
Fails when a test that passes on asyncio fails on zloop and expectations.toml does not say why.
`--backend asyncio` compares asyncio with itself, which must always hold. uvloop's own suite is compared
with uvloop as well: what passes on either must pass on zloop. `--tls portable` has zloop make TLS records by
Python's own objects, and `--match 'ssl|tls'` runs only the tests in whose names that is found.
"""

import argparse
import json
import re
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import suites
import supervise
import verdict
from report import Row, explain, markdown, show
from suites import Suite
from supervise import Report, Result
from verdict import Expectation, Verdict

RETRIES = 2


def run_suite(
    suite: Suite, backend: str, only: list[str] | None = None, tls: str = "auto"
) -> Report:
    python, folder = suites.interpreter(suite), suites.source(suite)
    command = [str(python), "-m", "pytest", "-p", "loop_plugin", "-o", "addopts=", "-q"]
    command += ["-p", "no:cacheprovider", "--continue-on-collection-errors", *suite.tests]
    if suite.from_stdlib:
        command += [f"--rootdir={folder}"]
    variables = {"UPSTREAM_BACKEND": backend, "ZLOOP_TLS": tls}
    if suite.classes:
        variables["UPSTREAM_CLASSES"] = "1"
    if suite.uvloop:
        variables["UPSTREAM_UVLOOP"] = "1"
    if suite.installed:
        variables["PYTHONSAFEPATH"] = "1"
    environment = suites.environment(**variables)
    return supervise.run(command, folder, environment, suite.limit, only or ())


def baseline(suite: Suite, loop: str, *, fresh: bool = False) -> Report:
    """The suite on another loop; kept, because neither the suite nor that loop changes between two runs."""
    name = f"{suite.name}-{suites.TAG}-{loop}-{suite.fingerprint}.json"
    path = suites.CACHE / "baselines" / name
    if path.exists() and not fresh:
        return Report.load(json.loads(path.read_text()))
    print(f"{suite.label} on {loop}", flush=True)
    report = run_suite(suite, loop)
    # A failure that does not last, of a port that was taken for example, must not excuse one of zloop's.
    settle(suite, loop, Report(), report, set(), "auto")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(report)))
    return report


def settle(
    suite: Suite, backend: str, before: Report, after: Report, expected: set[str], tls: str
) -> dict[str, Result]:
    """Runs again what failed on the candidate alone; returns, for the tests that passed at another try,
    how they had failed.

    A test must fail each time to count as a failure. What passes is named in the report all the same.
    """
    flaky: dict[str, Result] = {}
    for _ in range(RETRIES):
        failing = verdict.regressions(before, after).keys() - expected
        if not failing:
            break
        again = run_suite(suite, backend, sorted(failing), tls)
        for test, result in again.results.items():
            if result.outcome in supervise.PASSES:
                flaky[test] = after.results[test]
                after.results[test] = result
    return flaky


def candidate(
    suite: Suite, backend: str, before: Report, expected: set[str], options: argparse.Namespace
) -> tuple[Report, dict[str, Result]]:
    """The suite on the candidate, with the failures settled; kept for `--last`."""
    label = called(backend, options)
    print(f"{suite.label} on {label}", flush=True)
    after = run_suite(
        suite, backend, sorted(before.results) if options.match else None, options.tls
    )
    flaky = settle(suite, backend, before, after, expected, options.tls)
    path = last_result(suite, label)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {"flaky": {test: asdict(result) for test, result in flaky.items()}, **asdict(after)}
    path.write_text(json.dumps(stored))
    return after, flaky


def called(backend: str, options: argparse.Namespace) -> str:
    """The name of what is tested: the backend, and what else is not as usual."""
    tls = f"{options.tls} TLS" if options.tls != "auto" else ""
    return " ".join(filter(None, [backend, tls, options.match]))


def last_result(suite: Suite, label: str) -> Path:
    name = re.sub(r"\W+", "-", f"{suite.name}-{suites.TAG}-{label}")
    return suites.CACHE / "results" / f"{name}.json"


def last_candidate(suite: Suite, label: str) -> tuple[Report, dict[str, Result]]:
    stored = json.loads(last_result(suite, label).read_text())
    flaky = {test: Result(**result) for test, result in stored.pop("flaky").items()}
    return Report.load(stored), flaky


def examine(
    suite: Suite, backend: str, ledger: list[Expectation], options: argparse.Namespace
) -> Row | None:
    """The row of a suite on a backend; none if no test is called as wanted."""
    asyncios = reference = baseline(suite, "asyncio", fresh=options.fresh)
    if suite.uvloop:
        reference = supervise.better_of(asyncios, baseline(suite, "uvloop", fresh=options.fresh))
    asyncios, reference = (report.matching(options.match) for report in (asyncios, reference))
    if options.match and not reference.results:
        print(f"{suite.label}: no test has {options.match!r} in its name", flush=True)
        return None
    covering = [entry for entry in ledger if entry.covers(suite.name, backend)]
    covering = [entry for entry in covering if supervise.matches(options.match, entry.id)]
    if options.last:
        after, flaky = last_candidate(suite, called(backend, options))
    else:
        expected = {entry.id for entry in covering}
        after, flaky = candidate(suite, backend, reference, expected, options)
    found = verdict.compare(reference, after, covering, on_zloop=backend != "asyncio")
    return Row(suite.label, called(backend, options), asyncios, after, found, flaky)


def peer(suite: Suite, match: str) -> Row:
    """The row of uvloop itself in its own suite; it is compared with nothing."""
    asyncios, after = (baseline(suite, loop).matching(match) for loop in ("asyncio", "uvloop"))
    return Row(suite.label, "uvloop", asyncios, after, Verdict(), {})


def choose_backends(wanted: list[str]) -> list[str]:
    sys.path.insert(0, str(suites.REPOSITORY / "python"))
    if wanted == ["asyncio"]:
        return wanted
    import zloop

    available = zloop.available_backends()
    if unknown := set(wanted) - {*available, "asyncio"}:
        raise SystemExit(f"no such backend here: {sorted(unknown)}; there are {available}")
    return wanted or available


def parse(known: dict[str, Suite]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run other projects' test suites on zloop.")
    parser.add_argument("--suite", action="append", choices=list(known), default=[])
    parser.add_argument("--backend", action="append", default=[], help="default: every one here")
    parser.add_argument("--tls", choices=["auto", "portable"], default="auto")
    parser.add_argument("--match", default="", help="only tests with this regex in their names")
    parser.add_argument("--fresh", action="store_true", help="run the other loops again, too")
    parser.add_argument("--last", action="store_true", help="run nothing; show the last results")
    parser.add_argument("--markdown", action="store_true", help="write the table in Markdown, too")
    return parser.parse_args()


def main() -> int:
    # An end that is asked for politely still ends the suite's own processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # A shell has what it starts in the background ignore Ctrl-C, and so would the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    known = suites.load()
    options = parse(known)
    backends = choose_backends(options.backend)
    ledger = verdict.load_expectations(Path(__file__).with_name("expectations.toml"), set(known))
    rows = []
    for suite in [known[name] for name in options.suite or known]:
        examined = [examine(suite, backend, ledger, options) for backend in backends]
        rows += [row for row in examined if row]
        if suite.uvloop and any(examined):
            rows.append(peer(suite, options.match))
    for row in rows:
        explain(row)
    show(rows)
    if options.markdown:
        print(markdown(rows))
    return 0 if rows and all(row.verdict.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
