"""Compares a suite's run on zloop with its run on asyncio and with expectations.toml."""

import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from supervise import PASSES, Report, Result


@dataclass(frozen=True)
class Expectation:
    """A known failure; `backend` is a name or `*`. `since` is the first Python whose own suite has the test."""

    suite: str
    id: str
    backend: str
    reason: str
    since: str = "3"

    def covers(self, suite: str, backend: str) -> bool:
        there = sys.version_info >= tuple(map(int, self.since.split(".")))
        return there and self.suite == suite and self.backend in ("*", backend)


def load_expectations(path: Path, known_suites: set[str]) -> list[Expectation]:
    with open(path, "rb") as file:
        entries = tomllib.load(file).get("expect", [])
    # One reason may go for several tests.
    expectations = [
        Expectation(id=test, **entry)
        for entry in entries
        for test in entry.pop("ids", None) or [entry.pop("id")]
    ]
    for entry in expectations:
        if entry.suite not in known_suites or not entry.reason.strip():
            raise ValueError(f"{path.name}: {entry.id}: no such suite, or no reason")
    return expectations


@dataclass
class Verdict:
    """What the comparison of one suite on one backend found. Empty lists and no `problem`: it held."""

    regressions: dict[str, Result] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected_passes: list[str] = field(default_factory=list)
    unknown_expectations: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    fail_on_asyncio_too: int = 0
    problem: str = ""

    @property
    def held(self) -> bool:
        return not (
            self.regressions
            or self.missing
            or self.unexpected_passes
            or self.unknown_expectations
            or self.problem
        )


def regressions(baseline: Report, candidate: Report) -> dict[str, Result]:
    """The tests that pass on asyncio and not on the candidate."""
    return {
        test: result
        for test, result in candidate.results.items()
        if result.outcome not in PASSES
        and (test not in baseline.results or baseline.results[test].outcome in PASSES)
    }


def compare(
    baseline: Report, candidate: Report, expectations: list[Expectation], *, on_zloop: bool
) -> Verdict:
    """`expectations` are those that cover this suite and backend."""
    reasons = {entry.id: entry.reason for entry in expectations}
    verdict = Verdict()
    for test, result in regressions(baseline, candidate).items():
        if test in reasons:
            verdict.expected.append(test)
        else:
            verdict.regressions[test] = result
    verdict.missing = sorted(baseline.results.keys() - candidate.results.keys())
    for test in reasons:
        if test not in candidate.results:
            verdict.unknown_expectations.append(test)
        elif test not in verdict.expected:
            verdict.unexpected_passes.append(test)
    verdict.fail_on_asyncio_too = sum(
        result.outcome not in PASSES
        and test in baseline.results
        and baseline.results[test].outcome not in PASSES
        for test, result in candidate.results.items()
    )
    if baseline.count("passed") == 0:
        verdict.problem = "no test passed on asyncio: the suite itself does not run here"
    # A process that ends before its tests do tells nothing of the loops it made, only of those that ran in a test.
    elif on_zloop and not (candidate.loops["zloop"] or candidate.passed_on("zloop")):
        verdict.problem = "the suite never made a zloop loop, so it proved nothing"
    return verdict
