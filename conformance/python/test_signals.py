"""Signal handlers, Ctrl-C while idle or busy, and what a loop leaves of the process's signal state."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
import types
import warnings

import pytest

from harness import outcome, run_script, run_turns, spin, until

USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


def send(number):
    os.kill(os.getpid(), number)


def test_a_handler_is_effective_when_the_call_returns(loop, run):
    async def main():
        seen = []
        loop.add_signal_handler(USR1, seen.append, "one")
        send(USR1)  # the default action would end the process
        for _ in range(100):
            if seen:
                break
            await asyncio.sleep(0.001)
        assert loop.remove_signal_handler(USR1) is True
        return seen

    assert run(main()) == ["one"]


def signal_idle_loop(loop, count=5):
    """Send SIGUSR1 to an idle loop, several times; ``arrived`` of the result is to be called by the handler."""
    main = threading.get_ident()
    delays, sent = [], []
    done = threading.Event()

    def arrived(*_):
        delays.append(time.monotonic() - sent[-1])
        done.set()

    def work():
        for _ in range(count):
            done.clear()
            time.sleep(0.01)  # the loop is asleep by now
            sent.append(time.monotonic())
            signal.pthread_kill(main, USR1)
            done.wait(5)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=work)
    return arrived, thread, delays


def test_a_handler_wakes_an_idle_loop(loop):
    arrived, thread, delays = signal_idle_loop(loop)
    loop.add_signal_handler(USR1, arrived)
    far = loop.call_later(60, pytest.fail)
    thread.start()
    loop.run_forever()
    thread.join()
    far.cancel()
    loop.remove_signal_handler(USR1)
    assert sorted(delays)[2] < 0.02, delays


def test_the_handler_runs_as_a_callback(loop):
    """In the loop's thread, between other callbacks, with its arguments."""
    seen = []

    def handler(*args):
        seen.append(
            (
                args,
                asyncio.get_running_loop() is loop,
                threading.current_thread() is threading.main_thread(),
            )
        )
        loop.stop()

    loop.add_signal_handler(USR1, handler, 1, 2)
    loop.call_soon(send, USR1)
    loop.run_forever()
    loop.remove_signal_handler(USR1)
    assert seen == [((1, 2), True, True)]


def test_a_signal_sent_before_the_loop_runs(loop):
    seen = []
    loop.add_signal_handler(USR1, lambda: (seen.append(1), loop.stop()))
    send(USR1)
    time.sleep(0.001)
    loop.call_later(5, loop.stop)
    loop.run_forever()
    loop.remove_signal_handler(USR1)
    assert seen == [1]


def test_replacing_a_handler(loop):
    seen = []
    loop.add_signal_handler(USR1, seen.append, "old")
    loop.add_signal_handler(USR1, lambda: (seen.append("new"), loop.stop()))
    loop.call_soon(send, USR1)
    loop.run_forever()
    assert loop.remove_signal_handler(USR1) is True
    assert loop.remove_signal_handler(USR1) is False
    assert seen == ["new"]


def test_two_signals(loop):
    seen = []

    def handler(name):
        seen.append(name)
        if len(seen) == 2:
            loop.stop()

    loop.add_signal_handler(USR1, handler, "one")
    loop.add_signal_handler(USR2, handler, "two")
    loop.call_soon(lambda: (send(USR1), send(USR2)))
    loop.run_forever()
    loop.remove_signal_handler(USR1)
    loop.remove_signal_handler(USR2)
    assert sorted(seen) == ["one", "two"]


def test_a_flood_of_signals_blocks_nothing(loop, run):
    """Many signals before the loop can look: some may merge, and the next one still arrives."""

    async def main():
        seen = []
        loop.add_signal_handler(USR1, seen.append, 1)
        for _ in range(200):
            signal.raise_signal(USR1)
        await until(lambda: seen)
        await spin(20)
        flood = len(seen)
        signal.raise_signal(USR1)
        await until(lambda: len(seen) > flood)
        loop.remove_signal_handler(USR1)

    run(main())


def test_removal_gives_back_the_default(loop):
    loop.add_signal_handler(USR1, print)
    assert signal.getsignal(USR1) not in (signal.SIG_DFL, signal.SIG_IGN)
    loop.remove_signal_handler(USR1)
    assert signal.getsignal(USR1) is signal.SIG_DFL
    loop.add_signal_handler(signal.SIGINT, print)
    loop.remove_signal_handler(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_close_removes_the_handlers(loop_factory):
    loop = loop_factory()
    loop.add_signal_handler(USR1, print)
    loop.close()
    assert signal.getsignal(USR1) is signal.SIG_DFL


def test_a_handler_that_raises(loop, reports):
    loop.add_signal_handler(USR1, lambda: 1 // 0)
    loop.call_soon(send, USR1)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop.remove_signal_handler(USR1)
    assert isinstance(reports.one()["exception"], ZeroDivisionError)


def test_a_handler_that_removes_itself(loop):
    seen = []
    loop.add_signal_handler(
        USR1, lambda: (seen.append(loop.remove_signal_handler(USR1)), loop.stop())
    )
    loop.call_soon(send, USR1)
    loop.run_forever()
    assert seen == [True]


BAD = {
    "zero": (0, print), "negative": (-1, print), "kill": (signal.SIGKILL, print), "stop": (signal.SIGSTOP, print),
    "high": (1000, print), "string": ("x", print), "none": (None, print), "not callable": (USR1, None),
}  # fmt: skip


@pytest.mark.parametrize("args", BAD.values(), ids=BAD)
def test_what_add_signal_handler_refuses(compare, args):
    def scenario(loop, reports):
        result = outcome(lambda: loop.add_signal_handler(*args))
        loop.remove_signal_handler(USR1)
        return result, signal.getsignal(USR1) is signal.SIG_DFL

    compare(scenario)


@pytest.mark.parametrize("number", [0, -1, 1000, "x"])
def test_what_remove_signal_handler_refuses(compare, number):
    compare(lambda loop, reports: outcome(lambda: loop.remove_signal_handler(number)))


def test_coroutines_are_refused(compare):
    async def coroutine_function():
        pass

    def scenario(loop, reports):
        coroutine = coroutine_function()
        results = [
            outcome(lambda: loop.add_signal_handler(USR1, coroutine_function)),
            outcome(lambda: loop.add_signal_handler(USR1, coroutine)),
        ]
        coroutine.close()
        return results

    assert (
        compare(scenario)
        == [("TypeError", "coroutines cannot be used with add_signal_handler()")] * 2
    )


def test_only_the_main_thread_may_add(compare):
    def scenario(loop, reports):
        results = []
        thread = threading.Thread(
            target=lambda: results.append(outcome(lambda: loop.add_signal_handler(USR1, print)))
        )
        thread.start()
        thread.join()
        return results

    assert compare(scenario)[0][0] in ("RuntimeError", "ValueError")


def test_the_wakeup_fd_is_put_back(loop):
    loop.add_signal_handler(USR1, print)
    loop.remove_signal_handler(USR1)
    run_turns(loop)
    assert signal.set_wakeup_fd(-1) == -1


def test_a_wakeup_fd_of_the_user_survives_a_run(loop):
    """Without signal handlers of its own a loop does not touch the process's wakeup fd for good."""
    one, two = socket.socketpair()
    one.setblocking(False)
    with one, two:
        signal.set_wakeup_fd(one.fileno())
        run_turns(loop, 2)
        assert signal.set_wakeup_fd(-1) == one.fileno()


@pytest.mark.parametrize("when", ["before", "inside"])
def test_a_wakeup_fd_whose_file_is_gone(loop, when):
    def leave_behind():
        one, two = socket.socketpair()
        one.setblocking(False)
        with one, two:
            signal.set_wakeup_fd(one.fileno())

    async def main():
        if when == "inside":
            leave_behind()
        return "result"

    if when == "before":
        leave_behind()
    try:
        assert loop.run_until_complete(main()) == "result"
        run_turns(loop, 2)
    finally:
        signal.set_wakeup_fd(-1)


def interrupted_run(loop, count):
    """Run the loop, with a KeyboardInterrupt at the count-th step of its Python code; whether it came so far."""
    left = count

    def trace(frame, event, arg):
        nonlocal left
        if not frame.f_code.co_filename.endswith(("zloop/_loop.py", "asyncio/base_events.py")):
            return None
        left -= 1
        if left == 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    hooks = sys.get_asyncgen_hooks()
    loop.call_soon(loop.stop)
    sys.settrace(trace)
    try:
        loop.run_forever()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
        # What the interrupt leaves behind on asyncio as well.
        asyncio._set_running_loop(None)
        loop._thread_id = None
        sys.set_asyncgen_hooks(*hooks)
        sys.set_coroutine_origin_tracking_depth(0)
    return False


def test_an_interrupt_at_any_moment_leaves_no_wakeup_fd(loop_factory):
    """Once the loop is closed, its number is another file's, and no later loop could run."""
    count, interrupted = 0, True
    while interrupted:
        count += 1
        with contextlib.closing(loop_factory()) as loop:
            interrupted = interrupted_run(loop, count)
        assert signal.set_wakeup_fd(-1) == -1, f"step {count}"
    assert count > 10


def test_the_first_to_import_threading_is_not_the_main_thread(loop_factory):
    code = """
import _thread, sys
ended = _thread.allocate_lock()
ended.acquire()

def work():
    try:
        scope = {}
        exec(sys.argv[1], scope)
        loop = scope["new_event_loop"]()
        sleep = scope["asyncio"].sleep
        print(loop.run_until_complete(sleep(0.01, "slept")), loop.run_until_complete(sleep(0, "again")))
        loop.close()
    finally:
        ended.release()

_thread.start_new_thread(work, ())
ended.acquire()
"""
    done = run_script(types.SimpleNamespace(source=""), code, args=[loop_factory.source])
    assert done.stdout == "slept again\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_of_a_callback_has_no_wakeup_fd(loop):
    """It closes what it inherited, as daemons do, and the number is another file's."""
    statuses = []

    def fork():
        child = os.fork()
        if child == 0:
            os._exit(0 if signal.set_wakeup_fd(-1) == -1 else 1)
        statuses.append(os.waitpid(child, 0)[1])

    loop.call_soon(fork)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        run_turns(loop)
    assert statuses == [0]


def test_handlers_of_signal_signal_run_while_idle(loop):
    """Python-level handlers run promptly although the loop sleeps in native code."""
    arrived, thread, delays = signal_idle_loop(loop)
    old = signal.signal(USR1, arrived)
    far = loop.call_later(60, pytest.fail)
    thread.start()
    try:
        loop.run_forever()
    finally:
        signal.signal(USR1, old)
        thread.join()
    far.cancel()
    assert sorted(delays)[2] < 0.02, delays


def test_an_exception_in_a_python_handler_leaves_the_loop_usable(loop):
    class Alarm(BaseException):
        pass

    def handler(*args):
        raise Alarm

    old = signal.signal(USR1, handler)
    timer = threading.Timer(0.02, signal.pthread_kill, (threading.get_ident(), USR1))
    timer.start()
    try:
        far = loop.call_later(60, pytest.fail)
        with pytest.raises(Alarm):
            loop.run_forever()
    finally:
        signal.signal(USR1, old)
        timer.join()
    far.cancel()
    assert asyncio._get_running_loop() is None
    run_turns(loop, 3)


def test_signals_during_sleeps_do_not_make_them_early(loop, run):
    old = signal.signal(USR1, lambda *args: None)
    main = threading.get_ident()

    def work():
        for _ in range(10):
            time.sleep(0.002)
            signal.pthread_kill(main, USR1)

    async def sleep():
        start = loop.time()
        await asyncio.sleep(0.04)
        return loop.time() - start

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert run(sleep()) >= 0.04
    finally:
        thread.join()
        signal.signal(USR1, old)


CTRL_C = """
import os, signal, sys, threading, time
def interrupt():
    time.sleep(0.1)
    global sent
    sent = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
"""
VERDICT = """
delay = time.monotonic() - sent
assert asyncio._get_running_loop() is None
print("interrupted", flush=True)
print(delay, file=sys.stderr)
"""


@pytest.fixture
def interrupted(script):
    """``interrupted(code)``: the output of a script that ends with its delay on standard error.

    The delay must be below 50 ms in one of three tries: the machine may be busy.
    """

    def interrupted(code):
        delays = []
        for _ in range(3):
            done = script(code)
            delays.append(float(done.stderr))
            if delays[-1] < 0.05:
                return done
        raise AssertionError(f"interrupted too late: {delays}")

    return interrupted


def test_ctrl_c_during_a_sleep(interrupted):
    done = interrupted(
        CTRL_C + "loop = new_event_loop()\n"
        "try:\n"
        "    loop.run_until_complete(asyncio.sleep(4))\n"
        "except KeyboardInterrupt:\n"
        "    pass\n" + VERDICT + "print(loop.run_until_complete(asyncio.sleep(0, 'usable')))\n"
        "for task in asyncio.all_tasks(loop): task.cancel()\n"
        "loop.run_until_complete(asyncio.sleep(0))\n"
        "loop.close()\n"
    )
    assert done.stdout == "interrupted\nusable\n"


@pytest.mark.parametrize("timer", [0, 3.5], ids=["no timer", "far timer"])
def test_ctrl_c_under_a_runner(interrupted, timer):
    """Runner's own Python-level SIGINT handler must run while the loop sleeps."""
    done = interrupted(
        CTRL_C + "async def main():\n"
        f"    if {timer}: asyncio.get_running_loop().call_later({timer}, print)\n"
        "    await asyncio.get_running_loop().create_future()\n"
        "with asyncio.Runner(loop_factory=new_event_loop) as runner:\n"
        "    try:\n"
        "        runner.run(main())\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
        "    delay = time.monotonic() - sent\n"
        "    print(runner.run(asyncio.sleep(0, 'usable')))\n"
        + VERDICT.replace("delay = time.monotonic() - sent\n", "")
    )
    assert done.stdout == "usable\ninterrupted\n"


def test_ctrl_c_cancels_the_main_task_of_a_runner(script):
    done = script(
        CTRL_C + "async def main():\n"
        "    try:\n"
        "        await asyncio.sleep(4)\n"
        "    except asyncio.CancelledError:\n"
        "        await asyncio.sleep(0.01)\n"
        "        print('cleaned up')\n"
        "        raise\n"
        "try:\n"
        "    with asyncio.Runner(loop_factory=new_event_loop) as runner:\n"
        "        runner.run(main())\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    assert done.stdout == "cleaned up\ninterrupted\n"


def test_ctrl_c_in_a_busy_loop(interrupted):
    """Callbacks that reschedule themselves for ever can be interrupted."""
    done = interrupted(
        CTRL_C + "loop = new_event_loop()\n"
        "def busy(): loop.call_soon(busy)\n"
        "loop.call_soon(busy)\n"
        "try:\n"
        "    loop.run_forever()\n"
        "except KeyboardInterrupt:\n"
        "    pass\n" + VERDICT + "loop.close()\n"
    )
    assert done.stdout == "interrupted\n"


def test_ctrl_c_with_a_sigint_handler_on_the_loop(interrupted):
    done = interrupted(
        CTRL_C + "loop = new_event_loop()\n"
        "loop.add_signal_handler(signal.SIGINT, loop.stop)\n"
        "loop.run_forever()\n" + VERDICT + "loop.close()\n"
    )
    assert done.stdout == "interrupted\n"


def test_ctrl_c_of_a_loop_with_connections(interrupted):
    """Interrupted between reads: afterwards the data is still there."""
    done = interrupted(
        CTRL_C + "import socket\n"
        "one, two = socket.socketpair()\n"
        "one.setblocking(False)\n"
        "loop = new_event_loop()\n"
        "async def main():\n"
        "    global reader, writer\n"
        "    reader, writer = await asyncio.open_connection(sock=one)\n"
        "    return await reader.readexactly(5)\n"
        "task = loop.create_task(main())\n"
        "try:\n"
        "    loop.run_until_complete(task)\n"
        "except KeyboardInterrupt:\n"
        "    pass\n" + VERDICT + "two.send(b'hello')\n"
        "print(loop.run_until_complete(task))\n"
        "writer.close(); two.close()\n"
        "loop.run_until_complete(writer.wait_closed())\n"
        "loop.close()\n"
    )
    assert done.stdout == "interrupted\nb'hello'\n"


def test_sigterm_ends_a_process_with_its_default_action(script):
    done = script(
        "import os, signal\n"
        "loop = new_event_loop()\n"
        "loop.call_later(0.01, os.kill, os.getpid(), signal.SIGTERM)\n"
        "loop.run_forever()\n",
        check=False,
    )
    assert done.returncode == -signal.SIGTERM


def test_signals_in_a_loop_of_another_thread(loop_factory):
    """A loop outside the main thread leaves signals to the main thread."""
    seen = []
    old = signal.signal(
        USR1, lambda *args: seen.append(threading.current_thread() is threading.main_thread())
    )
    loop = loop_factory()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        signal.raise_signal(USR1)
        time.sleep(0.005)
    finally:
        signal.signal(USR1, old)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert seen == [True]


def test_signal_and_spin(loop, run):
    """Handlers fire also while the loop never sleeps."""

    async def main():
        seen = []
        loop.add_signal_handler(USR1, seen.append, 1)
        send(USR1)
        for _ in range(2000):
            if seen:
                break
            await spin(1)
        loop.remove_signal_handler(USR1)
        return seen

    assert run(main()) == [1]
