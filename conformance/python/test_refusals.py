"""What is said where a backend cannot be had, and what is taken instead.

For real: the processes under test run behind a filter of system calls, as in a container.
"""

import errno
import json
import platform
import re
import sys

import pytest

pytest.importorskip("zloop", reason="a run for stock asyncio alone may lack it")

from syscall_filter import EPOLL_CREATE1, IO_URING_SETUP, missing, run_without

KERNEL = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))

SERVE = """
import asyncio, sys, zloop

async def echo(reader, writer):
    writer.write(await reader.readexactly(5))
    await writer.drain()
    writer.close()
    await writer.wait_closed()

async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello")
    print((await reader.read()).decode(), asyncio.get_running_loop().backend)
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()

zloop.run(main(), backend=sys.argv[1] if len(sys.argv) > 1 else None)
"""

OPEN = """
import json, sys, zloop
try:
    zloop.new_event_loop(*sys.argv[1:]).close()
except zloop.BackendUnavailable as error:
    assert isinstance(error, OSError)
    print(json.dumps([error.errno, str(error), getattr(error, "__notes__", [])]))
"""


@pytest.fixture(autouse=True, scope="module")
def filters():
    if reason := missing():
        pytest.skip(f"no call can be forbidden here: {reason}")


def python(code, *arguments, number=IO_URING_SETUP, answer=errno.EPERM, **environment):
    """Runs code behind a filter; warnings are errors, and what goes to stderr is one as well."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = run_without(number, answer, *command, **environment)
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [([], {}), (["auto"], {"ZLOOP_BACKEND": "io_uring"}), ([], {"ZLOOP_IO_URING": "off"})],
)
def test_an_automatic_choice_falls_back_without_a_word(arguments, environment):
    assert python(SERVE, *arguments, **environment) == "hello epoll\n"


def test_the_fallback_of_last_resort_does_not_need_what_is_forbidden():
    assert python(SERVE, number=EPOLL_CREATE1, answer=errno.ENOSYS) == "hello poll\n"


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["io_uring"], {}),
        (["io_uring"], {"ZLOOP_BACKEND": "epoll"}),
        ([], {"ZLOOP_BACKEND": "io_uring"}),
        ([], {"ZLOOP_IO_URING": "completion"}),
    ],
)
def test_an_explicit_choice_is_never_replaced(arguments, environment):
    number, words, notes = json.loads(python(OPEN, *arguments, **environment))
    assert number == errno.EPERM
    assert "the io_uring backend is not available" in words and "seccomp" in words
    asked = (
        [] if arguments else [f"The environment variable {next(iter(environment))} asks for it."]
    )
    assert notes == asked


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (errno.EPERM, "a profile that allows io_uring_setup"),
        (errno.EACCES, "SELinux"),
        (errno.ENOSYS, "CONFIG_IO_URING"),
        (
            errno.EINVAL,
            "io_uring_setup refuses" if KERNEL >= (6, 1) else "it needs Linux 6.1 or newer",
        ),
        (errno.ENOMEM, "ulimit -l"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_the_cause_and_the_cure_are_named(answer, words):
    number, told, _ = json.loads(python(OPEN, "io_uring", answer=answer))
    assert number == answer
    assert words in told


def test_the_doctor_names_the_filter():
    def doctor(*arguments, **environment):
        command = [sys.executable, "-m", "zloop", *arguments]
        return run_without(IO_URING_SETUP, errno.EPERM, *command, **environment)

    table = doctor()
    assert table.returncode == 0
    assert re.search(r"^  io_uring +no +a seccomp filter forbids it", table.stdout, re.MULTILINE)
    assert "A new loop runs on epoll" in table.stdout

    report = json.loads(doctor("--json").stdout)
    (ring,) = (backend for backend in report["backends"] if backend["name"] == "io_uring")
    assert not ring["available"] and ring["errno"] == errno.EPERM and "seccomp" in ring["reason"]
    assert report["chosen"] == "epoll"

    assert doctor("epoll").returncode == 0
    assert doctor("io_uring").returncode == 1
    assert doctor("epoll", "io_uring").returncode == 1
    refused = doctor(ZLOOP_IO_URING="1")
    assert refused.returncode == 1
    words = " ".join(refused.stdout.split())
    assert "ZLOOP_IO_URING asks for io_uring, which does not work here" in words
