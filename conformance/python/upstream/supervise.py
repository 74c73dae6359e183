"""Runs a suite in a process of its own and outlives it.

A test that hangs is ended after its limit, with the stacks of all threads; a test that takes the
process down with it is a failure like any other. In both cases the suite goes on behind that test in
a new process. The process reports by JSON lines (see loop_plugin.py).
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLL_INTERVAL = 0.1  # seconds
STARTUP_LIMIT = 180.0  # seconds without any test running: imports, collection, the last tear-down
STACK_LIMIT = 5.0  # seconds for faulthandler to write its stacks

PASSES = ("passed", "xfailed", "skipped")


def matches(pattern: str, test: str) -> bool:
    """Whether a regular expression is found in a test's name, in capitals or not."""
    return re.search(pattern, test, re.IGNORECASE) is not None


@dataclass
class Result:
    """One test: its outcome (passed, failed, skipped, xfailed, hung, crashed) and what it said.

    `loops` names the kinds of event loops that ran in the test's process meanwhile.
    """

    outcome: str
    message: str = ""
    seconds: float = 0.0
    loops: list[str] = field(default_factory=list)


@dataclass
class Report:
    """One run of one suite on one loop. `loops` counts the event loops made, by kind."""

    results: dict[str, Result] = field(default_factory=dict)
    loops: dict[str, int] = field(default_factory=lambda: {"zloop": 0, "asyncio": 0})
    seconds: float = 0.0

    @classmethod
    def load(cls, stored: dict[str, Any]) -> "Report":
        """Made of what `asdict` stored."""
        results = {test: Result(**result) for test, result in stored["results"].items()}
        return cls(results, stored["loops"], stored["seconds"])

    def count(self, *outcomes: str) -> int:
        return sum(result.outcome in outcomes for result in self.results.values())

    def matching(self, pattern: str) -> "Report":
        """Only the tests in whose names the pattern is found."""
        found = {test: result for test, result in self.results.items() if matches(pattern, test)}
        return Report(found, self.loops, self.seconds)

    def passed_on(self, loop: str) -> int:
        """The tests that passed and had this kind of loop run."""
        return sum(
            result.outcome == "passed" and loop in result.loops for result in self.results.values()
        )


def better_of(one: Report, other: Report) -> Report:
    """For each test the better of two results."""
    results = dict(other.results)
    for test, result in one.results.items():
        if test not in results or results[test].outcome not in PASSES:
            results[test] = result
    return Report(results)


class Attempt:
    """One process, from its start to its end."""

    def __init__(self, command: list[str], cwd: Path, environment: dict[str, str], limit: float):
        self.limit = limit
        self.running: str | None = None
        self.since = time.monotonic()
        self.finished = False
        self.verdict = ""
        with tempfile.TemporaryDirectory() as folder:
            self.events_path = Path(folder) / "events"
            self.events_path.touch()
            self.output_path = Path(folder) / "output"
            self.events: list[dict[str, Any]] = []
            self.read = 0
            with open(self.output_path, "wb") as output:
                self.process = subprocess.Popen(
                    command,
                    cwd=cwd,
                    env={**environment, "UPSTREAM_EVENTS": str(self.events_path)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                try:
                    self.watch()
                finally:
                    self.end_group()
            self.follow()
            self.output = last_words(self.output_path.read_text(errors="replace"))

    def watch(self) -> None:
        while self.process.poll() is None:
            time.sleep(POLL_INTERVAL)
            self.follow()
            limit = self.limit if self.running else STARTUP_LIMIT
            if time.monotonic() - self.since > limit:
                self.verdict = "hung"
                os.killpg(self.process.pid, signal.SIGABRT)  # faulthandler writes the stacks
                try:
                    self.process.wait(STACK_LIMIT)
                except subprocess.TimeoutExpired:
                    return

    def follow(self) -> None:
        """Reads the complete lines that were added since the last call."""
        with open(self.events_path) as file:
            file.seek(self.read)
            while (line := file.readline()).endswith("\n"):
                self.read += len(line.encode())
                self.take(json.loads(line))

    def take(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self.since = time.monotonic()
        if event["event"] == "start":
            self.running = event["id"]
        elif event["event"] == "finish":
            self.running = None
        elif event["event"] == "end":
            self.finished = event["complete"]

    def end_group(self) -> None:
        """Nothing that the suite started stays behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def last_words(output: str) -> str:
    """What a process said at its end; of faulthandler's stacks the top, which is where it was."""
    stacks = output.rfind("Fatal Python error")
    return output[stacks : stacks + 4000] if stacks >= 0 else output[-4000:]


class SuiteBroken(Exception):
    """The suite could not even be collected."""


def run(
    command: list[str],
    cwd: Path,
    environment: dict[str, str],
    limit: float,
    only: Iterable[str] = (),
) -> Report:
    """Runs the suite until every test has a result. `limit` is in seconds, for one test."""
    report = Report()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done_path, only_path = Path(folder) / "done", Path(folder) / "only"
        only_path.write_text(json.dumps(sorted(only)))
        while True:
            done_path.write_text(json.dumps(sorted(report.results)))
            lists = {"UPSTREAM_DONE": str(done_path), "UPSTREAM_ONLY": str(only_path)}
            attempt = Attempt(command, cwd, {**environment, **lists}, limit)
            before = len(report.results)
            collect(attempt, report)
            if attempt.finished:
                break
            if attempt.running:
                outcome = attempt.verdict or "crashed"
                report.results[attempt.running] = Result(outcome, attempt.output, limit)
            elif len(report.results) == before:
                raise SuiteBroken(attempt.output)
    report.seconds = time.monotonic() - start
    return report


def collect(attempt: Attempt, report: Report) -> None:
    started: dict[str, float] = {}
    for event in attempt.events:
        if event["event"] == "broken":
            report.results[event["id"]] = Result("failed", event["message"])
        elif event["event"] == "start":
            started[event["id"]] = event["at"]
        elif event["event"] == "finish":
            seconds = event["at"] - started[event["id"]]
            found = Result(event["outcome"], event["message"], seconds, event["loops"])
            report.results[event["id"]] = found
        elif event["event"] == "end":
            for kind, number in event["loops"].items():
                report.loops[kind] += number
