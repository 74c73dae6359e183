"""A pytest plugin that puts the loop under test beneath another project's suite.

It runs inside the suite's own process. UPSTREAM_BACKEND names the zloop backend; `asyncio` leaves
everything as it is, which makes the baseline. The loop is chosen in the ways that users have: the
`anyio_backend` fixture, uvicorn's `--loop`, and the loop that `asyncio.new_event_loop` makes.

It tells the supervisor what happens by appending JSON lines to the file UPSTREAM_EVENTS, and leaves
out the tests listed in UPSTREAM_DONE, so that a suite goes on after a test that killed its process;
UPSTREAM_ONLY lists the only ones to run.
"""

import asyncio
import asyncio.events
import functools
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

Factory = Callable[[], asyncio.AbstractEventLoop]

BACKEND = os.environ["UPSTREAM_BACKEND"]
# The loops made, by kind, and the kinds that ran during the test at hand.
counts = {"zloop": 0, "asyncio": 0}
ran: set[str] = set()


def emit(event: str, **details: Any) -> None:
    with open(os.environ["UPSTREAM_EVENTS"], "a") as file:
        file.write(json.dumps({"event": event, "at": time.monotonic(), **details}) + "\n")


# --- the loop ---


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The loop under test."""
    import zloop

    counts["zloop"] += 1
    return zloop.new_event_loop(BACKEND)


def new_eager_loop() -> asyncio.AbstractEventLoop:
    loop = new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    return loop


def uvicorn_loop_factory(use_subprocess: bool = False) -> Factory:
    return new_event_loop


def kind_of(loop: object) -> str:
    ours = any(kind.__module__.startswith(("zloop", "_zloop")) for kind in type(loop).__mro__)
    return "zloop" if ours else "asyncio"


def count_asyncio_loops() -> None:
    """Counts the loops that are not zloop's, to show how much of a suite the candidate really ran."""
    plain = asyncio.SelectorEventLoop.__init__

    @functools.wraps(plain)
    def counting(self: Any, *args: Any, **kwargs: Any) -> None:
        if kind_of(self) == "asyncio":
            counts["asyncio"] += 1
        plain(self, *args, **kwargs)

    asyncio.SelectorEventLoop.__init__ = counting  # type: ignore[method-assign]


def note_runs(kind: type[Any]) -> None:
    """Notes which loops run, whoever made them: a test that runs none of ours says nothing about it."""
    plain = kind.run_forever

    @functools.wraps(plain)
    def noting(self: Any) -> None:
        ran.add(kind_of(self))
        plain(self)

    kind.run_forever = noting


def with_candidate(backend: Any) -> Any:
    """The value of an `anyio_backend` fixture, with the loop under test in its options."""
    name, options = (backend, {}) if isinstance(backend, str) else backend
    if name != "asyncio" or options.get("use_uvloop"):
        return backend
    given = options.get("loop_factory")
    eager = "eager" in getattr(given, "__name__", "")
    if given is not None and not eager:
        return backend  # the suite's own choice of another loop
    return name, {**options, "loop_factory": new_eager_loop if eager else new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
    value = yield
    if fixturedef.argname == "anyio_backend" and BACKEND != "asyncio":
        value = with_candidate(value)
        fixturedef.cached_result = (value, *fixturedef.cached_result[1:])
    return value


def replace_classes() -> None:
    """For suites that make loops by calling asyncio's classes, and that look at its policies."""
    import asyncio.unix_events

    import zloop

    class CandidateLoop(zloop.Loop):
        def __new__(cls, selector: object = None) -> "CandidateLoop":
            counts["zloop"] += 1
            return super().__new__(cls, BACKEND)  # type: ignore[return-value, unused-ignore]

        def __init__(self, selector: object = None) -> None:
            super().__init__(BACKEND)

    asyncio.SelectorEventLoop = CandidateLoop  # type: ignore[misc, assignment, unused-ignore]
    if sys.version_info >= (3, 13):
        asyncio.EventLoop = CandidateLoop
    name = "_DefaultEventLoopPolicy" if sys.version_info >= (3, 14) else "DefaultEventLoopPolicy"
    getattr(asyncio.unix_events, name)._loop_factory = CandidateLoop


def replace_uvloop() -> None:
    """For the tests of uvloop, which are about what `uvloop.new_event_loop` makes."""
    uvloop: Any = importlib.import_module("uvloop")
    if BACKEND == "uvloop":
        return
    kind: type[Any] = asyncio.SelectorEventLoop
    factory: Factory = kind
    if BACKEND != "asyncio":
        import zloop

        factory, kind = new_event_loop, zloop.Loop
        asyncio.new_event_loop = asyncio.events.new_event_loop = factory
    uvloop.Loop, uvloop.new_event_loop = kind, factory
    uvloop.run.__kwdefaults__["loop_factory"] = factory
    # Where uvloop differs from asyncio, its tests ask for one behaviour or the other; zloop's is asyncio's.
    base = importlib.import_module("uvloop._testbase").BaseTestCase
    base.is_asyncio_loop = lambda self: True


def choose_loop() -> None:
    """Runs on import, before the suite's own modules can keep a reference to what it replaces."""
    count_asyncio_loops()
    note_runs(asyncio.base_events.BaseEventLoop)
    if BACKEND not in ("asyncio", "uvloop"):
        import zloop

        note_runs(zloop.Loop)
    if os.environ.get("UPSTREAM_UVLOOP"):
        replace_uvloop()
        return
    if BACKEND == "asyncio":
        return
    if os.environ.get("UPSTREAM_CLASSES"):
        replace_classes()
        return
    asyncio.new_event_loop = asyncio.events.new_event_loop = new_event_loop
    try:
        from uvicorn.config import LOOP_FACTORIES
    except ImportError:
        return
    LOOP_FACTORIES["asyncio"] = f"{__name__}:uvicorn_loop_factory"


choose_loop()


# --- the report ---


def ids_in(variable: str) -> set[str]:
    path = os.environ.get(variable)
    return set(json.loads(Path(path).read_text())) if path else set()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    done, only = ids_in("UPSTREAM_DONE"), ids_in("UPSTREAM_ONLY")
    emit("collected", ids=[item.nodeid for item in items])
    # Suites that collect garbage after each test need not look through all of themselves each time.
    gc.collect()
    gc.freeze()
    items[:] = [
        item for item in items if item.nodeid not in done and (not only or item.nodeid in only)
    ]


class Outcomes:
    """Joins a test's three phases into one outcome."""

    def __init__(self) -> None:
        self.outcome = "passed"
        self.message = ""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.outcome, self.message = "passed", ""
        ran.clear()
        emit("start", id=item.nodeid)
        result = yield
        emit(
            "finish",
            id=item.nodeid,
            outcome=self.outcome,
            message=self.message,
            loops=sorted(ran),
        )
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.outcome, self.message = "failed", str(report.longrepr)[-4000:]
        elif report.skipped and self.outcome == "passed":
            expected = hasattr(report, "wasxfail")
            self.outcome = "xfailed" if expected else "skipped"
            self.message = report.wasxfail if expected else str(report.longrepr)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(Outcomes())


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        emit("broken", id=report.nodeid, message=str(report.longrepr)[-4000:])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    # A test that lets KeyboardInterrupt out ends the session before its time.
    complete = exitstatus in (
        pytest.ExitCode.OK,
        pytest.ExitCode.TESTS_FAILED,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    )
    emit("end", loops=counts, complete=complete)
