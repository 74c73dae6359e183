"""`run_parallel`: one loop per thread, ended together as `asyncio.run` and `TaskGroup` would end them."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from ._loop import Loop

_T = TypeVar("_T")
Main = Callable[[int], Coroutine[Any, Any, _T]]


def run_parallel(
    main: Main[_T],
    *,
    loops: int | None = None,
    backend: str | None = None,
    debug: bool | None = None,
) -> list[_T]:
    """Run `main(0)`, `main(1)`, ... at once, each on a loop and in a thread of its own; return their results in order.

    `loops` says how many; without it there are as many as can run at once: one for each core that this process may
    use, or just one where Python has a GIL. Asking for more under a GIL warns that they share one core. `main(0)` runs
    in the calling thread, so that signal handlers work there as under `asyncio.run`; each `main` sees a copy of the
    caller's context variables. `backend` and `debug` are those of `new_event_loop` and of `asyncio.run`.

    The first exception cancels all other mains; when every loop has ended, an ExceptionGroup of all exceptions is
    raised. SystemExit and KeyboardInterrupt (which is what Ctrl-C becomes) do the same and are then raised as they are,
    and so is the CancelledError of a main that ends cancelled although nobody asked for it. A second Ctrl-C stops
    waiting for the others.

    Raises ValueError if `loops` is less than one, RuntimeError inside a running loop, and what `new_event_loop` raises
    for `backend`.
    """
    count = _how_many(loops)
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("run_parallel() cannot be called from a running event loop")
    group: _Group[_T] = _Group(main, count, backend, debug)
    return group.run()


def _how_many(loops: int | None) -> int:
    """Return the number of loops; warn if that many cannot run at once."""
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    if loops is None:
        return 1 if gil else _cores()
    if loops < 1:
        raise ValueError(f"loops must be at least 1, not {loops}")
    if gil and loops > 1:
        warnings.warn(
            f"this Python has a global interpreter lock: {loops} loops will share one core; "
            "use a free-threaded build (such as python3.14t), or one process per core",
            RuntimeWarning,
            stacklevel=3,
        )
    return loops


def _cores() -> int:
    """Return how many cores this process may use."""
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return count() or 1


class _Group(Generic[_T]):
    """Loops that run and end together."""

    def __init__(self, main: Main[_T], count: int, backend: str | None, debug: bool | None) -> None:
        self.main = main
        self.backend = backend
        self.debug = debug
        self.results: list[_T | None] = [None] * count
        self.errors: list[BaseException] = []
        # Guards what follows: the mains that run now, each with its loop, and whether all are to end.
        self.lock = threading.Lock()
        self.running: dict[int, tuple[Loop, asyncio.Task[Any]]] = {}
        self.ending = False

    def run(self) -> list[_T]:
        """Run all mains, the first one here; return their results or raise what they raised."""
        others: list[tuple[threading.Thread, threading.Event]] = []
        try:
            with asyncio.Runner(debug=self.debug, loop_factory=self.make_loop) as runner:
                # A backend that cannot be opened is found out before any thread has started.
                runner.get_loop()
                self.start_others(others)
                self.guarded(runner, 0)
        except BaseException as error:
            if not others:
                raise
            # Closing the loop failed, or Ctrl-C came meanwhile: the other loops must end all the same.
            self.fail(error)
        for thread, over in others:
            self.join(thread, over)
        self.raise_errors()
        return self.results  # type: ignore[return-value]

    def make_loop(self) -> Loop:
        return Loop(self.backend)

    def start_others(self, others: list[tuple[threading.Thread, threading.Event]]) -> None:
        """Start the threads of all mains but the first, as far as the system allows, and note each in `others`."""
        for index in range(1, len(self.results)):
            context = contextvars.copy_context()
            over = threading.Event()
            name = f"zloop-{index}"
            thread = threading.Thread(target=context.run, args=[self.work, index, over], name=name)
            # Before it starts: Ctrl-C can come out of `start` when the thread runs already.
            others.append((thread, over))
            try:
                thread.start()
            except BaseException as error:
                # Those that run already must end before anybody hears of it.
                self.fail(error)
                break

    def work(self, index: int, over: threading.Event) -> None:
        """Run main `index` in this thread."""
        try:
            with asyncio.Runner(debug=self.debug, loop_factory=self.make_loop) as runner:
                self.guarded(runner, index)
        except BaseException as error:
            # Making or closing the loop failed.
            self.fail(error)
        finally:
            over.set()

    def guarded(self, runner: asyncio.Runner, index: int) -> None:
        """Run main `index`; its failure is everybody's."""
        try:
            self.results[index] = runner.run(self.supervised(index))
        except asyncio.CancelledError as error:
            if not self.ending:
                self.fail(error)
        except BaseException as error:
            self.fail(error)

    async def supervised(self, index: int) -> _T:
        """Main `index`, where the others can cancel it."""
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        assert task is not None and isinstance(loop, Loop)
        with self.lock:
            if self.ending:
                raise asyncio.CancelledError
            self.running[index] = loop, task
        try:
            return await self.main(index)
        finally:
            with self.lock:
                del self.running[index]

    def fail(self, error: BaseException) -> None:
        """Remember why, and cancel all mains that still run."""
        with self.lock:
            self.errors.append(error)
            self.ending = True
            # Nobody leaves `running` while we hold the lock, so these loops are open.
            for loop, task in self.running.values():
                loop.call_soon_threadsafe(task.cancel)

    def join(self, thread: threading.Thread, over: threading.Event) -> None:
        """Wait for a thread. The first Ctrl-C makes all end; the second one is the caller's."""
        if thread.ident is None:
            # It could not start. Should it do so yet, it finds that all are to end.
            return
        # Before 3.13 an interrupted `join` takes the thread for ended: it is called when there is little left to do.
        try:
            over.wait()
        except KeyboardInterrupt as error:
            self.fail(error)
            over.wait()
        thread.join()

    def raise_errors(self) -> None:
        """Raise what went wrong, if anything did."""
        # Tracebacks lead to this group, so it must not keep the exceptions.
        errors, self.errors = self.errors, []
        try:
            for error in errors:
                if isinstance(error, (SystemExit, KeyboardInterrupt)):
                    raise error
            failures = [error for error in errors if isinstance(error, Exception)]
            if failures:
                raise ExceptionGroup("unhandled errors in zloop.run_parallel()", failures)
            if errors:
                raise errors[0]
        finally:
            del errors
