"""Compares event loops: `python benches/run.py --help`, and docs/BENCHMARKING.md.

The first run makes a virtual environment in benches/.peers, installs the peers there, and builds
the load generator and zloop; then it starts itself again inside.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.environment import BENCHES, GROUPS, HarnessError, enter_venv


def numbers(text: str) -> list[int]:
    """Read a list of positive numbers."""
    found = [int(word) for word in text.split(",")]
    if min(found) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return found


def words(text: str) -> list[str]:
    """Read a list of words."""
    return [word.strip() for word in text.split(",") if word.strip()]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    what = parser.add_argument_group("what to measure")
    what.add_argument("--quick", action="store_true", help="a few rows, within three minutes")
    what.add_argument("--only", type=words, metavar="GROUPS", help=f"of {','.join(GROUPS)}")
    what.add_argument(
        "--loops", type=words, help="such as asyncio,uvloop,zloop,zloop:epoll,base; default all"
    )
    what.add_argument("--modes", type=words, help="of the echo server: proto,buffered,streams")
    what.add_argument("--sizes", type=numbers, help="bytes per message, such as 1024,102400")
    what.add_argument("--bodies", type=numbers, help="bytes per HTTP reply, such as 20,100000")
    what.add_argument("--conns", type=numbers, help="connections, such as 1,8,64")
    what.add_argument("--rounds", type=int, default=3)
    what.add_argument("--duration", type=float, help="seconds that each measurement lasts")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--cores", metavar="SERVER,LOAD", help="default: the first two this process may use"
    )
    how.add_argument(
        "--zloop", metavar="FOLDER", help="take a built zloop from here instead of building it"
    )
    how.add_argument(
        "--base", metavar="FOLDER", help="another built zloop, which is then called base"
    )
    how.add_argument(
        "--pgo", action="store_true", help="build zloop as `make wheel PGO=1` does, slowly"
    )
    how.add_argument("--refresh", action="store_true", help="install the newest peers again")
    out = parser.add_argument_group("output")
    out.add_argument(
        "--output", type=Path, metavar="FILE", help="default: benches/results/DATE.json"
    )
    out.add_argument("--charts", type=Path, metavar="FOLDER", help="default: benches/results")
    out.add_argument(
        "--markdown", nargs="?", const="-", metavar="FILE", help="write the tables in Markdown"
    )
    out.add_argument(
        "--render", type=Path, metavar="JSON", help="measure nothing, show these results"
    )
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(GROUPS)
    if unknown:
        parser.error(f"unknown group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    if options.rounds < 1:
        parser.error("there must be at least one round")
    return options


def main() -> None:
    options = parse()
    try:
        enter_venv(BENCHES / "requirements.txt", options.refresh)
        # Only now is what this imports installed.
        from harness import command

        command.run(options)
    except HarnessError as error:
        sys.exit(f"benches: {error}")


if __name__ == "__main__":
    main()
