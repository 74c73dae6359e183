"""The rows of the suite and what every test must leave behind: nothing.

Each test that asks for ``loop_factory`` (or for ``loop``, ``run``, ``compare`` or
``script``, which stand on it) runs once on stock asyncio and once on every zloop
backend that this machine has. ZLOOP_TEST_BACKENDS=epoll,asyncio narrows that, and with
ZLOOP_REQUIRE=epoll,io_uring a backend that is missing is an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import ssl
import sys
import threading

import pytest
import trustme

import in_threads
import libkqueue
from harness import (
    FILE_SIZE,
    Leaks,
    LoopFactory,
    Reports,
    managed_loop,
    pattern,
    run_script,
    tcp_pair,
)

# zloop's two ways to TLS: OpenSSL called directly, and Python's own objects.
ENGINES = ["direct", "portable"]


def rows() -> list[str]:
    """The rows to run: a zloop that cannot be imported is an error, not a skip."""
    wanted, required = names("ZLOOP_TEST_BACKENDS"), names("ZLOOP_REQUIRE")
    if wanted == ["asyncio"]:
        return wanted
    here = ["asyncio", *(name for name, reason in backends().items() if reason is None)]
    missing = (set(wanted) | set(required) - {"sim"}) - set(here)
    if missing:
        why = "; ".join(f"{name}: {backends().get(name, 'unknown')}" for name in sorted(missing))
        raise pytest.UsageError(f"ZLOOP_TEST_BACKENDS, ZLOOP_REQUIRE: not among {here}: {why}")
    return [n if n == "asyncio" else f"zloop-{n}" for n in wanted or here]


def names(variable: str) -> list[str]:
    listed = os.environ.get(variable, "").split(",")
    return [name.strip().removeprefix("zloop-") for name in listed if name.strip()]


@functools.cache
def backends() -> dict[str, str | None]:
    """Every backend that zloop knows, and why it cannot be tested here."""
    from zloop._zloop import diagnose

    return {report["name"]: report.get("reason") for report in diagnose()}


def pytest_configure(config):
    config.zloop_rows = rows()
    # A shell starts what it puts in the background with SIGINT ignored, and Python leaves that alone.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config):
    debug = bool(os.environ.get("PYTHONASYNCIODEBUG"))
    lines = [f"loops: {', '.join(config.zloop_rows)}; debug: {debug}"]
    if config.zloop_rows != ["asyncio"]:
        lines += [f"no {name} here: {reason}" for name, reason in backends().items() if reason]
    return lines


def pytest_generate_tests(metafunc):
    if "loop_factory" not in metafunc.fixturenames:
        return
    rows, marks = metafunc.config.zloop_rows, ()
    only = metafunc.definition.get_closest_marker("zloop_only")
    if only:
        rows = [name for name in rows if name != "asyncio"]
        if not rows:
            rows, marks = ["asyncio"], pytest.mark.skip(reason="zloop only: " + only.args[0])
    if "engine" not in metafunc.fixturenames:
        params = [pytest.param(row, marks=marks) for row in rows]
        metafunc.parametrize("loop_factory", params, indirect=True)
        return
    params = [
        pytest.param(row, engine, marks=marks, id=f"{row}-{engine}" if engine else row)
        for row in rows
        for engine in ([None] if row == "asyncio" else ENGINES)
    ]
    metafunc.parametrize(("loop_factory", "engine"), params, indirect=True)


def pytest_collection_modifyitems(config, items):
    if sys.platform == "linux" and "zloop-kqueue" in config.zloop_rows and libkqueue.takes_errors():
        for item in items:
            libkqueue.excuse(item)
    if in_threads.wanted(config):
        in_threads.adapt(items)


def pytest_collection_finish(session):
    # What is alive by now stays: collecting after each test is cheap without it.
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session, exitstatus):
    session.config.zloop_exit_status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """Threads that a failed test left blocked must not keep the process from ending."""
    stuck = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    for thread in stuck:
        thread.join(2)
    if any(thread.is_alive() for thread in stuck):
        print(f"threads left blocked: {[t.name for t in stuck if t.is_alive()]}", flush=True)
        os._exit(getattr(config, "zloop_exit_status", 1) or 1)


class ErrorLog(logging.Handler):
    """Keeps what asyncio's logger got at ERROR; unread records fail the test."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.records = []

    def emit(self, record):
        self.records.append(record)

    def take(self):
        taken, self.records = self.records, []
        return [record.getMessage() for record in taken]


@pytest.fixture
def error_log():
    handler = ErrorLog()
    logging.getLogger("asyncio").addHandler(handler)
    yield handler
    logging.getLogger("asyncio").removeHandler(handler)
    assert not handler.take(), "asyncio's logger got errors that the test did not expect"


@pytest.fixture
def reports():
    """What the exception handler of ``loop`` got; to be taken by the test."""
    reports = Reports()
    yield reports
    assert not reports.contexts, f"reports that the test did not expect: {reports.contexts}"


@pytest.fixture(autouse=True)
def leaks(reports, error_log, caplog):
    """No descriptor, thread, handle, transport or unclosed thing (a ResourceWarning) may be left.

    Set up before everything else and so torn down after it, but before ``reports`` and
    ``error_log`` look at what the one collection here may have brought to light.
    """
    leaks = Leaks()
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)}
    yield leaks
    # The tracebacks of log records keep what they passed through.
    caplog.get_records("call").clear()
    leaks.check()
    assert signal.set_wakeup_fd(-1) == -1, "the signal wakeup fd was not put back"
    assert handlers == {s: signal.getsignal(s) for s in handlers}, "a signal handler was left"


@pytest.fixture
def loop_factory(request, leaks):
    return LoopFactory(request.param)


@pytest.fixture
def engine(request, loop_factory, monkeypatch):
    """The way to TLS of the loops that are made from here on: one of ENGINES; None on asyncio, which has one only."""
    if request.param is None:
        return None
    import zloop

    if request.param == "direct" and (problem := zloop._zloop.tls_problem()):
        pytest.skip(f"the direct engine does not work here: {problem}")
    monkeypatch.setenv("ZLOOP_TLS", "portable" if request.param == "portable" else "auto")
    with contextlib.closing(loop_factory()) as loop:
        assert loop.tls == request.param
    return request.param


@pytest.fixture
def loop(request, loop_factory, reports):
    """A fresh loop; not the current one, closed at teardown if the test did not."""
    if "engine" in request.fixturenames:
        request.getfixturevalue("engine")  # before the loop, whichever is named first
    with managed_loop(loop_factory, reports) as loop:
        yield loop


@pytest.fixture
def run(loop):
    """Run a coroutine on ``loop`` to its end."""
    return loop.run_until_complete


@pytest.fixture
def compare(loop_factory):
    """``compare(scenario)``: run ``scenario(loop, reports)`` on the row's loop and on stock
    asyncio, demand equal results, return them."""

    def compare(scenario):
        results = []
        for factory in (loop_factory, LoopFactory("asyncio")):
            reports = Reports()
            with managed_loop(factory, reports) as loop:
                results.append(scenario(loop, reports))
            assert not reports.contexts, f"{factory.name}: unexpected reports {reports.contexts}"
        ours, theirs = results
        assert ours == theirs, "differs from stock asyncio"
        return ours

    return compare


@pytest.fixture
def script(loop_factory):
    """``script(code)``: run code in a new interpreter with ``new_event_loop`` of this row."""

    def script(code, **options):
        return run_script(loop_factory, code, **options)

    return script


class Certificates:
    """A certificate authority, and contexts that trust it."""

    def __init__(self):
        self.ca = trustme.CA()
        self.leaf = self.ca.issue_cert("localhost", "127.0.0.1", "::1")

    def server(self, leaf=None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (leaf or self.leaf).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        return context


@pytest.fixture(scope="session")
def certificates():
    return Certificates()


@pytest.fixture
def file(tmp_path):
    """A file of FILE_SIZE bytes, open for reading."""
    path = tmp_path / "file"
    path.write_bytes(pattern(FILE_SIZE))
    with open(path, "rb") as file:
        yield file


@pytest.fixture
def pair():
    """Two connected TCP sockets in non-blocking mode."""
    near, far = tcp_pair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


@pytest.fixture
def debug_loop(loop):
    loop.set_debug(True)
    return loop


@pytest.fixture(autouse=True)
def no_current_loop():
    """Tests leave no current loop behind, and none leaks in from outside."""
    yield
    assert asyncio._get_running_loop() is None, "a loop is still marked as running"
