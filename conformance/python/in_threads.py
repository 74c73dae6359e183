"""Each test in several threads at once, with pytest-run-parallel: ``make test-parallel``.

The plugin calls a test in all threads with the same fixtures. Here every thread gets a loop of its
own in their place, so what the threads share is what programs share: zloop's types, the
interpreter, and the modules. A test whose other fixtures are made for one thread runs in one.
"""

from __future__ import annotations

import contextlib
import functools
import inspect

import pytest

from harness import LoopFactory, Reports, managed_loop

# Fixtures that each thread gets its own of, here or from the plugin.
OWN = {"loop", "run", "reports", "tmp_path"}
# Fixtures that any number of threads may use at once.
SHARED = {"loop_factory", "compare", "certificates", "script"}


def wanted(config) -> bool:
    """Whether tests run in several threads."""
    return str(config.getoption("parallel_threads", 1)) != "1"


def adapt(items) -> None:
    """Give each thread a loop of its own in every test, or mark the test as one for one thread."""
    for item in items:
        names = set(inspect.signature(item.obj).parameters)
        for marker in item.iter_markers("parametrize"):
            listed = marker.args[0]
            names -= set(listed.replace(" ", "").split(",") if isinstance(listed, str) else listed)
        if made_once := names - OWN - SHARED:
            reason = f"its fixtures ({', '.join(sorted(made_once))}) are made for one thread"
            item.add_marker(pytest.mark.thread_unsafe(reason=reason))
        elif names & {"loop", "run", "reports"}:
            item.obj = in_own_loop(item.obj, item.callspec.params["loop_factory"])


def in_own_loop(test, row: str):
    """Return `test` with a loop of the calling thread's own."""

    @functools.wraps(test)
    def alone(**fixtures):
        reports = Reports()
        with contextlib.ExitStack() as stack:
            if fixtures.keys() & {"loop", "run"}:
                loop = stack.enter_context(managed_loop(LoopFactory(row), reports))
                own = {"loop": loop, "run": loop.run_until_complete, "reports": reports}
            else:
                own = {"reports": reports}
            test(**fixtures | {name: own[name] for name in own.keys() & fixtures.keys()})
        assert not reports.contexts, f"reports that the test did not expect: {reports.contexts}"

    return alone
