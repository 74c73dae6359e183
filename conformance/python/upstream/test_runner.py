"""The runner must notice: tests that fail, hang or crash, and a ledger that no longer fits."""

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from textwrap import dedent

import pytest

import run
import suites
import supervise
import verdict
from suites import HERE, load
from supervise import Report, Result
from verdict import Expectation

SUITE = """
    import asyncio, os, signal, time
    import pytest

    def test_passes(): pass
    def test_fails(): assert 1 == 2
    def test_hangs():
        while True:
            time.sleep(1)
    def test_after_the_hang(): pass
    def test_hangs_deaf_to_signals():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGABRT])
        time.sleep(600)
    def test_crashes(): os.kill(os.getpid(), signal.SIGSEGV)
    def test_exits(): os._exit(0)
    def test_interrupts(): raise KeyboardInterrupt
    def test_skips(): pytest.skip("not here")

    @pytest.mark.xfail(strict=True)
    def test_known(): assert False

    @pytest.fixture
    def broken_teardown():
        yield
        raise RuntimeError("teardown")
    def test_teardown(broken_teardown): pass

    @pytest.fixture
    def anyio_backend(): return "asyncio"
    @pytest.mark.anyio
    async def test_anyio(): await asyncio.sleep(0.001)
    def test_run():
        with asyncio.Runner() as runner:
            assert runner.run(asyncio.sleep(0.001, "slept")) == "slept"
"""

# A loop that loses the result of every timer: what uses one on it fails.
BROKEN_ZLOOP = """
    import asyncio

    class Loop(asyncio.SelectorEventLoop):
        def call_later(self, delay, callback, *args, context=None):
            return super().call_later(delay, self.stop, context=context)

    def new_event_loop(backend=None):
        assert backend == "broken"
        return Loop()
"""

OUTCOMES = {
    "passes": "passed",
    "fails": "failed",
    "hangs": "hung",
    "after_the_hang": "passed",
    "hangs_deaf_to_signals": "hung",
    "crashes": "crashed",
    "exits": "crashed",
    "interrupts": "crashed",
    "skips": "skipped",
    "known": "xfailed",
    "teardown": "failed",
    "anyio": "passed",
    "run": "passed",
}


def run_suite(folder: Path, text: str, backend: str, only: tuple[str, ...] = ()) -> Report:
    (folder / "test_suite.py").write_text(dedent(text))
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "zloop.py").write_text(dedent(BROKEN_ZLOOP))
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{HERE}:{folder}",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "UPSTREAM_BACKEND": backend,
    }
    command = [sys.executable, "-m", "pytest", "-p", "loop_plugin", "-q", "test_suite.py"]
    command += ["-p", "no:cacheprovider", "--continue-on-collection-errors"]
    return supervise.run(command, folder, environment, 5.0, only)


def outcomes(report: Report) -> dict[str, str]:
    return {test.rpartition("::test_")[2]: r.outcome for test, r in report.results.items()}


def test_every_outcome_is_seen(tmp_path: Path) -> None:
    report = run_suite(tmp_path, SUITE, "asyncio")
    assert outcomes(report) == OUTCOMES
    assert "assert 1 == 2" in report.results["test_suite.py::test_fails"].message
    assert "in test_hangs" in report.results["test_suite.py::test_hangs"].message
    assert report.loops["asyncio"] >= 1
    assert report.loops["zloop"] == 0


def test_a_broken_loop_is_noticed(tmp_path: Path) -> None:
    kept = ("test_suite.py::test_passes", "test_suite.py::test_anyio", "test_suite.py::test_run")
    before = run_suite(tmp_path, SUITE, "asyncio", kept)
    after = run_suite(tmp_path, SUITE, "broken", kept)
    assert outcomes(before) == {"passes": "passed", "anyio": "passed", "run": "passed"}
    assert outcomes(after) == {"passes": "passed", "anyio": "failed", "run": "failed"}
    assert after.loops["zloop"] == 2
    assert {t: r.loops for t, r in before.results.items()} == {
        "test_suite.py::test_passes": [],
        "test_suite.py::test_anyio": ["asyncio"],
        "test_suite.py::test_run": ["asyncio"],
    }
    assert after.results["test_suite.py::test_run"].loops == ["zloop"]
    assert after.passed_on("zloop") == 0  # what ran on it failed
    found = verdict.compare(before, after, [], on_zloop=True)
    assert sorted(found.regressions) == ["test_suite.py::test_anyio", "test_suite.py::test_run"]
    assert not found.held


def test_a_module_that_cannot_be_imported_is_a_failure(tmp_path: Path) -> None:
    report = run_suite(tmp_path, "import nowhere_to_be_found", "asyncio")
    assert outcomes(report) == {"test_suite.py": "failed"}


@pytest.mark.parametrize("tls", ["auto", "portable"])
def test_the_engine_of_tls_reaches_the_suite(tls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of zloop's around the runner do not, but what the runner is told does."""
    monkeypatch.setenv("ZLOOP_TLS", "nonsense")
    monkeypatch.setattr(suites, "interpreter", lambda suite: Path(sys.executable))
    given: list[dict[str, str]] = []
    monkeypatch.setattr(supervise, "run", lambda command, folder, env, *rest: given.append(env))
    run.run_suite(load()["cpython"], "epoll", tls=tls)
    code = "import zloop; loop = zloop.new_event_loop(); print(loop.tls); loop.close()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=given[0], capture_output=True, text=True, check=True)
    monkeypatch.setenv("ZLOOP_TLS", tls)
    own = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert done.stdout == own
    assert tls == "auto" or own == "portable\n"


def test_what_fails_on_asyncio_now_and_then_excuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "CACHE", tmp_path)
    runs = [report_of(a="passed", b="failed", c="hung"), report_of(b="passed", c="failed")]
    runs.append(report_of(c="failed"))
    asked: list[list[str] | None] = []

    def run_suite(suite: object, loop: str, only: list[str] | None = None, tls: str = "") -> Report:
        asked.append(only)
        return runs.pop(0)

    monkeypatch.setattr(run, "run_suite", run_suite)
    made = run.baseline(load()["starlette"], "asyncio")
    assert asked == [None, ["b", "c"], ["c"]]
    assert {t: r.outcome for t, r in made.results.items()} == {
        "a": "passed",
        "b": "passed",
        "c": "hung",
    }
    assert run.baseline(load()["starlette"], "asyncio") == made  # kept


def report_of(zloop: int = 1, **outcomes: str) -> Report:
    results = {test: Result(outcome) for test, outcome in outcomes.items()}
    return Report(results, {"zloop": zloop, "asyncio": 1})


@pytest.mark.parametrize("outcome", ["failed", "hung", "crashed"])
def test_worse_than_asyncio(outcome: str) -> None:
    found = verdict.compare(
        report_of(a="passed", b="failed"), report_of(a=outcome, b=outcome), [], on_zloop=True
    )
    assert list(found.regressions) == ["a"]
    assert found.fail_on_asyncio_too == 1
    assert not found.held


def test_expected_failures_need_an_entry_and_entries_a_failure() -> None:
    before, after = report_of(a="passed", b="passed"), report_of(a="failed", b="passed")

    def held(*tests: str) -> bool:
        entries = [Expectation("s", test, "*", "because") for test in tests]
        return verdict.compare(before, after, entries, on_zloop=True).held

    assert held("a")
    assert not held()
    assert not held("a", "b")  # b passes
    assert not held("a", "c")  # c does not exist


def test_a_test_that_did_not_run_is_noticed() -> None:
    found = verdict.compare(
        report_of(a="passed", b="passed"), report_of(a="passed"), [], on_zloop=True
    )
    assert found.missing == ["b"]
    assert not found.held


def test_a_suite_that_never_used_zloop_proves_nothing() -> None:
    both = report_of(zloop=0, a="passed")
    assert not verdict.compare(both, both, [], on_zloop=True).held
    assert verdict.compare(both, both, [], on_zloop=False).held


def test_a_part_of_a_suite_is_chosen_by_name() -> None:
    report = report_of(test_ssl="passed", test_TLS="failed", test_tcp="passed")
    assert list(report.matching("ssl|tls").results) == ["test_ssl", "test_TLS"]
    assert report.matching("").results == report.results


def test_what_passes_on_either_of_two_loops_must_pass() -> None:
    one, other = report_of(a="passed", b="failed"), report_of(a="hung", b="passed", c="failed")
    reference = supervise.better_of(one, other)
    assert {t: r.outcome for t, r in reference.results.items()} == {
        "a": "passed",
        "b": "passed",
        "c": "failed",
    }


def test_the_last_results_are_read_as_they_were_written() -> None:
    report = report_of(a="passed", b="failed")
    report.results["a"].loops = ["zloop"]
    assert Report.load(asdict(report)) == report


def test_an_expectation_without_reason_is_refused(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.toml"
    ledger.write_text('[[expect]]\nsuite = "s"\nid = "a"\nbackend = "*"\nreason = " "\n')
    with pytest.raises(ValueError, match="no reason"):
        verdict.load_expectations(ledger, {"s"})


def test_an_expectation_of_a_later_python_covers_nothing() -> None:
    now = ".".join(map(str, sys.version_info[:3]))
    for since, covers in [("3.11", True), (now, True), ("99", False)]:
        entry = verdict.Expectation("s", "a", "*", "reason", since)
        assert entry.covers("s", "epoll") == covers


def test_the_ledger_loads() -> None:
    known = set(load())
    assert known >= {"uvicorn", "anyio", "starlette"}
    verdict.load_expectations(HERE / "expectations.toml", known)
