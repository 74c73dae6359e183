"""Counts the instructions of hot paths and compares them with the counts that are committed.

Instruction counts do not depend on how busy a machine is, so they show a change of one per cent
where times show ten. They do depend on the build of CPython and on the C library: with others than
those that the committed counts are for, nothing is compared. uvloop, if it is installed where the
benchmarks install it, is counted too, and losing to it by far is a failure.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from os import environ
from pathlib import Path

BENCHES = Path(__file__).resolve().parent
COMMITTED = BENCHES / "instructions.json"
PROGRAM = BENCHES / "python" / "counted_ops.py"
PEERS = BENCHES / ".peers" / f"python-{sys.version_info.major}.{sys.version_info.minor}" / "venv"
# Carried out so many times between two marks; `BATCH` of loop_ops.py.
TIMES = 1000
# A path may take so many times the committed instructions.
TOLERANCE = 1.05
# And so many times those of uvloop.
GROSS = 1.25
# Only zloop: other loops run this one in another order, and wait for themselves.
OURS_ALONE = "echo"


class Unavailable(Exception):
    """Why nothing can be counted here."""


def interpreter() -> str:
    """Describe everything but zloop that the counts depend on."""
    libc = " ".join(platform.libc_ver())
    return f"CPython {' '.join(sys.version.split())}, {libc}, {platform.machine()}"


def count(python: str, loop: str, only: list[str]) -> dict[str, Counter[str]]:
    """Return instructions per operation by the library they are in, for each operation."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise Unavailable("valgrind is not installed")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        command = [valgrind, "--tool=callgrind", "--dump-before=getppid"]
        command += [f"--callgrind-out-file={out}", python, str(PROGRAM), "--loop", loop]
        command += [word for name in only for word in ("--only", name)]
        # A fixed seed keeps dictionaries the same from run to run.
        variables = {**environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        ran = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=300, check=False
        )
        if ran.returncode:
            lines = [line for line in ran.stderr.splitlines() if not line.startswith("==")]
            raise Unavailable(f"the program failed under callgrind: {' / '.join(lines[-3:])}")
        counts = {}
        for index, name in enumerate(ran.stdout.splitlines()):
            # Each operation leaves three files: what came before it, the overhead, and itself.
            overhead, whole = (by_library(Path(f"{out}.{3 * index + part}")) for part in (2, 3))
            whole.subtract(overhead)
            counts[name] = Counter({library: n // TIMES for library, n in whole.items()})
    return counts


def by_library(path: Path) -> Counter[str]:
    """Add up a file of callgrind by shared library: our own, the C library, CPython."""
    names: dict[str, str] = {}
    totals: Counter[str] = Counter()
    library, called = "", False
    for line in path.read_text().splitlines():
        if found := re.match(r"c?ob=\((\d+)\)(?: (.*))?", line):
            number, name = found.groups()
            if name:
                names[number] = Path(name).name
            if line.startswith("ob="):
                library = group(names[number])
        elif line.startswith("calls="):
            # The next line is the cost of what is called, which its own lines say again.
            called = True
        elif re.match(r"[0-9+*-]", line):
            if not called:
                totals[library] += int(line.rsplit(maxsplit=1)[1])
            called = False
    return totals


def group(library: str) -> str:
    """Return which of three columns a shared library belongs to."""
    if library.startswith("libc."):
        return "libc"
    # CPython's own extension modules count as CPython.
    ours = library.startswith(("_zloop.", "loop.cpython"))
    return "loop" if ours else "python"


def uvloop_counts(only: list[str]) -> dict[str, Counter[str]]:
    """Count uvloop's instructions where both have the operation; nothing if it is not here."""
    python = PEERS / "bin" / "python"
    try:
        installed = [str(python), "-c", "import uvloop, sys; print(sys.version)"]
        ran = subprocess.run(installed, capture_output=True, text=True, timeout=60, check=False)
        if ran.stdout.strip() != sys.version.strip():
            raise Unavailable("it is not installed for this interpreter (make bench installs it)")
        return count(str(python), "uvloop", only)
    except (OSError, Unavailable) as error:
        print(f"uvloop is left out: {error}")
        return {}


def compare(
    counted: dict[str, Counter[str]],
    committed: dict[str, int],
    uvloop: dict[str, Counter[str]],
) -> list[str]:
    """Print the table and return what is wrong."""
    wrong = []
    print(f"{'instructions':38} {'all':>7} {'loop':>7} {'libc':>6} {'was':>7} {'uvloop':>7}")
    for name, counts in counted.items():
        total, before = counts.total(), committed.get(name)
        peer = uvloop[name].total() if name in uvloop else None
        columns = [f"{total:7,} {counts['loop']:7,} {counts['libc']:6,}"]
        columns += [f"{number:7,}" if number else f"{'-':>7}" for number in (before, peer)]
        print(f"{name:38} {' '.join(columns)}", end="")
        print(f"  {total / before - 1:+.1%}" if before else "")
        if before and total > before * TOLERANCE:
            wrong.append(f"{name}: {total:,} instructions instead of {before:,}")
        if peer and total > peer * GROSS:
            wrong.append(f"{name}: {total / peer:.2f} times the instructions of uvloop")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="commit to the counts of this run")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--loop", default="zloop:epoll", help="another one is only shown")
    options = parser.parse_args()
    try:
        counted = count(sys.executable, options.loop, options.only)
    except Unavailable as reason:
        print(f"instructions: not counted, because {reason}")
        return
    committed = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {}
    ours = options.loop == "zloop:epoll"
    if options.update and ours:
        old = committed.get("counts", {}) if options.only else {}
        counts = old | {name: counts.total() for name, counts in counted.items()}
        committed = {"interpreter": interpreter(), "counts": counts}
        COMMITTED.write_text(json.dumps(committed, indent=2) + "\n")
    comparable = ours and committed.get("interpreter") == interpreter()
    if ours and not comparable:
        print(
            f"The committed counts are not compared: they are for {committed.get('interpreter')},"
        )
        print(f"and this is {interpreter()}.")
    shared = [name for name in counted if not name.startswith(OURS_ALONE)]
    uvloop = uvloop_counts(shared) if ours else {}
    wrong = compare(counted, committed["counts"] if comparable else {}, uvloop)
    if wrong:
        sys.exit("\n".join(["Too many instructions:", *wrong, "If that is meant: --update"]))


if __name__ == "__main__":
    main()
