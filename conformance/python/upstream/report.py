"""What a run found: in words, as a table for the terminal, and as one in Markdown."""

import sys
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from supervise import Report, Result
from verdict import Verdict

LINES_SHOWN = 25
LOG_WIDTH = 120
HEAD = (
    "suite",
    "loop",
    "passed",
    "passed on asyncio",
    "worse",
    "expected",
    "at another try",
    "zloop ran in",
    "seconds",
    "",
)


@dataclass
class Row:
    """One suite on one loop, beside asyncio."""

    suite: str
    backend: str
    asyncio: Report
    candidate: Report
    verdict: Verdict
    flaky: dict[str, Result]

    @property
    def name(self) -> str:
        return f"{self.suite} on {self.backend}"

    def cells(self) -> list[str]:
        return [
            self.suite,
            self.backend,
            str(self.candidate.count("passed")),
            str(self.asyncio.count("passed")),
            str(len(self.verdict.regressions) + len(self.verdict.missing)),
            str(len(self.verdict.expected)),
            str(len(self.flaky)),
            str(self.candidate.passed_on("zloop")),
            f"{self.candidate.seconds:.0f}",
            "ok" if self.verdict.held else "FAILED",
        ]


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
    for message, tests in by_message(row.verdict.regressions).items():
        print()
        for test in tests:
            outcome = row.verdict.regressions[test].outcome
            print(f"---- {row.name}: {outcome}: {test}")
        print(message)
    for test in row.verdict.missing:
        print(f"{row.name}: ran on asyncio only: {test}")
    for test in row.verdict.unexpected_passes:
        print(f"{row.name}: passes, take it out of expectations.toml: {test}")
    for test in row.verdict.unknown_expectations:
        print(f"{row.name}: expectations.toml names a test that does not exist: {test}")
    for test, result in row.flaky.items():
        print(f"{row.name}: {result.outcome} at first and passed when run again: {test}")
        print("    " + last_error(result))
    for test in row.verdict.expected:
        print(f"{row.name}: fails as expected: {test}")
    if row.verdict.problem:
        print(f"{row.name}: {row.verdict.problem}")


def show(rows: list[Row]) -> None:
    """Prints the table, and a last line to search for."""
    title = f"CPython {sys.version.split()[0]}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for index, name in enumerate(HEAD):
        table.add_column(name, justify="right" if 2 <= index < len(HEAD) - 1 else "left")
    for row in rows:
        table.add_row(*row.cells(), style=None if row.verdict.held else "red")
    # In a log or a pipe, a wide table is better than a folded one.
    terminal = sys.stdout.isatty()
    Console(width=None if terminal else LOG_WIDTH).print(table)
    failed = sum(not row.verdict.held for row in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")


def markdown(rows: list[Row]) -> str:
    """The same table for a document; seconds say more about the machine than about the loop."""
    kept = [index for index, name in enumerate(HEAD) if name not in ("seconds", "")]
    lines = [[HEAD[index] for index in kept], ["---", "---"] + ["--:"] * (len(kept) - 2)]
    lines += [[row.cells()[index] for index in kept] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
