"""The order in which a loop runs what is ready: callbacks, I/O, timers."""

import asyncio
import socket

import pytest

from harness import run_turns, spin, unix_pair


def test_call_soon_runs_in_order_with_arguments(loop):
    seen = []
    for number in range(2000):
        loop.call_soon(lambda *args: seen.append(args), number, str(number))
    run_turns(loop)
    assert seen == [(number, str(number)) for number in range(2000)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 9])
def test_any_number_of_arguments(loop, count):
    seen = []
    args = tuple(object() for _ in range(count))
    loop.call_soon(lambda *got: seen.append(got), *args)
    loop.call_soon_threadsafe(lambda *got: seen.append(got), *args)
    loop.call_at(loop.time() - 2, lambda *got: seen.append(got), *args)
    loop.call_later(-1, lambda *got: seen.append(got), *args)
    run_turns(loop, 3)
    assert seen == [args] * 4


def test_any_callable(loop):
    seen = []

    class Callable:
        def __call__(self, value):
            seen.append(value)

        def method(self, value):
            seen.append(value)

        @staticmethod
        def static(value):
            seen.append(value)

    loop.call_soon(Callable(), 1)
    loop.call_soon(Callable().method, 2)
    loop.call_soon(Callable.static, 3)
    loop.call_soon(seen.append, 4)
    loop.call_soon(list.append, seen, 5)
    loop.call_soon(__import__("functools").partial(seen.append, 6))
    run_turns(loop)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_what_a_callback_schedules_waits_for_the_next_turn(loop):
    seen = []

    def first():
        seen.append("first")
        loop.call_soon(seen.append, "third")

    loop.call_soon(first)
    loop.call_soon(seen.append, "second")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == ["first", "second"]
    run_turns(loop)
    assert seen == ["first", "second", "third"]


def test_turns_count_exactly(loop):
    """Each turn runs what was ready when it began, no more and no less."""
    seen = []

    def again(name, turn):
        seen.append((turn, name))
        if turn < 4:
            loop.call_soon(again, name, turn + 1)

    for name in "abc":
        loop.call_soon(again, name, 0)
    run_turns(loop, 5)
    assert seen == [(turn, name) for turn in range(5) for name in "abc"]


def test_threadsafe_calls_of_the_own_thread_keep_their_place(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon_threadsafe(seen.append, 2)
    loop.call_soon(seen.append, 3)
    loop.call_soon_threadsafe(seen.append, 4)
    run_turns(loop)
    assert seen == [1, 2, 3, 4]


def test_ready_then_io_then_timers(loop):
    """One turn: what was ready before it, then files, then timers that are due."""
    near, far = unix_pair()
    seen = []

    def readable():
        seen.append("io")
        loop.remove_reader(near)

    def begin():
        loop.call_at(loop.time() - 1, seen.append, "timer")
        loop.add_reader(near, readable)
        far.send(b"x")
        loop.call_soon(seen.append, "ready")

    with near, far:
        loop.call_soon(begin)
        run_turns(loop, 4)
    assert seen == ["ready", "io", "timer"]


def test_reader_before_writer_of_one_event(loop):
    near, far = unix_pair()
    seen = []

    def note(name, remove):
        seen.append(name)
        remove(near)

    with near, far:
        far.send(b"x")
        loop.add_writer(near, note, "write", loop.remove_writer)
        loop.add_reader(near, note, "read", loop.remove_reader)
        run_turns(loop, 4)
    assert seen == ["read", "write"]


def test_busy_callbacks_starve_neither_files_nor_timers(loop):
    near, far = unix_pair()
    seen = set()

    def busy():
        if len(seen) < 2:
            loop.call_soon(busy)
        else:
            loop.stop()

    def readable():
        loop.remove_reader(near)
        seen.add("io")

    with near, far:
        loop.add_reader(near, readable)
        loop.call_later(0.005, seen.add, "timer")
        loop.call_later(0.005, far.send, b"x")
        loop.call_soon(busy)
        loop.run_forever()
    assert seen == {"io", "timer"}


def test_busy_files_starve_neither_callbacks_nor_timers(loop):
    """A file that is always readable must leave the rest its turn."""
    near, far = unix_pair()
    seen = []

    with near, far:
        far.send(b"x")
        loop.add_reader(near, lambda: None)  # never reads: level-triggered, always ready
        loop.call_later(0.005, loop.stop)
        loop.call_soon(seen.append, "callback")
        loop.run_forever()
        loop.remove_reader(near)
    assert seen == ["callback"]


def test_overdue_timers_do_not_starve_files(loop):
    near, far = unix_pair()
    seen = []

    def timer():
        if not seen:
            loop.call_later(0, timer)

    def readable():
        loop.remove_reader(near)
        seen.append(near.recv(10))

    with near, far:
        near.setblocking(False)
        loop.add_reader(near, readable)
        loop.call_soon(timer)
        loop.call_soon(far.send, b"x")
        loop.run_until_complete(_until(lambda: seen))
    assert seen == [b"x"]


async def _until(condition):
    while not condition():
        await asyncio.sleep(0)


def test_cancel_inside_the_same_turn(loop):
    seen = []
    loop.call_soon(lambda: later.cancel())
    later = loop.call_soon(seen.append, "cancelled")
    loop.call_soon(seen.append, "kept")
    run_turns(loop)
    assert seen == ["kept"]


def test_a_handle_cancelled_by_io_of_the_same_turn(loop):
    """Both files are readable in one turn; the first callback removes the second."""
    pairs = [unix_pair(), unix_pair()]
    seen = []

    def readable(me, other):
        seen.append(me)
        loop.remove_reader(pairs[other][0])
        loop.remove_reader(pairs[me][0])

    for me, (near, far) in enumerate(pairs):
        far.send(b"x")
        loop.add_reader(near, readable, me, 1 - me)
    run_turns(loop, 4)
    for near, far in pairs:
        near.close()
        far.close()
    assert len(seen) == 1


def test_an_exception_does_not_disturb_the_rest_of_the_turn(loop, reports):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(seen.append, 2)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [1, 2]
    assert isinstance(reports.one()["exception"], ZeroDivisionError)


def test_tasks_and_callbacks_share_one_queue(loop):
    seen = []

    async def task(name):
        seen.append(name)
        await asyncio.sleep(0)
        seen.append(name * 2)

    async def main():
        loop.call_soon(seen.append, "c")
        tasks = [loop.create_task(task("a")), loop.create_task(task("b"))]
        loop.call_soon(seen.append, "d")
        await asyncio.gather(*tasks)

    loop.run_until_complete(main())
    assert seen == ["c", "a", "b", "d", "aa", "bb"]


def test_future_callbacks_run_on_the_next_turn(loop):
    seen = []

    async def main():
        future = loop.create_future()
        future.add_done_callback(lambda f: seen.append("callback"))
        future.set_result(None)
        seen.append("after set_result")
        await spin()
        seen.append("next turn")

    loop.run_until_complete(main())
    assert seen == ["after set_result", "callback", "next turn"]


def test_order_over_many_sockets_is_the_same_in_every_turn(loop):
    """Nothing is lost when many files are ready at once (more than one batch of events)."""
    pairs = [unix_pair() for _ in range(200)]
    seen = []

    def readable(index):
        seen.append(index)
        pairs[index][0].recv(10)
        loop.remove_reader(pairs[index][0])

    for index, (near, far) in enumerate(pairs):
        loop.add_reader(near, readable, index)
        far.send(b"x")
    loop.run_until_complete(_until(lambda: len(seen) == 200))
    for near, far in pairs:
        near.close()
        far.close()
    assert sorted(seen) == list(range(200))


def test_scheduling_from_a_reader_callback(loop):
    near, far = unix_pair()
    seen = []

    def readable():
        near.recv(10)
        loop.remove_reader(near)
        loop.call_soon(seen.append, "soon")
        loop.call_later(0, seen.append, "later")
        loop.call_soon(loop.call_soon, loop.stop)

    with near, far:
        loop.add_reader(near, readable)
        far.send(b"x")
        loop.run_forever()
    assert seen == ["soon", "later"]


def test_a_loop_without_work_sleeps(loop):
    """Waiting costs no processor time worth the name."""
    import time

    near, far = socket.socketpair()
    with near, far:
        loop.add_reader(near, lambda: None)
        before = time.process_time()
        loop.call_later(0.15, loop.stop)
        loop.run_forever()
        loop.remove_reader(near)
    assert time.process_time() - before < 0.1
