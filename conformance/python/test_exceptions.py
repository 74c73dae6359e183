"""The exception handler: what is reported, with which words, and how a handler may behave."""

import asyncio
import gc
import logging
import sys

import pytest

from harness import FULL, PY, Recorder, normal, outcome, piped, run_turns


def boom():
    raise ZeroDivisionError("boom")


def context_of(report):
    """What is in a report, without what differs between loops or runs."""
    return {key: normal(repr(item)) for key, item in report.items()}


@pytest.mark.parametrize("how", ["soon", "threadsafe", "later", "reader"])
def test_a_callback_that_raises(compare, how):
    def scenario(loop, reports):
        from harness import unix_pair

        loop.set_debug(False)
        near, far = unix_pair()

        def reader():
            loop.remove_reader(near)
            boom()

        match how:
            case "soon":
                loop.call_soon(boom)
            case "threadsafe":
                loop.call_soon_threadsafe(boom)
            case "later":
                loop.call_later(0, boom)
            case "reader":
                far.send(b"x")
                loop.add_reader(near, reader)
        run_turns(loop, 3)
        near.close()
        far.close()
        report = reports.one()
        assert isinstance(report["handle"], asyncio.Handle)
        assert isinstance(report["exception"], ZeroDivisionError)
        return context_of(report)

    report = compare(scenario)
    assert report["message"].startswith("'Exception in callback ")


def test_a_handler_runs_while_the_exception_is_handled(run, loop):
    class Failing(Recorder):
        def data_received(self, data):
            boom()

        def pause_writing(self):
            boom()

    seen = []

    def handler(loop, context):
        assert sys.exc_info()[1] is context["exception"]
        seen.append(sys.exc_info()[0])

    async def main():
        loop.call_soon(boom)
        async with piped(Failing()) as (transport, protocol, peer):
            transport.set_write_buffer_limits(high=10)
            transport.write(bytes(FULL))
            peer.send(b"x")
            await protocol.lost

    loop.set_exception_handler(handler)
    run(main())
    assert seen == [ZeroDivisionError] * 3
    assert sys.exc_info() == (None, None, None)


def test_what_a_handler_lets_out_has_a_context(loop):
    def handler(loop, context):
        raise SystemExit(3)

    loop.set_exception_handler(handler)
    loop.call_soon(boom)
    with pytest.raises(SystemExit) as raised:
        loop.run_forever()
    assert isinstance(raised.value.__context__, ZeroDivisionError)


def test_debug_mode_adds_the_source_traceback(compare):
    def scenario(loop, reports):
        loop.set_debug(True)
        loop.call_soon(boom)
        loop.call_later(0, boom)
        run_turns(loop, 3)
        found = reports.take(2)
        for report in found:
            assert any(
                "test_exceptions.py" in frame.filename for frame in report["source_traceback"]
            )
        return [sorted(report) for report in found]

    assert compare(scenario) == [["exception", "handle", "message", "source_traceback"]] * 2


def test_the_default_handler_logs(compare):
    def scenario(loop, reports):
        loop.set_debug(False)
        loop.set_exception_handler(None)
        records = []
        handler = logging.Handler()
        handler.emit = records.append
        logger = logging.getLogger("asyncio")
        logger.addHandler(handler)
        try:
            loop.call_soon(boom)
            run_turns(loop)
            loop.call_exception_handler({"message": "words", "extra": 1, "future": "f"})
            loop.call_exception_handler({})
        finally:
            logger.removeHandler(handler)
        return [
            (record.levelname, normal(record.getMessage()), record.exc_info and record.exc_info[0])
            for record in records
        ]

    records = compare(scenario)
    assert records[0][2] is ZeroDivisionError
    assert "Exception in callback boom()" in records[0][1]


@pytest.fixture(autouse=True)
def _read_log(error_log):
    yield
    error_log.take()  # every test of this file that logs looks at it itself


def test_setting_and_getting(loop, reports):
    seen = []

    def handler(loop, context):
        seen.append((loop, context))

    assert loop.get_exception_handler() is reports
    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler
    loop.call_soon(boom)
    run_turns(loop)
    assert seen[0][0] is loop
    assert isinstance(seen[0][1]["exception"], ZeroDivisionError)
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None


def test_what_set_exception_handler_refuses(compare):
    def scenario(loop, reports):
        return [
            outcome(lambda thing=thing: loop.set_exception_handler(thing)) for thing in (1, "x", [])
        ]

    assert compare(scenario)[0] == ("TypeError", "A callable object or None is expected, got 1")


def test_a_handler_that_raises(loop, error_log):
    def handler(loop, context):
        raise ValueError("the handler's own")

    loop.set_exception_handler(handler)
    loop.call_soon(boom)
    run_turns(loop)
    assert "Unhandled error in exception handler" in error_log.take()[0]


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_a_handler_that_exits(loop, exception):
    def handler(loop, context):
        raise exception

    loop.set_exception_handler(handler)
    loop.call_soon(boom)
    with pytest.raises(exception):
        run_turns(loop)
    loop.set_exception_handler(None)
    run_turns(loop, 2)


def test_default_exception_handler_of_a_subclass(loop_factory):
    probe = loop_factory()
    base = type(probe)
    probe.close()
    seen = []

    class Loop(base):
        def default_exception_handler(self, context):
            seen.append(context["message"])

    loop = Loop()
    loop.call_soon(boom)
    run_turns(loop)
    loop.close()
    assert len(seen) == 1 and "boom" in seen[0]


def test_call_exception_handler_of_a_subclass(loop_factory):
    """Errors in callbacks go through the overridable method."""
    probe = loop_factory()
    base = type(probe)
    probe.close()
    seen = []

    class Loop(base):
        def call_exception_handler(self, context):
            seen.append(context["message"])

    loop = Loop()
    loop.call_soon(boom)
    loop.call_later(0, boom)
    run_turns(loop, 3)
    loop.close()
    assert len(seen) == 2


def test_an_instance_attribute_as_handler(loop, monkeypatch):
    """Tests patch ``loop.call_exception_handler``; that must be seen."""
    seen = []
    monkeypatch.setattr(loop, "call_exception_handler", seen.append)
    loop.call_soon(boom)
    run_turns(loop)
    assert len(seen) == 1


def test_a_task_nobody_asked(loop, reports):
    async def fail():
        raise ZeroDivisionError

    async def main():
        task = loop.create_task(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        gc.collect()

    loop.run_until_complete(main())
    report = reports.one()
    assert report["message"] == "Task exception was never retrieved"
    assert isinstance(report["exception"], ZeroDivisionError)


def test_a_future_nobody_asked(loop, reports):
    future = loop.create_future()
    future.set_exception(ZeroDivisionError())
    del future
    gc.collect()
    assert reports.one()["message"] == "Future exception was never retrieved"


def test_a_pending_task_that_is_destroyed(loop, reports):
    async def forever(future):
        await future

    async def main():
        task = loop.create_task(forever(loop.create_future()))
        await asyncio.sleep(0)
        del task

    loop.run_until_complete(main())
    gc.collect()
    assert reports.one()["message"] == "Task was destroyed but it is pending!"
    gc.collect()  # the report brought it back to life once


@pytest.mark.skipif(PY < (3, 12), reason="handlers run in the handle's context since Python 3.12")
def test_the_handler_runs_in_the_context_of_the_callback(loop):
    import contextvars

    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    def handler(loop, context):
        seen.append(variable.get())

    def callback():
        variable.set("callback")
        boom()

    loop.set_exception_handler(handler)
    loop.call_soon(callback)
    variable.set("outside")
    run_turns(loop)
    variable.set("unset")
    assert seen == ["callback"]


def test_chained_exceptions_and_tracebacks_are_whole(loop, reports):
    def callback():
        try:
            boom()
        except ZeroDivisionError as exc:
            raise ValueError("outer") from exc

    loop.call_soon(callback)
    run_turns(loop)
    exception = reports.one()["exception"]
    assert isinstance(exception.__cause__, ZeroDivisionError)
    names = []
    step = exception.__traceback__
    while step:
        names.append(step.tb_frame.f_code.co_name)
        step = step.tb_next
    assert names[-1] == "callback"


def test_done_callbacks_that_raise(loop, reports):
    def callback(future):
        boom()

    future = loop.create_future()
    future.add_done_callback(callback)
    future.set_result(1)
    run_turns(loop)
    assert "test_done_callbacks_that_raise" in reports.one()["message"]
