"""Wrong arguments get what asyncio gives: the same exception class and message."""

import asyncio
import contextlib
import gc
import socket
import warnings

import pytest

from harness import HOST, PY, Recorder, kind_name, outcome


async def coroutine_function():
    """Never awaited on purpose."""


def attempt(loop, make):
    """What a call gives; for a coroutine, what running it gives."""

    def call():
        result = make(loop)
        if asyncio.iscoroutine(result):
            result = loop.run_until_complete(result)
        return type(result).__name__

    return outcome(call)


ARGUMENTS = {
    # Too few, too many, unknown keywords: the class of the exception counts, wording is the interpreter's.
    "call_soon()": lambda loop: loop.call_soon(),
    "call_soon(keyword)": lambda loop: loop.call_soon(print, end=""),
    "call_soon(context=number)": lambda loop: loop.call_soon(print, context=5),
    "call_later()": lambda loop: loop.call_later(),
    "call_later(no callback)": lambda loop: loop.call_later(1),
    "call_later(keyword)": lambda loop: loop.call_later(1, print, end=""),
    "call_at()": lambda loop: loop.call_at(),
    "call_at(no callback)": lambda loop: loop.call_at(1),
    "call_soon_threadsafe()": lambda loop: loop.call_soon_threadsafe(),
    "call_soon_threadsafe(keyword)": lambda loop: loop.call_soon_threadsafe(print, end=""),
    "run_until_complete()": lambda loop: loop.run_until_complete(),
    "run_forever(argument)": lambda loop: loop.run_forever(1),
    "stop(argument)": lambda loop: loop.stop(1),
    "close(argument)": lambda loop: loop.close(1),
    "time(argument)": lambda loop: loop.time(1),
    "is_running(argument)": lambda loop: loop.is_running(1),
    "is_closed(argument)": lambda loop: loop.is_closed(1),
    "get_debug(argument)": lambda loop: loop.get_debug(1),
    "set_debug()": lambda loop: loop.set_debug(),
    "create_future(argument)": lambda loop: loop.create_future(1),
    "create_task()": lambda loop: loop.create_task(),
    "add_reader()": lambda loop: loop.add_reader(),
    "add_reader(no callback)": lambda loop: loop.add_reader(0),
    "remove_reader()": lambda loop: loop.remove_reader(),
    "add_signal_handler()": lambda loop: loop.add_signal_handler(),
    "call_exception_handler()": lambda loop: loop.call_exception_handler(),
    "unknown": lambda loop: loop.no_such_method(),
}


@pytest.mark.parametrize("make", ARGUMENTS.values(), ids=ARGUMENTS)
def test_wrong_arguments(compare, make):
    """The class of the exception is asyncio's; its words are the interpreter's."""

    def scenario(loop, reports):
        loop.set_debug(False)
        result = attempt(loop, make)
        loop.stop()
        loop.run_forever()
        reports.messages()
        return result[0] if isinstance(result, tuple) else "accepted"

    assert compare(scenario) in ("TypeError", "AttributeError", "accepted")


VALUES = {
    "call_later(None)": lambda loop: loop.call_later(None, print),
    "call_later(text)": lambda loop: loop.call_later("1", print),
    "call_later(list)": lambda loop: loop.call_later([], print),
    "call_at(None)": lambda loop: loop.call_at(None, print),
    "create_task(number)": lambda loop: loop.create_task(5),
    "create_task(function)": lambda loop: loop.create_task(print),
    "create_task(number, name)": lambda loop: loop.create_task(5, name="x"),
    "create_task(number, context)": lambda loop: loop.create_task(5, context=None, name="x"),
    "create_task(number, eager_start)": lambda loop: loop.create_task(5, eager_start=True),
    "create_task(number, loop)": lambda loop: loop.create_task(5, loop=loop),
    "set_task_factory(number)": lambda loop: loop.set_task_factory(5),
    "run_until_complete(number)": lambda loop: loop.run_until_complete(5),
    "run_until_complete(function)": lambda loop: loop.run_until_complete(coroutine_function),
    "set_exception_handler(number)": lambda loop: loop.set_exception_handler(5),
    "set_default_executor(number)": lambda loop: loop.set_default_executor(5),
    "connection: host and sock": lambda loop: loop.create_connection(
        Recorder, HOST, 1, sock=_socket()
    ),
    "connection: nothing": lambda loop: loop.create_connection(Recorder),
    "connection: datagram socket": lambda loop: loop.create_connection(
        Recorder, sock=_socket(socket.SOCK_DGRAM)
    ),
    "connection: name without ssl": lambda loop: loop.create_connection(
        Recorder, HOST, 1, server_hostname="x"
    ),
    "connection: ssl without name": lambda loop: loop.create_connection(
        Recorder, sock=_socket(), ssl=True
    ),
    "connection: port": lambda loop: loop.create_connection(Recorder, HOST, 70_000),
    "connection: service": lambda loop: loop.create_connection(Recorder, HOST, "nonsense-service"),
    "connection: host number": lambda loop: loop.create_connection(Recorder, 5, 80),
    "server: host and sock": lambda loop: loop.create_server(Recorder, HOST, 1, sock=_socket()),
    "server: nothing": lambda loop: loop.create_server(Recorder),
    "server: port": lambda loop: loop.create_server(Recorder, HOST, -1),
    "accepted: datagram socket": lambda loop: loop.connect_accepted_socket(
        Recorder, _socket(socket.SOCK_DGRAM)
    ),
    "accepted: timeout without ssl": lambda loop: loop.connect_accepted_socket(
        Recorder, _socket(), ssl_handshake_timeout=1
    ),
    "start_tls: no context": lambda loop: loop.start_tls(None, None, None),
    "sendfile: no transport": lambda loop: loop.sendfile(None, None),
    "getaddrinfo: port": lambda loop: loop.getaddrinfo(HOST, "nonsense-service"),
    "getaddrinfo: host": lambda loop: loop.getaddrinfo(5, 80),
    "getnameinfo: address": lambda loop: loop.getnameinfo("x"),
    "subprocess_exec: number": lambda loop: loop.subprocess_exec(asyncio.SubprocessProtocol, 5),
    "subprocess_shell: number": lambda loop: loop.subprocess_shell(asyncio.SubprocessProtocol, 5),
}


def _socket(kind=socket.SOCK_STREAM):
    sock = socket.socket(type=kind)
    sock.setblocking(False)
    return sock


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_wrong_values(compare, make, debug):
    """Class and message are asyncio's."""

    def scenario(loop, reports):
        loop.set_debug(debug)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return attempt(loop, make)

    result = compare(scenario)
    assert isinstance(result, tuple), f"accepted: {result}"


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
@pytest.mark.parametrize(
    "thing", [None, 5, "text", object(), [], coroutine_function], ids=kind_name
)
def test_callbacks_that_are_none(compare, thing, debug):
    """Outside debug mode they are taken and fail when they run."""

    def scenario(loop, reports):
        loop.set_debug(debug)
        found = []
        for call in (loop.call_soon, loop.call_soon_threadsafe, lambda c: loop.call_later(0, c)):
            result = outcome(lambda call=call: call(thing))
            found.append(result if isinstance(result, tuple) else "accepted")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            for _ in range(3):
                loop.stop()
                loop.run_forever()
        found += [repr(context["exception"]) for context in reports.take(len(reports.contexts))]
        return [
            item.replace(hex(id(thing)), "0x") if isinstance(item, str) else item for item in found
        ]

    compare(scenario)


def test_nothing_of_a_refused_timer_stays(loop):
    """A deadline that cannot be compared is refused at once, not when the heap is next used."""
    for delay in ("1", None, []):
        with pytest.raises(TypeError):
            loop.call_later(delay, pytest.fail)
    with pytest.raises(TypeError):
        loop.call_at(None, pytest.fail)
    seen = []
    loop.call_later(0, seen.append, 1)
    loop.call_later(0.002, loop.stop)
    loop.run_forever()
    assert seen == [1]


def test_a_callback_whose_repr_raises(compare, error_log):
    """The report cannot be written; the loop survives it the way asyncio does."""

    class Odd:
        def __call__(self):
            raise ZeroDivisionError

        def __repr__(self):
            raise ValueError("no repr")

    def scenario(loop, reports):
        loop.set_debug(False)
        loop.call_soon(Odd())
        loop.stop()
        raised = outcome(loop.run_forever)
        loop.stop()
        loop.run_forever()
        found = reports.take(len(reports.contexts))
        logged = [text.splitlines()[0] for text in error_log.take()]
        return raised, [type(context["exception"]).__name__ for context in found], logged

    compare(scenario)


def test_an_argument_whose_repr_raises(loop, reports):
    class Odd:
        def __repr__(self):
            raise ValueError("no repr")

    loop.call_soon(lambda value: 1 // 0, Odd())
    loop.stop()
    loop.run_forever()
    assert len(reports.messages()) == 1


def test_a_callback_whose_attribute_access_raises(loop):
    """Anything callable is called, whatever its attributes do."""

    class Odd:
        def __getattr__(self, name):
            raise ValueError(name)

        def __call__(self):
            seen.append(1)

    seen = []
    loop.set_debug(False)
    loop.call_soon(Odd())
    loop.stop()
    loop.run_forever()
    assert seen == [1]


def test_deep_recursion_inside_a_callback(loop, reports):
    def recurse():
        recurse()

    loop.call_soon(recurse)
    loop.stop()
    loop.run_forever()
    assert isinstance(reports.one()["exception"], RecursionError)


def test_memory_error_is_reported(loop, reports):
    def callback():
        raise MemoryError

    loop.call_soon(callback)
    loop.stop()
    loop.run_forever()
    assert isinstance(reports.one()["exception"], MemoryError)


def test_calls_out_of_a_destructor(loop):
    """Objects that die inside the loop's own bookkeeping may call the loop."""
    seen = []

    class Dying:
        def __del__(self):
            loop.call_soon(seen.append, 1)
            loop.call_later(0, seen.append, 2)
            loop.call_soon_threadsafe(seen.append, 3)

    loop.call_soon(lambda thing: None, Dying())
    loop.call_later(0, lambda thing: None, Dying())
    handle = loop.call_soon(lambda thing: None, Dying())
    handle.cancel()
    timer = loop.call_later(0, lambda thing: None, Dying())
    timer.cancel()
    loop.call_later(0.003, loop.stop)
    loop.run_forever()
    loop.call_later(0.003, loop.stop)
    loop.run_forever()
    assert sorted(seen) == [1] * 4 + [2] * 4 + [3] * 4


def test_cancelling_out_of_a_destructor(loop):
    """A handle dropped by cancel() takes others with it."""

    class Dying:
        def __init__(self, handle):
            self.handle = handle

        def __del__(self):
            self.handle.cancel()

    previous = loop.call_later(3600, pytest.fail)
    for _ in range(200):
        previous = loop.call_later(3600, lambda thing: None, Dying(previous))
    previous.cancel()
    loop.stop()
    loop.run_forever()


@pytest.mark.zloop_only(
    "asyncio keeps such a deadline in its heap, where it breaks the loop for good"
)
@pytest.mark.parametrize("delay", [1j, float("nan")], ids=kind_name)
def test_deadlines_that_have_no_order(loop, delay):
    """Refused at once, or harmless: the other timers still fire."""
    with contextlib.suppress(TypeError, ValueError):
        loop.call_later(delay, bool)
    seen = []
    for number in range(5):
        loop.call_later(0.001 * number, seen.append, number)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert seen == list(range(5))


@pytest.mark.zloop_only("asyncio compares the number itself, again and again")
def test_a_deadline_with_hostile_comparisons(loop):
    class Number(float):
        def __lt__(self, other):
            raise ValueError("compared")

        __gt__ = __le__ = __ge__ = __lt__

    handles = [loop.call_at(Number(loop.time() + 1000 + i), bool) for i in range(3)]
    loop.stop()
    loop.run_forever()
    for handle in handles:
        handle.cancel()


@pytest.mark.skipif(PY < (3, 12), reason="task and future options of Python 3.12")
def test_task_options(compare):
    def scenario(loop, reports):
        coroutine = coroutine_function()
        found = [outcome(lambda: loop.create_task(coroutine, nonsense=1))[0]]
        coroutine.close()
        return found

    compare(scenario)


@pytest.mark.parametrize("number", [2**40, 2**100])
@pytest.mark.parametrize("call", ["connect_read_pipe", "connect_write_pipe"])
def test_numbers_that_no_file_has(compare, call, number):
    class File:
        def fileno(self):
            return number

        def close(self):
            pass

    def scenario(loop, reports):
        connect = getattr(loop, call)(lambda: Recorder(loop), File())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = outcome(lambda: loop.run_until_complete(connect))
            gc.collect()
        return result

    assert compare(scenario)
