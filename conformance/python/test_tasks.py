"""Tasks and futures are asyncio's own: factories, options, registries, eager start, groups."""

import asyncio
import contextvars
import gc
import sys
import threading

import pytest

from harness import PY, outcome, run_turns, scaled, spin

eager_start = pytest.mark.skipif(
    PY < (3, 14), reason="create_task(eager_start=) is new in Python 3.14"
)


async def value(result=None):
    await asyncio.sleep(0)
    return result


def test_tasks_and_futures_are_asyncios(loop, run):
    async def main():
        future = loop.create_future()
        assert type(future) is asyncio.Future
        assert future.get_loop() is loop
        task = loop.create_task(value())
        assert type(task) is asyncio.Task
        assert task.get_loop() is loop
        assert asyncio.isfuture(future)
        await task
        future.cancel()

    run(main())


@pytest.mark.parametrize("running", ["none", "another"])
def test_tasks_and_futures_belong_to_the_loop_that_made_them(loop, loop_factory, running):
    """Whichever loop counts as the running one just then."""
    other = loop_factory() if running == "another" else None
    made = []

    def make():
        asyncio._set_running_loop(other)
        try:
            made.append(loop.create_future())
            made.append(loop.create_task(value(), name="given"))
            made.append(loop.create_task(value(), name=None, context=None))
        finally:
            asyncio._set_running_loop(loop)

    async def main():
        make()
        made.append(loop.create_future())
        made.append(loop.create_task(value()))
        await asyncio.gather(*[task for task in made if isinstance(task, asyncio.Task)])

    made.append(loop.create_future())
    loop.run_until_complete(main())
    assert [task.get_loop() for task in made] == [loop] * 6
    given = [task.get_name() for task in made if isinstance(task, asyncio.Task)]
    assert given[0] == "given"
    assert all(name.startswith("Task-") for name in given[1:])
    if other is not None:
        other.close()


def test_task_options(loop, run):
    async def main():
        context = contextvars.copy_context()
        task = loop.create_task(value(1), name="given", context=context)
        assert task.get_name() == "given"
        if PY >= (3, 12):
            assert task.get_context() is context
        return await task

    assert run(main()) == 1


def test_options_that_are_given_one_by_one(loop, run):
    """Whatever others are left out, None, or not spelled in the source."""

    async def main():
        context = contextvars.copy_context()
        named = [
            loop.create_task(value(), **options)
            for options in ({"name": "x"}, {"".join(["na", "me"]): "x"})
        ]
        named.append(loop.create_task(value(), name="x", context=None))
        named.append(loop.create_task(coro=value(), name="x"))
        placed = [
            loop.create_task(value(), context=context),
            loop.create_task(value(), name=None, context=context),
        ]
        assert [task.get_name() for task in named] == ["x"] * 4
        assert all(task.get_name().startswith("Task-") for task in placed)
        if PY >= (3, 12):
            assert not any(task.get_context() is context for task in named)
            assert all(task.get_context() is context for task in placed)
        await asyncio.gather(*named, *placed)

    run(main())


def test_registries(loop, run):
    async def main():
        me = asyncio.current_task()
        assert asyncio.current_task(loop) is me
        assert asyncio.all_tasks() == {me}
        other = loop.create_task(value())
        assert asyncio.all_tasks(loop) == {me, other}
        await other
        assert asyncio.all_tasks() == {me}
        seen = []
        loop.call_soon(lambda: seen.append(asyncio.current_task()))
        await spin(2)
        assert seen == [None]

    run(main())
    assert asyncio.all_tasks(loop) == set()


def test_a_task_factory(loop, run):
    made = []

    class Task(asyncio.Task):
        pass

    def factory(loop, coroutine, **options):
        made.append(options)
        return Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory

    async def main():
        task = loop.create_task(value(5), name="named")
        assert type(task) is Task and task.get_name() == "named"
        assert type(asyncio.current_task()) is Task
        return await task

    assert run(main()) == 5
    assert len(made) == 2
    loop.set_task_factory(None)
    assert loop.get_task_factory() is None


@pytest.mark.skipif(PY < (3, 12), reason="eager tasks are new in Python 3.12")
def test_eager_tasks(loop, run):
    loop.set_task_factory(asyncio.eager_task_factory)
    seen = []

    async def quick():
        seen.append(asyncio.current_task() is not None)
        return "at once"

    async def main():
        me = asyncio.current_task()
        task = asyncio.create_task(quick())
        assert task.done() and seen == [True]
        assert asyncio.current_task() is me
        slow = asyncio.create_task(value("later"))
        assert not slow.done()
        return task.result(), await slow

    assert run(main()) == ("at once", "later")


@eager_start
@pytest.mark.parametrize("eager", [True, False, None])
def test_eager_start(loop, run, eager):
    async def main():
        seen = []

        async def quick():
            seen.append(1)

        task = loop.create_task(quick(), eager_start=eager)
        started = list(seen)
        await task
        return started

    assert run(main()) == ([1] if eager else [])


@eager_start
@pytest.mark.parametrize("fails", [False, True])
def test_eager_start_with_other_options(loop, run, fails):
    """A task that ends at once, or fails at once, has all that it was given."""
    variable = contextvars.ContextVar("variable", default="creator's")

    async def quick():
        seen.append((variable.get(), asyncio.current_task().get_name()))
        if fails:
            raise LookupError("at once")
        return 5

    async def main():
        me = asyncio.current_task()
        task = loop.create_task(quick(), name="eager", context=context, eager_start=True)
        assert (task.done(), task.get_loop(), asyncio.current_task()) == (True, loop, me)
        assert outcome(task.result) == (("LookupError", "at once") if fails else 5)
        slow = loop.create_task(value(6), eager_start=True, name=None)
        assert not slow.done()
        assert slow.get_name().startswith("Task-")
        return await slow

    seen = []
    context = contextvars.copy_context()
    context.run(variable.set, "its own")
    assert run(main()) == 6
    assert seen == [("its own", "eager")]


@eager_start
def test_eager_start_outside_the_run_starts_with_it(loop):
    seen = []

    async def note():
        seen.append(asyncio.get_running_loop())

    task = loop.create_task(note(), eager_start=True)
    assert seen == []
    loop.run_until_complete(task)
    assert seen == [loop]


@eager_start
def test_an_eager_start_that_ends_the_program(loop, reports):
    async def leave():
        raise SystemExit(3)

    async def main():
        with pytest.raises(SystemExit):
            loop.create_task(leave(), eager_start=True)
        return 7

    assert loop.run_until_complete(main()) == 7
    gc.collect()
    assert reports.messages() == ["Task exception was never retrieved"]


def test_create_task_of_a_subclass_is_used(loop_factory):
    probe = loop_factory()
    base = type(probe)
    probe.close()
    made = []

    class Loop(base):
        def create_task(self, coroutine, **options):
            made.append(options)
            return super().create_task(coroutine, **options)

        def create_future(self):
            made.append("future")
            return super().create_future()

    loop = Loop()

    async def main():
        await asyncio.create_task(value(), name="x")
        await asyncio.sleep(0.0001)

    loop.run_until_complete(main())
    loop.close()
    assert any(isinstance(item, dict) for item in made)
    assert "future" in made


def test_call_soon_of_a_subclass_is_used(loop_factory):
    """Overriding the basic calls works, as in asyncio: tasks and futures go through them."""
    probe = loop_factory()
    base = type(probe)
    probe.close()
    calls = []

    class Loop(base):
        def call_soon(self, callback, *args, context=None):
            calls.append("soon")
            return super().call_soon(callback, *args, context=context)

        def call_at(self, when, callback, *args, context=None):
            calls.append("at")
            return super().call_at(when, callback, *args, context=context)

        def call_later(self, delay, callback, *args, context=None):
            calls.append("later")
            return super().call_later(delay, callback, *args, context=context)

    loop = Loop()
    loop.run_until_complete(asyncio.sleep(0.0001))
    loop.close()
    assert "soon" in calls and "later" in calls


def test_cancellation(loop, run):
    async def main():
        task = loop.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel("message")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args in (("message",), ())
        assert task.cancelled()

    run(main())


def test_uncancelled_cleanup(loop, run):
    async def stubborn(seen):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cleaned")
            raise

    async def main():
        seen = []
        task = loop.create_task(stubborn(seen))
        await spin(2)
        task.cancel()
        await asyncio.wait([task])
        return seen

    assert run(main()) == ["cleaned"]


def test_task_groups(loop, run):
    async def fail():
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async def main():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(value(number)) for number in range(5)]
        assert [task.result() for task in tasks] == list(range(5))
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                sleeper = group.create_task(asyncio.sleep(60))
        assert sleeper.cancelled()

    run(main())


def test_gather_wait_and_as_completed(loop, run):
    async def main():
        assert await asyncio.gather(*(value(number) for number in range(10))) == list(range(10))
        futures = [loop.create_future() for _ in range(3)]
        loop.call_soon(futures[1].set_result, "first")
        done, pending = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        assert done == {futures[1]} and pending == {futures[0], futures[2]}
        loop.call_soon(futures[2].set_result, "second")
        loop.call_later(0.001, futures[0].set_result, "third")
        order = [await future for future in asyncio.as_completed(pending)]
        assert order == ["second", "third"]
        results = await asyncio.gather(value(1), asyncio.shield(value(2)), return_exceptions=True)
        assert results == [1, 2]

    run(main())


def test_synchronisation(loop, run):
    async def main():
        queue, lock, event = asyncio.Queue(2), asyncio.Lock(), asyncio.Event()
        seen = []

        async def produce():
            for number in range(20):
                await queue.put(number)
            event.set()

        async def consume():
            while not (event.is_set() and queue.empty()):
                async with lock:
                    seen.append(await queue.get())

        await asyncio.gather(produce(), consume())
        assert seen == list(range(20))
        condition, semaphore = asyncio.Condition(), asyncio.Semaphore(2)
        async with semaphore, condition:
            condition.notify_all()

    run(main())


def test_ten_thousand_tasks(loop, run):
    count = scaled(10_000)

    async def main():
        return sum(await asyncio.gather(*(value(number) for number in range(count))))

    assert run(main()) == sum(range(count))


def test_a_task_that_awaits_itself_and_other_errors(compare):
    def scenario(loop, reports):
        async def main():
            me = asyncio.current_task()
            try:
                await me
            except RuntimeError as exc:
                return str(exc).split(" <")[0]

        return loop.run_until_complete(main())

    assert compare(scenario).startswith("Task cannot await on itself")


def test_a_future_of_another_loop(compare, loop_factory):
    def scenario(loop, reports):
        other = loop_factory()

        async def main():
            try:
                await other.create_future()
            except RuntimeError as exc:
                return "attached to a different loop" in str(exc)

        result = loop.run_until_complete(main())
        other.close()
        return result

    assert compare(scenario) is True


def test_current_task_stays_in_step_after_an_exit(loop):
    async def leave():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(leave())
    assert asyncio.current_task(loop) is None
    run_turns(loop, 2)


def test_tasks_of_two_loops_in_two_threads(loop_factory):
    seen = []

    async def main(number):
        await asyncio.sleep(0.001)
        seen.append((number, len(asyncio.all_tasks())))

    def work(number):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [(number, 1) for number in range(4)]


@pytest.mark.skipif(PY < (3, 14), reason="asyncio's call graph is new in Python 3.14")
def test_the_call_graph(loop, run):
    async def inner():
        return asyncio.capture_call_graph()

    async def main():
        return await loop.create_task(inner())

    graph = run(main())
    assert graph.awaited_by and "inner" in asyncio.format_call_graph.__module__ + str(
        graph.call_stack
    )


@pytest.mark.skipif(
    PY < (3, 14) or sys.platform != "linux", reason="python -m asyncio ps is new in Python 3.14"
)
def test_inspection_from_outside(script):
    """``python -m asyncio ps`` sees the tasks of this loop."""
    done = script(
        """
import os, subprocess, sys
async def waiting_for_inspection():
    await asyncio.sleep(60)

async def main():
    task = asyncio.create_task(waiting_for_inspection(), name="inspected")
    await asyncio.sleep(0)
    command = [sys.executable, "-m", "asyncio", "ps", str(os.getpid())]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    task.cancel()
    print(done.returncode, "inspected" in done.stdout, "ermission" in done.stdout + done.stderr)

loop = new_event_loop()
loop.run_until_complete(main())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
"""
    )
    code, seen, refused = done.stdout.split()
    if refused == "True":
        pytest.skip("this system does not let one process look into another")
    assert (code, seen) == ("0", "True")


def test_awaiting_in_wrong_places(compare):
    def scenario(loop, reports):
        async def main():
            return outcome(lambda: loop.run_until_complete(loop.create_future()))

        return loop.run_until_complete(main())

    assert compare(scenario) == ("RuntimeError", "This event loop is already running")


@pytest.mark.parametrize("name", ["Task", "Future"])
def test_asyncios_classes_are_looked_up_when_needed(loop, monkeypatch, name):
    """Tests and tools put the pure Python classes, or their own, into asyncio's modules."""
    module = asyncio.tasks if name == "Task" else asyncio.futures
    pure = getattr(module, "_Py" + name)
    monkeypatch.setattr(module, name, pure)
    if name == "Future":

        async def make():
            return loop.create_future()

        assert type(loop.create_future()) is pure
        assert type(loop.run_until_complete(make())) is pure
        return

    async def main():
        inner = loop.create_task(asyncio.sleep(0))
        await inner
        assert type(inner) is pure
        return 5

    task = loop.create_task(main())
    assert type(task) is pure
    assert loop.run_until_complete(task) == 5
