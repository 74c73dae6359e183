"""Writes the API table of docs/compatibility.md: zloop's column from the code that runs, the others' from a file.

`python api_table.py` writes the table anew; `python api_table.py PYTHON` first asks the other event loops that this
interpreter can import (`make bench` installs them, in a virtual environment in benches/.peers) and keeps what they
answer, with their versions, in api_peers.json. test_api_table.py fails when the table is not what would be written.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import api_probe
import zloop

HERE = Path(__file__).parent
PEERS = HERE / "api_peers.json"
DOCUMENT = HERE.parent.parent / "docs" / "compatibility.md"
NAMES = ("uvloop", "rloop", "rsloop", "zuvloop")
BEGIN, END = "<!-- the API table: api_table.py -->", "<!-- the end of the API table -->"
GOOD = {"works": "works", "there": "there", "missing": "**missing**"}


def refresh(python: str) -> None:
    """Ask the peers, each in a process of its own."""
    peers = {}
    for name in NAMES:
        command = [python, str(HERE / "api_probe.py"), name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        peers[name] = json.loads(done.stdout)
    command = [python, "-c", "import platform; print(platform.python_version())"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    # What works is most of it, and follows from the names that asyncio has.
    for peer in peers.values():
        api = peer["api"]
        peer["api"] = {
            k: {n: s for n, s in api[k].items() if s not in GOOD or s == "missing"} for k in api
        }
    PEERS.write_text(json.dumps({"python": version, "peers": peers}, indent=1) + "\n")


def origin(thing: object, name: str) -> str:
    """Whose code answers to this name: native, zloop's Python, or what is inherited from asyncio."""
    for cls in type(thing).__mro__:
        if name in vars(cls):
            if not cls.__module__.startswith("zloop"):
                return "inherited"
            return "zloop's Python" if hasattr(vars(cls)[name], "__code__") else "native"
    return "attribute"


async def ours() -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """Return the states of zloop's names, and whose code they are."""
    objects = api_probe.Objects()
    async with objects.cleanup:
        await objects.make()
        origins = {
            kind: {name: origin(thing, name) for name in dir(thing)}
            for kind, thing in objects.made.items()
        }
    return await api_probe.probe(await wanted()), origins


async def wanted() -> dict[str, list[str]]:
    """Names to ask for: asyncio's. Its own loop tells them, in a thread, because one runs here."""
    import asyncio

    def ask() -> dict[str, list[str]]:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(api_probe.asyncios_names())

    return await asyncio.get_running_loop().run_in_executor(None, ask)


def table() -> str:
    """Return the table, in Markdown."""
    kept = json.loads(PEERS.read_text())
    states, origins = zloop.run(ours())
    heads = [f"{name} {kept['peers'][name]['version']}" for name in NAMES]
    lines = ["| | zloop | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for kind in api_probe.KINDS:
        for name, state in states[kind].items():
            cells = [f"{GOOD.get(state, state)}, {origins[kind].get(name, 'nowhere')}"]
            for peer in NAMES:
                found = kept["peers"][peer]["api"][kind].get(name, state)
                cells.append(GOOD.get(found, f"**{found}**"))
            lines.append(f"| {kind}: `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def documented() -> tuple[str, str, str]:
    """Return what is before the table, the table, and what is behind it."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    inside, _, behind = rest.partition(END)
    return before + BEGIN, inside.strip("\n"), END + behind


def main() -> None:
    if len(sys.argv) > 1:
        refresh(sys.argv[1])
    before, _, behind = documented()
    DOCUMENT.write_text(f"{before}\n\n{table()}\n\n{behind}")


if __name__ == "__main__":
    main()
