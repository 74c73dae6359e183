"""What `run.py` does once it runs in the virtual environment."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from harness import charts, report, session
from harness.environment import (
    PEER_NAMES,
    RESULTS,
    Environment,
    HarnessError,
    available_loops,
    describe,
    prepare,
)
from harness.results import Results


def run(options: argparse.Namespace) -> None:
    """Measure what `options` ask for, or read it, and publish it."""
    publish(options, read_or_measure(options))


def read_or_measure(options: argparse.Namespace) -> Results:
    """Return results: those asked for, or new ones."""
    if options.render:
        return Results.read(options.render)
    environment = prepare(
        options.zloop,
        options.base,
        options.pgo,
        () if options.quick else options.loops or PEER_NAMES,
    )
    loops = choose_loops(options, environment)
    machine = describe(environment)
    results = session.run(options, environment, machine, loops)
    stamp = str(machine["date"]).replace(":", "").replace(" ", "-").removesuffix("-UTC")
    path = options.output or RESULTS / f"{stamp}.json"
    results.save(path)
    print(f"Every sample is in {path}")
    return results


def publish(options: argparse.Namespace, results: Results) -> None:
    """Show the results, draw them, and write them in Markdown if asked to."""
    report.show(results, Console())
    for path in charts.draw(results, options.charts or RESULTS):
        print(f"Chart: {path}")
    if options.markdown == "-":
        print(report.markdown(results))
    elif options.markdown:
        Path(options.markdown).write_text(report.markdown(results))


def choose_loops(options: argparse.Namespace, environment: Environment) -> list[str]:
    """Return the loops to measure, without those that are missing."""
    if not options.loops:
        return available_loops(environment)
    loops = [loop for loop in options.loops if loop.partition(":")[0] not in environment.missing]
    for loop in set(options.loops) - set(loops):
        print(f"{loop} is left out: {environment.missing[loop.partition(':')[0]]}")
    if not loops:
        raise HarnessError("no loop is left to measure")
    return loops
