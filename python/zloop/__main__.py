"""The doctor: `python -m zloop` tells which backends work on this machine, and why the others do not."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import textwrap
from typing import Any

from . import __version__
from ._choice import chosen_backend
from ._zloop import diagnose


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m zloop", description=__doc__)
    parser.add_argument("backend", nargs="*", help="exit with 1 unless all of these work")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args()
    report = examine()
    unknown = set(arguments.backend) - {backend["name"] for backend in report["backends"]}
    if unknown:
        parser.error(f"unknown backend: {', '.join(sorted(unknown))}")
    print(json.dumps(report, indent=2) if arguments.json else describe(report))
    works = {backend["name"] for backend in report["backends"] if backend["available"]}
    return 0 if works.issuperset(arguments.backend) else 1


def examine() -> dict[str, Any]:
    """Everything that the doctor knows, in plain types."""
    backends = diagnose()
    automatic = next((backend["name"] for backend in backends if backend["automatic"]), None)
    return {
        "zloop": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "chosen": chosen_backend(None) or automatic,
        "chosen_by": "the environment" if chosen_backend(None) else "zloop",
        "backends": backends,
    }


def describe(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"zloop {report['zloop']} on CPython {report['python']}, {report['system']}", ""]
    for backend in report["backends"]:
        mark = "works" if backend["available"] else "no"
        what = (
            f"{backend['model']}: {', '.join(backend['features'])}"
            if backend["available"]
            else backend["reason"]
        )
        lines += textwrap.wrap(
            what, 78, initial_indent=f"  {backend['name']:<10}{mark:<7}", subsequent_indent=" " * 19
        )
    lines += ["", f"A new loop runs on {report['chosen']}, chosen by {report['chosen_by']}."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
