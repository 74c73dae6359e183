"""The doctor: `python -m zloop` tells which backends work on this machine, and why the others do not."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import textwrap
from typing import Any

from . import __version__
from ._choice import choose, wants_portable_tls
from ._zloop import diagnose, tls_problem


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
    return 0 if works.issuperset(arguments.backend) and not report["problem"] else 1


def examine() -> dict[str, Any]:
    """Everything that the doctor knows, in plain types."""
    backends = diagnose()
    automatic = next((backend["name"] for backend in backends if backend["automatic"]), None)
    chosen, variable, problem = automatic, None, None
    try:
        name, variable = choose(None)
    except ValueError as error:
        chosen, problem = None, str(error)
    else:
        chosen = name or automatic
        if not any(backend["name"] == chosen and backend["available"] for backend in backends):
            problem = f"{variable or 'zloop'} asks for {chosen}, which does not work here"
    tls, tls_reason = "direct", tls_problem()
    try:
        if wants_portable_tls():
            tls_reason = "ZLOOP_TLS says so"
    except ValueError as error:
        problem = problem or str(error)
    if tls_reason:
        tls = "portable"
    return {
        "zloop": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "chosen": chosen,
        "chosen_by": variable or "zloop",
        "problem": problem,
        "tls": tls,
        "tls_reason": tls_reason,
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
    tls = "TLS is direct: OpenSSL makes the records."
    if report["tls_reason"]:
        tls = f"TLS is portable: Python's objects make the records, because {report['tls_reason']}."
    return "\n".join([*lines, "", *textwrap.wrap(conclusion(report), 78), *textwrap.wrap(tls, 78)])


def conclusion(report: dict[str, Any]) -> str:
    """What a new loop runs on, and why."""
    if report["problem"]:
        return f"A new loop cannot be made: {report['problem']}."
    if report["chosen_by"] != "zloop":
        return f"A new loop runs on {report['chosen']}, because {report['chosen_by']} says so."
    candidates = [backend["name"] for backend in report["backends"] if backend["candidate"]]
    others = [backend["name"] for backend in report["backends"] if not backend["candidate"]]
    return (
        f"A new loop runs on {report['chosen']}, the first of {', '.join(candidates)} that works here; "
        f"{', '.join(others)} is taken only when it is asked for by name."
    )


if __name__ == "__main__":
    sys.exit(main())
