"""Samples, their medians, and who is ahead of whom."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from harness.workloads import MORE_IS_BETTER, NATIVE, Metrics

# The metric that decides in each group, and how it reads.
PRIMARY = {
    "echo": ("cpu_us", "server CPU, µs per request"),
    "echo at a fixed rate": ("quiet_p99_us", "p99 latency in quiet slices of 50 ms, µs"),
    "connections": ("cpu_us", "server CPU, µs per connection"),
    "http": ("cpu_us", "server CPU, µs per request"),
    "https": ("cpu_us", "server CPU, µs per request"),
    "sendfile": ("cpu_us", "server CPU, µs per file"),
    "tls": ("cpu_us", "server CPU, µs per message"),
    "aiohttp server": ("cpu_us", "server CPU, µs per request"),
    "aiohttp client": ("cpu_us", "client CPU, µs per request"),
    "websockets": ("cpu_us", "server CPU, µs per message"),
    "uvloop benchmark": ("cpu_us", "server CPU, µs per message"),
    "loop operations": ("us", "µs per operation"),
    "parallel loops": ("cpu_us", "CPU of both ends, µs per round trip"),
    "import": ("ms", "ms"),
    "idle connections": (None, ""),
    "idle TLS connections": (None, ""),
}
SECONDARY = {
    "echo": [("per_s", "requests per second"), ("p99_us", "p99 latency, µs")],
    "echo at a fixed rate": [
        ("p50_us", "p50 latency, µs"),
        ("p99_us", "p99 latency of all, µs"),
        ("p999_us", "p99.9 latency of all, µs"),
        ("cpu_us", "server CPU, µs per request"),
    ],
    "connections": [("per_s", "connections per second")],
    "http": [("per_s", "requests per second"), ("p99_us", "p99 latency, µs")],
    "https": [("per_s", "requests per second")],
    "sendfile": [("per_s", "files per second")],
    "tls": [("per_s", "messages per second")],
    "aiohttp server": [("per_s", "requests per second")],
    "aiohttp client": [("per_s", "requests per second")],
    "websockets": [("per_s", "messages per second")],
    "uvloop benchmark": [("per_s", "messages per second")],
    "parallel loops": [
        ("per_s", "round trips per second, all loops together"),
        ("scaling", "times the work of one loop, by CPU time"),
    ],
}


def is_ours(loop: str) -> bool:
    """Whether `loop` is zloop of this checkout."""
    return loop.partition(":")[0] == "zloop"


def is_peer(loop: str) -> bool:
    """Whether `loop` is one that zloop is compared with."""
    return not is_ours(loop) and loop != NATIVE and loop.partition(":")[0] != "base"


# A sample is disturbed if the server or the client was kept from its core for more of the time.
CORE_WAIT_SHARE_MAX = 0.05


def is_disturbed(sample: Metrics) -> bool:
    """Whether something else on the machine spoilt a sample."""
    return sample.get("core_wait_share", 0) > CORE_WAIT_SHARE_MAX


@dataclass
class Row:
    """All samples of one row: by loop, a list of metrics, or why there are none."""

    group: str
    title: str
    samples: dict[str, list[Metrics]] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)

    def median(self, loop: str, metric: str | None) -> float | None:
        """Return the median of a metric (of the only one, if None) over the undisturbed samples,
        or over all if there is none."""
        samples = self.samples.get(loop, [])
        values = [
            sample[metric] if metric else next(iter(sample.values()))
            for sample in [sample for sample in samples if not is_disturbed(sample)] or samples
            if metric is None or metric in sample
        ]
        return statistics.median(values) if values else None

    def best(self, metric: str | None, of: list[str]) -> tuple[str, float] | None:
        """Return who is best among the loops in `of`, and its value."""
        values = [(loop, self.median(loop, metric)) for loop in of]
        known = [(loop, value) for loop, value in values if value is not None]
        if not known:
            return None
        choose = max if metric in MORE_IS_BETTER else min
        return choose(known, key=lambda pair: pair[1])

    def ratio(self, metric: str | None, ours: list[str], others: list[str]) -> float | None:
        """Return how many times better the best of `ours` is than the best of `others`."""
        mine, theirs = self.best(metric, ours), self.best(metric, others)
        if mine is None or theirs is None or not mine[1] or not theirs[1]:
            return None
        if metric in MORE_IS_BETTER:
            return mine[1] / theirs[1]
        return theirs[1] / mine[1]


@dataclass
class Results:
    """All rows of a run, with what they were measured on."""

    machine: dict[str, object]
    settings: dict[str, object]
    loops: list[str]
    rows: list[Row] = field(default_factory=list)

    def row(self, group: str, title: str) -> Row:
        """Return the row called `title`, a new one if there is none."""
        for row in self.rows:
            if (row.group, row.title) == (group, title):
                return row
        self.rows.append(Row(group, title))
        return self.rows[-1]

    def groups(self) -> dict[str, list[Row]]:
        """Return the rows by group, in the order in which they were measured."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.group, []).append(row)
        return found

    def loops_in(self, rows: list[Row]) -> list[str]:
        """Return the loops that have something to say in `rows`."""
        return [loop for loop in [NATIVE, *self.loops] if any(loop in row.samples for row in rows)]

    def disturbed(self) -> tuple[int, int]:
        """Return how many samples were disturbed, and how many there are."""
        samples = [sample for row in self.rows for some in row.samples.values() for sample in some]
        return sum(map(is_disturbed, samples)), len(samples)

    def save(self, path: Path) -> None:
        """Write everything, every single sample included."""
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "machine": self.machine,
            "settings": self.settings,
            "loops": self.loops,
            "rows": [vars(row) for row in self.rows],
        }
        path.write_text(json.dumps(document, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `save` wrote."""
        document = json.loads(path.read_text())
        rows = [Row(**row) for row in document.pop("rows")]
        return cls(**document, rows=rows)
