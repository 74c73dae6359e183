"""Tables of results, for the terminal and in Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from harness.results import CORE_WAIT_SHARE_MAX, PRIMARY, SECONDARY, Results, Row, is_ours, is_peer


@dataclass
class Grid:
    """A table without its looks."""

    title: str
    head: list[str]
    lines: list[list[str]]
    # Indices of the best values in each line, and whether zloop is ahead in it.
    best: list[set[int]]
    ahead: list[bool | None]


def number(value: float | None) -> str:
    """Write a value with three or so significant digits."""
    if value is None:
        return "-"
    if value >= 100_000:
        return f"{value / 1000:,.0f}k"
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def grids(results: Results, everything: bool = True) -> list[Grid]:
    """Return the tables of a run; `everything` adds those of the secondary metrics."""
    found = []
    for group, rows in results.groups().items():
        metric, unit = PRIMARY[group]
        found.append(grid(results, group, rows, metric, unit))
        if everything:
            found += [grid(results, group, rows, *other) for other in SECONDARY.get(group, [])]
    return found


def grid(results: Results, group: str, rows: list[Row], metric: str | None, unit: str) -> Grid:
    """Return one table: a line for each row, a column for each loop, and the ratio."""
    loops = results.loops_in(rows)
    ours, peers = list(filter(is_ours, loops)), list(filter(is_peer, loops))
    title = f"{group}: {unit}" if unit else group
    table = Grid(title, ["", *loops], [], [], [])
    if ours and peers:
        table.head.append("zloop is better by")
    for row in rows:
        values = [row.median(loop, metric) for loop in loops]
        line = [row.title, *map(number, values)]
        ratio = row.ratio(metric, ours, peers)
        if ours and peers:
            line.append(f"{ratio:.2f}x" if ratio else "-")
        competitors = [loop for loop in loops if loop in ours or loop in peers]
        winner = row.best(metric, competitors)
        table.lines.append(line)
        table.best.append({1 + loops.index(winner[0])} if winner else set())
        table.ahead.append(None if ratio is None else ratio >= 1)
    return table


def show(results: Results, console: Console, everything: bool = True) -> None:
    """Print the tables."""
    for grid_ in grids(results, everything):
        table = Table(title=grid_.title, title_justify="left", title_style="bold")
        for index, name in enumerate(grid_.head):
            table.add_column(name, justify="right" if index else "left", overflow="fold")
        for line, best, ahead in zip(grid_.lines, grid_.best, grid_.ahead, strict=True):
            cells = [
                f"[bold]{cell}[/]" if index in best else cell for index, cell in enumerate(line)
            ]
            if ahead is not None:
                cells[-1] = f"[{'green' if ahead else 'red'}]{cells[-1]}[/]"
            table.add_row(*cells)
        console.print(table)
    for trouble in troubles(results):
        console.print(trouble, style="yellow", markup=False)


def troubles(results: Results) -> list[str]:
    """Return why some values are missing or doubtful."""
    missing = results.machine["missing"]
    assert isinstance(missing, dict)
    lines = [f"{name} is left out: {reason}" for name, reason in missing.items()]
    for row in results.rows:
        lines += [f"{row.title}: {loop}: {reason}" for loop, reason in row.trouble.items()]
    disturbed, samples = results.disturbed()
    if disturbed:
        lines.append(
            f"{disturbed} of {samples} samples were disturbed: something else held the server's or the load "
            f"generator's core for more than {CORE_WAIT_SHARE_MAX:.0%} of the time. "
            "Medians leave them out where they can."
        )
    return lines


def markdown(results: Results, everything: bool = False) -> str:
    """Return the tables and what they were measured on, in Markdown."""
    parts = [caption(results)]
    for grid_ in grids(results, everything):
        lines = [
            f"**{grid_.title[:1].upper()}{grid_.title[1:]}**",
            "",
            "| " + " | ".join(grid_.head) + " |",
        ]
        lines.append("|---" + "|--:" * (len(grid_.head) - 1) + "|")
        for line, best in zip(grid_.lines, grid_.best, strict=True):
            cells = [f"**{cell}**" if index in best else cell for index, cell in enumerate(line)]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    notes = [f"- {line}" for line in troubles(results)]
    if notes:
        parts.append("\n".join(["Notes:", "", *notes]))
    return "\n\n".join(parts) + "\n"


def caption(results: Results) -> str:
    """Return what the numbers were measured on and how, in a paragraph."""
    machine, settings = results.machine, results.settings
    named = ", ".join(f"{name} {version}" for name, version in versions_shown(results).items())
    return (
        f"Measured {machine['date']} on {machine['cpu']} ({machine['cores']} cores), {machine['kernel']}; {named}. "
        f"Medians of {settings['rounds']} rounds of {settings['duration_s']} s, all loops in turn in each round, "
        "in fresh processes; server and load generator on a core each. "
        "The column `native` is an echo server without Python. Bold is the best loop of a row; "
        "the last column tells how many times better zloop's best is than the best other loop."
    )


# What else the rows of a group run, besides the loops.
PACKAGES = {
    "http": ["uvicorn", "httptools"],
    "https": ["uvicorn", "httptools"],
    "aiohttp server": ["aiohttp"],
    "aiohttp client": ["aiohttp", "uvicorn", "httptools"],
    "websockets": ["websockets"],
}


def versions_shown(results: Results) -> dict[str, str]:
    """Return the versions of what these tables are about, by name."""
    versions = results.machine["versions"]
    assert isinstance(versions, dict)
    shown = {"CPython", *(loop.partition(":")[0] for loop in results.loops)}
    for group in results.groups():
        shown.update(PACKAGES.get(group, []))
    return {name: version for name, version in versions.items() if name in shown}
