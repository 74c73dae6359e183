"""Executors, getaddrinfo and getnameinfo."""

import asyncio
import concurrent.futures
import gc
import itertools
import socket
import textwrap
import threading
import time
import warnings
import weakref

import pytest

from harness import PY, errno_of, outcome, run_turns


def test_run_in_executor(loop, run):
    async def main():
        results = await asyncio.gather(
            *(loop.run_in_executor(None, pow, base, 2) for base in range(20))
        )
        thread = await loop.run_in_executor(None, threading.current_thread)
        return results, thread.name

    results, name = run(main())
    assert results == [base**2 for base in range(20)]
    assert name.startswith("asyncio_")


def test_exceptions_come_through(loop, run):
    async def main():
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 // 0)
        with pytest.raises(SystemExit):
            await loop.run_in_executor(None, exec, "raise SystemExit(3)")

    run(main())


def test_an_own_executor(loop, run):
    async def main():
        with concurrent.futures.ThreadPoolExecutor(1, "mine") as executor:
            thread = await loop.run_in_executor(executor, threading.current_thread)
            return thread.name

    assert run(main()).startswith("mine")


def test_set_default_executor(loop, run):
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1, "default"))

    async def main():
        return (await loop.run_in_executor(None, threading.current_thread)).name

    assert run(main()).startswith("default")


def test_what_set_default_executor_refuses(compare):
    def scenario(loop, reports):
        return outcome(lambda: loop.set_default_executor(object()))

    assert compare(scenario)[0] == "TypeError"


def test_shutdown_default_executor(loop, run):
    async def main():
        threads = [await loop.run_in_executor(None, threading.current_thread)]
        await loop.shutdown_default_executor()
        assert not threads[0].is_alive()
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            loop.run_in_executor(None, int)
        await loop.shutdown_default_executor()

    run(main())


@pytest.mark.skipif(
    PY < (3, 12), reason="shutdown_default_executor(timeout=) is new in Python 3.12"
)
def test_shutdown_with_a_timeout(compare):
    """Early 3.12 waits for the thread all the same and does not warn."""

    def scenario(loop, reports):
        release = threading.Event()
        timer = threading.Timer(0.05, release.set)
        timer.start()

        async def main():
            future = loop.run_in_executor(None, release.wait)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                await loop.shutdown_default_executor(timeout=0.005)
            released = release.is_set()
            await future
            return released, [str(warning.message) for warning in caught]

        result = loop.run_until_complete(main())
        timer.join()
        return result

    compare(scenario)


def test_close_does_not_wait_for_the_executor(loop_factory):
    loop = loop_factory()
    release = threading.Event()
    future = loop.run_in_executor(None, release.wait, 5)
    future.cancel()  # so that it does not report to the closed loop
    run_turns(loop, 2)
    before = time.monotonic()
    loop.close()
    assert time.monotonic() - before < 1
    release.set()


def test_cancelling_a_future_of_an_executor(loop, run):
    release = threading.Event()

    async def main():
        future = loop.run_in_executor(None, release.wait)
        await asyncio.sleep(0)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        release.set()

    run(main())


@pytest.mark.parametrize("end", ["result", "error", "cancel", "before"])
@pytest.mark.parametrize("where", ["loop", "thread"])
def test_when_a_future_of_an_executor_is_done(compare, end, where):
    """The executor's own future, ended by hand: whether the loop's is done at once or a turn later."""

    def scenario(loop, reports):
        source = concurrent.futures.Future()

        def finish():
            if end == "cancel":
                source.cancel()
            elif end == "error":
                source.set_exception(KeyError(5))
            else:
                source.set_result(5)

        class Executor:
            def submit(self, function, *args):
                return source

        async def main():
            if end == "before":
                finish()
            future = loop.run_in_executor(Executor(), print)
            seen = [type(future), future.get_loop() is loop, future.done()]
            if end != "before":
                if where == "loop":
                    finish()
                else:
                    thread = threading.Thread(target=finish)
                    thread.start()
                    thread.join()
            seen.append(future.done())
            await asyncio.wait([future], timeout=5)
            seen.append("cancelled" if future.cancelled() else outcome(future.result))
            return seen

        loop.set_debug(False)
        return repr(loop.run_until_complete(main()))

    compare(scenario)


def test_a_result_after_the_end_of_the_loop_is_for_nobody(loop_factory):
    loop = loop_factory()

    class Executor:
        def __init__(self):
            self.source = concurrent.futures.Future()

        def submit(self, function, *args):
            return self.source

    async def main(executor):
        return loop.run_in_executor(executor, print)

    executor = Executor()
    future = loop.run_until_complete(main(executor))
    loop.close()
    executor.source.set_result(5)
    assert not future.done()
    leaving = weakref.ref(future)
    del future, executor
    gc.collect()
    assert leaving() is None


def test_a_coroutine_function_is_refused_in_debug_mode(compare):
    async def coroutine_function():
        pass

    def scenario(loop, reports):
        loop.set_debug(True)
        return outcome(lambda: loop.run_in_executor(None, coroutine_function))

    assert compare(scenario)[0] == "TypeError"


HOSTS = [
    "127.0.0.1", "0.0.0.0", "255.255.255.255", "1.2.3", "127.1", "127", "0x7f.1", "0177.0.0.1", "1.2.3.4.5",
    "256.1.1.1", "::1", "::", "::ffff:1.2.3.4", "fe80::1%lo", "fe80::1%1", "fe80::1%nope", "[::1]", "::1 ",
    " 127.0.0.1", "127.0.0.1.", "", None, b"127.0.0.1", b"::1", "1:2:3:4:5:6:7:8", "1::2::3", "12345",
]  # fmt: skip
PORTS = [
    0,
    80,
    65535,
    "80",
    "0",
    "http",
    "",
    None,
    b"80",
    b"http",
    True,
    socket.SOCK_STREAM,
    65536,
    -1,
    "65536",
    " 80",
    "0x50",
]
FAMILIES = [socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6]
TYPES = [0, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW]
PROTOCOLS = [0, socket.IPPROTO_TCP, socket.IPPROTO_UDP]
FLAGS = [
    0, socket.AI_PASSIVE, socket.AI_NUMERICHOST, socket.AI_CANONNAME, socket.AI_ADDRCONFIG,
    socket.AI_NUMERICHOST | socket.AI_NUMERICSERV | socket.AI_CANONNAME, socket.AI_V4MAPPED,
]  # fmt: skip


def numeric(host):
    """Hosts that may go to the resolver are only asked with AI_NUMERICHOST."""
    return host in ("", None) or host in (
        "127.0.0.1",
        "::1",
        "::",
        "0.0.0.0",
        b"127.0.0.1",
        "127.1",
    )


def resolved(call):
    """A result with the exact kinds of its parts, or the error."""
    try:
        found = call()
    except (OSError, UnicodeError, OverflowError, TypeError, ValueError) as exc:
        return errno_of(exc)
    return [(repr(entry), [type(part) for part in entry]) for entry in found]


def combinations():
    yield from itertools.product(HOSTS, [80], FAMILIES, TYPES, [0], [socket.AI_NUMERICHOST])
    yield from itertools.product(HOSTS, [80], [0], [socket.SOCK_STREAM], PROTOCOLS, FLAGS)
    yield from itertools.product(
        ["127.0.0.1", "::1", "", None], PORTS, [0], TYPES, PROTOCOLS, FLAGS
    )
    yield from itertools.product(
        ["127.0.0.1", "::1"], [80, "80"], FAMILIES, TYPES, PROTOCOLS, FLAGS
    )


def test_getaddrinfo_is_what_socket_gives(loop, run):
    """Numeric or not, by the shortcut or by the resolver: the same answer, part by part."""
    numeric_only = socket.AI_NUMERICHOST

    async def main():
        wrong = []
        for host, port, family, kind, protocol, flags in set(combinations()):
            if not numeric(host):
                flags |= numeric_only
            options = {"family": family, "type": kind, "proto": protocol, "flags": flags}
            expected = resolved(lambda: socket.getaddrinfo(host, port, **options))
            try:
                result = await loop.getaddrinfo(host, port, **options)
            except (OSError, UnicodeError, OverflowError, TypeError, ValueError) as exc:
                found = errno_of(exc)
            else:
                found = [(repr(entry), [type(part) for part in entry]) for entry in result]
            if found != expected:
                wrong.append((host, port, options, found, expected))
        return wrong

    loop.set_debug(False)
    wrong = run(main())
    assert not wrong, f"{len(wrong)} differ, first: {wrong[:3]}"


@pytest.mark.parametrize(
    "host", ["0" * 70 + "1", "1..2", "127.0.0.1.", "\u0661", "1.2.3", "fe80::1%lo", ":", "::1\0"]
)
def test_odd_numbers_are_what_socket_makes_of_them(loop, run, host):
    def outcome(resolve):
        try:
            return [(repr(entry), [type(part) for part in entry]) for entry in resolve()]
        except (OSError, UnicodeError, ValueError) as error:
            return type(error), errno_of(error)

    # Numbers alone are asked for: whatever is none must not be looked up anywhere.
    options = {"type": socket.SOCK_STREAM, "flags": socket.AI_NUMERICHOST}
    expected = outcome(lambda: socket.getaddrinfo(host, 80, **options))
    loop.set_debug(False)
    assert outcome(lambda: run(loop.getaddrinfo(host, 80, **options))) == expected


def test_getaddrinfo_is_audited(script):
    """Once, with what was asked for, also where the C library is not."""
    code = """
    import asyncio, socket, sys

    seen = []
    sys.addaudithook(lambda name, args: seen.append(args) if name == "socket.getaddrinfo" else None)

    async def main():
        loop = asyncio.get_running_loop()
        for port in (80, None):
            await loop.getaddrinfo("127.0.0.1", port, type=socket.SOCK_DGRAM)

    loop = new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    print(seen)
    """
    kind = int(socket.SOCK_DGRAM)
    expected = [("127.0.0.1", port, 0, kind, 0) for port in (80, None)]
    assert script(textwrap.dedent(code)).stdout.strip() == str(expected)


def test_localhost(loop, run):
    expected = socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    assert run(loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)) == expected


def test_unknown_hosts_raise_gaierror(loop, run):
    with pytest.raises(socket.gaierror):
        run(loop.getaddrinfo("host.invalid", 80, flags=socket.AI_NUMERICHOST))


def test_a_patched_getaddrinfo_is_used(loop, run, monkeypatch):
    """Tests and proxies replace socket.getaddrinfo; a shortcut must not go around them."""
    fake = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 1))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: fake)
    assert run(loop.getaddrinfo("name.invalid", 80)) == fake
    assert run(loop.getaddrinfo("127.0.0.1", 80)) == fake


def test_a_patched_loop_getaddrinfo_is_used_by_create_connection(loop, run, monkeypatch):
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    asked = []

    async def getaddrinfo(host, port_, *, family=0, type=0, proto=0, flags=0):
        asked.append((host, port_))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def main():
        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        transport, _ = await loop.create_connection(asyncio.Protocol, "name.invalid", 5)
        peer = transport.get_extra_info("peername")
        transport.close()
        await asyncio.sleep(0)
        return peer

    with listener:
        assert run(main()) == ("127.0.0.1", port)
    assert asked == [("name.invalid", 5)]


@pytest.mark.parametrize(
    ("address", "flags"),
    [
        (("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV),
        (("127.0.0.1", 80), socket.NI_NUMERICHOST),
        (("::1", 443, 0, 0), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV),
        (("127.0.0.1", 53), socket.NI_NUMERICHOST | socket.NI_DGRAM),
    ],
)
def test_getnameinfo(loop, run, address, flags):
    assert run(loop.getnameinfo(address, flags)) == socket.getnameinfo(address, flags)


def test_getnameinfo_errors(loop, run):
    with pytest.raises(OSError):
        run(loop.getnameinfo(("name.invalid", 80), socket.NI_NUMERICHOST))


def test_interpreter_exit_with_a_busy_executor(script):
    """The interpreter waits for the thread, then ends without a word."""
    done = script(
        "import time\n"
        "loop = new_event_loop()\n"
        "async def main():\n"
        "    asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.1)\n"
        "loop.run_until_complete(main())\n"
        "loop.close()\n"
        "print('bye')\n"
    )
    assert (done.stdout, done.stderr) == ("bye\n", "")
