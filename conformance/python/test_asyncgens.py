"""Async generators: finalised by the loop, closed by shutdown_asyncgens, hooks put back."""

import asyncio
import gc
import sys
import warnings

import pytest

from harness import spin


async def numbers(seen, count=3):
    try:
        for number in range(count):
            yield number
            await asyncio.sleep(0)
    finally:
        await asyncio.sleep(0)
        seen.append("closed")


def test_a_dropped_generator_is_finalised_by_the_loop(loop):
    seen = []

    async def main():
        generator = numbers(seen)
        assert await generator.__anext__() == 0
        del generator
        gc.collect()
        await spin(5)
        assert seen == ["closed"]

    loop.run_until_complete(main())


def test_break_out_of_a_loop(loop):
    seen = []

    async def main():
        async for number in numbers(seen):
            if number == 1:
                break
        gc.collect()
        await spin(5)

    loop.run_until_complete(main())
    assert seen == ["closed"]


def test_shutdown_asyncgens(loop):
    seen = []

    async def main():
        keep.append(numbers(seen))
        keep.append(numbers(seen))
        for generator in keep:
            await generator.__anext__()

    keep = []
    loop.run_until_complete(main())
    assert seen == []
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert seen == ["closed", "closed"]
    with pytest.raises(StopAsyncIteration):
        loop.run_until_complete(anext_of(keep[0]))


async def anext_of(generator):
    return await generator.__anext__()


def test_shutdown_reports_what_a_generator_raises(loop, reports):
    async def bad():
        try:
            yield 1
        finally:
            raise ZeroDivisionError

    async def main():
        keep.append(bad())
        await keep[0].__anext__()

    keep = []
    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    report = reports.one()
    assert report["message"].startswith(
        "an error occurred during closing of asynchronous generator"
    )
    assert report["asyncgen"] is keep[0]
    assert isinstance(report["exception"], ZeroDivisionError)


def test_iterating_after_shutdown_warns(loop):
    async def main():
        await loop.shutdown_asyncgens()
        with pytest.warns(
            ResourceWarning, match=r"was scheduled after loop\.shutdown_asyncgens\(\) call"
        ):
            generator = numbers([])
            await generator.__anext__()
        await generator.aclose()

    loop.run_until_complete(main())


def test_the_hooks_are_the_loops_only_while_it_runs(loop):
    mine = (lambda generator: None, lambda generator: None)
    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(*mine)
    try:

        async def main():
            return sys.get_asyncgen_hooks()

        during = loop.run_until_complete(main())
        after = sys.get_asyncgen_hooks()
    finally:
        sys.set_asyncgen_hooks(*before)
    assert during.firstiter is not None and during.firstiter is not mine[0]
    assert during.finalizer is not None and during.finalizer is not mine[1]
    assert tuple(after) == mine


def test_the_hooks_are_put_back_after_an_exception(loop):
    before = sys.get_asyncgen_hooks()

    async def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(fail())
    assert sys.get_asyncgen_hooks() == before


def test_a_generator_dropped_after_the_loop_closed(loop_factory):
    """Nobody can finalise it any more; nothing may crash."""
    loop = loop_factory()

    async def simple():
        yield 1

    async def main():
        generator = simple()
        await generator.__anext__()
        return generator

    generator = loop.run_until_complete(main())
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del generator
        gc.collect()


def test_a_generator_finalised_in_another_thread(loop):
    """The last reference goes away in a thread: the loop is woken to close it."""
    seen = []

    async def main():
        box = [numbers(seen)]
        await box[0].__anext__()

        def drop():
            box.clear()
            gc.collect()

        await loop.run_in_executor(None, drop)
        for _ in range(50):
            if seen:
                break
            await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    assert seen == ["closed"]


def test_generators_and_cancellation(loop):
    seen = []

    async def consume():
        async for _ in numbers(seen, 10**9):
            pass

    async def main():
        task = loop.create_task(consume())
        await spin(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        gc.collect()
        await spin(5)

    loop.run_until_complete(main())
    assert seen == ["closed"]
