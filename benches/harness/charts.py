"""Charts of results, as SVG."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from harness.results import PRIMARY, Results, Row, is_ours
from harness.workloads import MORE_IS_BETTER, NATIVE

OURS = ["#d9480f", "#f08c00", "#ffc078"]
OTHERS = ["#495057", "#1971c2", "#2f9e44", "#9c36b5", "#0c8599", "#e64980"]
ROWS_MAX = 12


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw a chart for each group that has a primary metric; return the files."""
    mpl.use("svg")
    # The same numbers must give the same file, whoever draws it and when.
    mpl.rcParams["svg.hashsalt"] = "zloop"
    mpl.rcParams["svg.fonttype"] = "none"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for group, rows in results.groups().items():
        metric, unit = PRIMARY[group]
        if metric is not None:
            files.append(folder / f"{group.replace(' ', '-')}.svg")
            chart(results, group, rows[:ROWS_MAX], metric, unit, files[-1])
    return files


def chart(
    results: Results, group: str, rows: list[Row], metric: str, unit: str, path: Path
) -> None:
    """Draw bars relative to asyncio's, so that rows of different size share one axis."""
    loops = results.loops_in(rows)
    reference = "asyncio" if "asyncio" in loops else loops[0]
    figure, axes = plt.subplots(figsize=(9, 0.6 + 0.16 * len(rows) * (len(loops) + 1)))
    height = 1 / (len(loops) + 1)
    for index, loop in enumerate(loops):
        places = [line + index * height for line in range(len(rows))]
        bars = axes.barh(
            places,
            [share(row, loop, reference, metric) for row in rows],
            height,
            color=colour(loops, loop),
            label=loop,
        )
        labels = [
            f"{value:.3g}" if (value := row.median(loop, metric)) is not None else ""
            for row in rows
        ]
        axes.bar_label(bars, labels, padding=2, fontsize=6)
    axes.set_yticks([line + 0.5 - height for line in range(len(rows))], [row.title for row in rows])
    axes.invert_yaxis()
    better = "longer" if metric in MORE_IS_BETTER else "shorter"
    axes.set_xlabel(
        f"{unit}, relative to {reference} = 1 ({better} is better; bars carry the values)",
        fontsize=8,
    )
    axes.set_title(group, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def share(row: Row, loop: str, reference: str, metric: str) -> float:
    """Return a loop's median as a share of the reference's, 0 where there is none."""
    value, of = row.median(loop, metric), row.median(reference, metric)
    return value / of if value is not None and of else 0.0


def colour(loops: list[str], loop: str) -> str:
    """Return the colour of a loop's bars."""
    if loop == NATIVE:
        return "#ced4da"
    family = [name for name in loops if is_ours(name) == is_ours(loop) and name != NATIVE]
    palette = OURS if is_ours(loop) else OTHERS
    return palette[family.index(loop) % len(palette)]
