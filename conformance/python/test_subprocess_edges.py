"""Subprocesses: how their end is noticed, options of the child, order of events, and that nothing is left behind."""

import asyncio
import logging
import os
import signal
import subprocess
import threading
import weakref

import pytest

from harness import PY, native_threads, open_files, outcome, scaled, spin, until
from test_subprocess import PIPE, Protocol, child_watcher, python

__all__ = ["child_watcher"]


def zombies() -> list[int]:
    """Children of this process that wait to be reaped, or run."""
    found = subprocess.run(
        ["ps", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=False
    )
    rows = [line.split(None, 2) for line in found.stdout.splitlines()]
    return [int(r[0]) for r in rows if int(r[1]) == os.getpid() and r[2] != "ps"]


async def output(*command, **options) -> bytes:
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, **options)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out


def test_a_thousand_short_children(run):
    """None is left as a zombie, and no descriptor or thread either."""
    count = scaled(1000)
    before = open_files(), native_threads()

    async def some(number):
        for _ in range(number):
            process = await asyncio.create_subprocess_exec("true")
            assert await process.wait() == 0

    async def main():
        await asyncio.gather(*(some(count // 10) for _ in range(10)))
        await spin(5)

    run(main())
    assert not zombies()
    if PY >= (3, 12):  # a thread of asyncio's on 3.11 may still be ending
        assert (open_files(), native_threads()) == before


@pytest.mark.zloop_only("on asyncio 3.11 every child has a thread")
def test_no_thread_and_no_signal_handler(run):
    async def main():
        handler, threads = signal.getsignal(signal.SIGCHLD), native_threads()
        process = await asyncio.create_subprocess_exec("sleep", "60")
        await spin(3)
        if hasattr(os, "pidfd_open"):
            assert native_threads() == threads
        assert signal.getsignal(signal.SIGCHLD) == handler
        process.kill()
        await process.wait()

    run(main())


def test_somebody_else_reaps(run, caplog, loop_factory):
    """The exit code is gone then: 255, and a warning says so."""
    if PY < (3, 12) and not loop_factory.is_zloop:
        pytest.skip("asyncio 3.11 has a thread that reaps")

    async def main():
        process = await asyncio.create_subprocess_exec("sleep", "60")
        process.kill()
        os.waitpid(process.pid, 0)
        assert await process.wait() == 255

    run(main())
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "255" in record.getMessage() and "child process" in record.getMessage().lower()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, 40])
def test_deaths_by_signal(run, number):
    async def main():
        process = await asyncio.create_subprocess_shell(f"kill -{int(number)} $$; sleep 60")
        assert await process.wait() == -number

    run(main())


@pytest.mark.parametrize("code", [0, 1, 127, 255])
def test_exit_codes(run, code):
    async def main():
        process = await asyncio.create_subprocess_shell(f"exit {code}")
        assert await process.wait() == code

    run(main())


def test_signals_to_a_process_that_has_ended(compare):
    def scenario(loop, reports):
        async def main():
            process = await asyncio.create_subprocess_exec("true")
            await process.wait()
            await spin(3)
            return [outcome(method) for method in (process.kill, process.terminate)] + [
                outcome(lambda: process.send_signal(signal.SIGUSR1))
            ]

        return loop.run_until_complete(main())

    compare(scenario)


def test_the_exit_comes_before_the_pipes_close(run, loop):
    """A grandchild holds the pipe open: process_exited() does not wait for it, connection_lost() does."""

    async def main():
        transport, protocol = await loop.subprocess_shell(
            Protocol, "sleep 0.2 & exit 3", stdin=None, stderr=None
        )
        await until(lambda: "exited" in protocol.events)
        assert transport.get_returncode() == 3
        assert await protocol.lost is None
        assert protocol.events == ["made", "exited", "pipe 1", "lost"]
        transport.close()

    run(main())


def test_the_pipes_close_before_the_exit(run, loop):
    async def main():
        transport, protocol = await loop.subprocess_shell(
            Protocol, "exec >&-; sleep 0.1; exit 4", stdin=None, stderr=None
        )
        await until(lambda: "pipe 1" in protocol.events)
        assert transport.get_returncode() is None
        await protocol.lost
        assert protocol.events == ["made", "pipe 1", "exited", "lost"]
        transport.close()

    run(main())


def test_connection_made_comes_first(run, loop):
    """Whatever the child has written, and however soon it has ended."""

    class Checks(Protocol):
        def connection_made(self, transport):
            assert [transport.get_pipe_transport(fd) is not None for fd in range(4)] == [
                True, True, True, False,
            ]  # fmt: skip
            super().connection_made(transport)

        def pipe_data_received(self, fd, data):
            assert self.events[0] == "made"
            super().pipe_data_received(fd, data)

    async def main():
        for _ in range(20):
            transport, protocol = await loop.subprocess_shell(Checks, "echo out; echo err >&2")
            assert protocol.events[0] == "made"
            await protocol.lost
            assert protocol.output == {1: b"out\n", 2: b"err\n"}
            transport.close()

    run(main())


def test_preexec_fn(run, tmp_path):
    async def main():
        out = await output("pwd", preexec_fn=lambda: os.chdir(tmp_path))
        assert os.path.realpath(out.decode().strip()) == os.path.realpath(tmp_path)
        with pytest.raises(subprocess.SubprocessError):
            await asyncio.create_subprocess_exec("true", preexec_fn=lambda: 1 / 0)

    run(main())


def test_pass_fds(run):
    async def main():
        read_end, write_end = os.pipe()
        code = f"import os; os.write({write_end}, b'passed')"
        process = await asyncio.create_subprocess_exec(*python(code), pass_fds=[write_end])
        assert await process.wait() == 0
        assert os.read(read_end, 100) == b"passed"
        os.close(read_end)
        os.close(write_end)

    run(main())


def test_process_group_session_and_umask(run):
    show = python("import os; m = os.umask(0); print(os.getpid(), os.getpgrp(), os.getsid(0), m)")

    async def main():
        pid, group, session, mask = map(int, (await output(*show, umask=0o27)).split())
        assert group == os.getpgrp() and session == os.getsid(0) and mask == 0o27
        pid, group, session, _ = map(int, (await output(*show, process_group=0)).split())
        assert pid == group and session == os.getsid(0)
        pid, group, session, _ = map(int, (await output(*show, start_new_session=True)).split())
        assert pid == group == session

    run(main())


def test_user_and_groups(run):
    if os.getuid() != 0:
        pytest.skip("only root may become somebody else")
    show = ["sh", "-c", "id -u; id -g; id -G"]

    async def main():
        found = (await output(*show, user=12345, group=12346, extra_groups=[12347])).split()
        assert found[:2] == [b"12345", b"12346"] and set(found[2:]) == {b"12346", b"12347"}

    run(main())


def test_what_the_transport_shows(run, loop):
    async def main():
        transport, protocol = await loop.subprocess_exec(Protocol, "cat")
        process = transport.get_extra_info("subprocess")
        assert isinstance(process, subprocess.Popen) and process.args == ("cat",)
        assert isinstance(transport, asyncio.SubprocessTransport)
        assert "SubprocessTransport" in repr(transport) and "running" in repr(transport)
        assert f"pid={process.pid}" in repr(transport) and "stdin=<" in repr(transport)
        assert transport.get_protocol() is protocol and not transport.is_closing()
        transport.get_pipe_transport(0).write_eof()
        await protocol.lost
        assert "returncode=0" in repr(transport)
        assert process.returncode == 0
        transport.close()
        assert transport.is_closing() and "closed" in repr(transport)

    run(main())


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5])
def test_cancelling_the_start(run, turns):
    """The process is killed and reaped, and no pipe stays open."""

    async def main():
        task = asyncio.create_task(
            asyncio.create_subprocess_exec("sleep", "60", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        )
        await spin(turns)
        task.cancel()
        try:
            process = await task
        except asyncio.CancelledError:
            pass
        else:  # it had started
            process.kill()
            await process.communicate()
        await spin(5)
        await until(lambda: not zombies())

    run(main())


def test_a_program_that_cannot_be_started_leaves_nothing(run):
    async def main():
        for _ in range(10):
            with pytest.raises(OSError):
                await asyncio.create_subprocess_exec(
                    "/no/such/program", stdin=PIPE, stdout=PIPE, stderr=PIPE
                )

    run(main())


def test_replaced_connect_pipe_methods_are_used(run, loop, monkeypatch):
    """Tests patch them, and loops override them."""
    seen = []
    original = loop.connect_read_pipe

    async def connect_read_pipe(factory, pipe):
        seen.append(pipe)
        return await original(factory, pipe)

    monkeypatch.setattr(loop, "connect_read_pipe", connect_read_pipe)

    async def main():
        assert await output("echo", "text") == b"text\n"
        assert len(seen) == 1

    run(main())


def test_a_pipe_that_cannot_be_connected(run, loop, monkeypatch):
    """The error reaches the caller; the process does not stay, and its pipes neither."""
    if PY < (3, 14):
        pytest.skip(
            "asyncio waits for ever here before Python 3.14, and so does its code that zloop uses"
        )

    def refuse(*args, **options):
        raise OSError(24, "no more")

    monkeypatch.setattr(loop, "_make_read_pipe_transport", refuse)

    async def main():
        with pytest.raises(OSError, match="no more"):
            await asyncio.create_subprocess_exec("sleep", "60", stdin=PIPE, stdout=PIPE)
        await until(lambda: not zombies())
        await spin(3)

    run(main())


def test_closing_the_loop_with_a_child_running(loop_factory, recwarn):
    """Its file is closed with the loop; the child is the caller's to end."""
    import gc

    loop = loop_factory()
    before = open_files()

    async def main():
        return await asyncio.create_subprocess_exec("sleep", "60")

    process = loop.run_until_complete(main())
    pid = process.pid
    os.kill(pid, signal.SIGKILL)
    loop.run_until_complete(process.wait())
    loop.run_until_complete(spin(3))
    loop.close()
    assert open_files().keys() <= before.keys()
    del process
    gc.collect()


@pytest.mark.zloop_only("asyncio keeps the file open")
def test_a_loop_that_is_closed_too_early_keeps_no_descriptor(loop_factory, recwarn):
    import gc

    if PY < (3, 12):
        pytest.skip("asyncio's transport of 3.11 cannot be finished after its loop")
    before = open_files().keys()
    loop = loop_factory()
    process = loop.run_until_complete(asyncio.create_subprocess_exec("sleep", "60"))
    loop.close()
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)
    del process
    gc.collect()
    assert open_files().keys() <= before


def test_many_transports_are_collected(run, loop):
    async def main():
        alive = []
        for _ in range(20):
            transport, protocol = await loop.subprocess_exec(Protocol, "true", stdin=None)
            alive.append(weakref.ref(transport))
            await protocol.lost
            transport.close()
            protocol.transport = None
            del transport, protocol
        await spin(3)
        import gc

        gc.collect()
        assert [ref() for ref in alive] == [None] * 20

    run(main())


def test_children_of_loops_in_several_threads(loop_factory):
    found = []

    async def main(code):
        process = await asyncio.create_subprocess_shell(f"exit {code}", stdout=PIPE)
        await process.communicate()
        return process.returncode

    def work(code):
        loop = loop_factory()
        try:
            found.append(loop.run_until_complete(main(code)))
        finally:
            loop.close()

    threads = [threading.Thread(target=work, args=(code,)) for code in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(8))


NO_PIDFD = """
import asyncio, ctypes, os, signal, sys, threading

def forbid_pidfd():
    # What a sandbox of containers does: the system call is not permitted.
    import struct
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    arch, number = (0xC000003E, 434)
    def step(code, jt, jf, k):
        return struct.pack("HBBI", code, jt, jf, k)
    program = (step(0x20, 0, 0, 0) + step(0x15, 0, 1, number)
               + step(0x06, 0, 0, 0x00050000 | 1) + step(0x06, 0, 0, 0x7FFF0000))
    buffer = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer)))
    assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, header, 0, 0) == 0, ctypes.get_errno()

forbid_pidfd()
try:
    os.pidfd_open(os.getpid())
except PermissionError:
    pass
else:
    sys.exit("pidfd_open is still permitted")

async def main():
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(asyncio.ThreadedChildWatcher())
    process = await asyncio.create_subprocess_shell("echo out; exit 5", stdout=asyncio.subprocess.PIPE)
    assert await process.communicate() == (b"out\\n", None)
    assert process.returncode == 5
    process = await asyncio.create_subprocess_exec("sleep", "60")
    process.kill()
    assert await process.wait() == -signal.SIGKILL

loop = new_event_loop()
loop.run_until_complete(main())
loop.close()
"""


def test_where_pidfds_are_forbidden(script):
    """A thread waits then."""
    import platform

    if platform.machine() != "x86_64" or not hasattr(os, "pidfd_open"):
        pytest.skip("the filter of system calls is written for Linux on x86-64")
    script(NO_PIDFD)


@pytest.mark.skipif(PY >= (3, 14), reason="Python 3.13 is the last to have child watchers")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("active", [True, False])
def test_a_child_watcher_of_the_program(run, active, monkeypatch):
    watched = []

    class Watcher(asyncio.ThreadedChildWatcher):
        def is_active(self):
            return active

        def add_child_handler(self, pid, callback, *args):
            watched.append(pid)
            super().add_child_handler(pid, callback, *args)

    monkeypatch.setattr(asyncio.get_event_loop_policy(), "_watcher", Watcher())

    async def main():
        process = await asyncio.create_subprocess_exec(*python("raise SystemExit(3)"))
        assert await process.wait() == 3
        assert watched == [process.pid]

    if active:
        run(main())
    else:
        with pytest.raises(RuntimeError, match="is not activated"):
            run(main())
        assert watched == []


def test_communicate_under_load(run):
    """Many children at once, each with data both ways."""
    data = bytes(range(256)) * 1000

    async def one():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(data)
        assert out == data and process.returncode == 0

    async def main():
        await asyncio.gather(*(one() for _ in range(scaled(40))))

    run(main())
