"""Subprocesses: streams, protocols, signals, exit codes."""

import asyncio
import os
import signal
import subprocess
import sys
import warnings

import pytest

from harness import pattern, spin

PIPE = asyncio.subprocess.PIPE


@pytest.fixture(autouse=True)
def child_watcher(loop_factory, monkeypatch):
    """Python 3.11 finds children through the policy's watcher, which needs no loop of its own."""
    if sys.version_info >= (3, 12):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = asyncio.get_event_loop_policy()._watcher
        watcher = asyncio.ThreadedChildWatcher()
        asyncio.set_child_watcher(watcher)
    yield
    for thread in list(watcher._threads.values()):
        thread.join()
    asyncio.get_event_loop_policy()._watcher = old


def python(code):
    return [sys.executable, "-S", "-c", code]


def test_communicate(run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            *python("import sys; data = sys.stdin.read(); print(data.upper()); print('err', file=sys.stderr)"),
            stdin=PIPE, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        out, err = await process.communicate(b"hello")
        assert (out, err, process.returncode) == (b"HELLO\n", b"err\n", 0)

    run(main())


def test_shell(run):
    async def main():
        process = await asyncio.create_subprocess_shell("echo $((6 * 7)); exit 3", stdout=PIPE)
        out, _ = await process.communicate()
        assert (out, process.returncode) == (b"42\n", 3)

    run(main())


def test_large_amounts_both_ways(run):
    data = pattern(3_000_000)

    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(data)
        assert out == data and process.returncode == 0

    run(main())


def test_streams(run):
    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        for word in (b"one\n", b"two\n"):
            process.stdin.write(word)
            await process.stdin.drain()
            assert await process.stdout.readline() == word
        process.stdin.close()
        await process.stdin.wait_closed()
        assert await process.wait() == 0
        assert await process.stdout.read() == b""

    run(main())


@pytest.mark.parametrize(
    ("how", "code"),
    [("terminate", -signal.SIGTERM), ("kill", -signal.SIGKILL), ("send_signal", -signal.SIGUSR1)],
)
def test_signals(run, how, code):
    async def main():
        process = await asyncio.create_subprocess_exec("sleep", "60")
        assert process.returncode is None and process.pid > 0
        getattr(process, how)(*([signal.SIGUSR1] if how == "send_signal" else []))
        assert await process.wait() == code
        assert process.returncode == code

    run(main())


def test_waiting_twice_and_from_several_tasks(run):
    async def main():
        process = await asyncio.create_subprocess_exec("true")
        assert await asyncio.gather(process.wait(), process.wait()) == [0, 0]
        assert await process.wait() == 0

    run(main())


def test_many_at_once(run):
    async def one(number):
        process = await asyncio.create_subprocess_shell(
            f"echo {number}; exit {number}", stdout=PIPE
        )
        out, _ = await process.communicate()
        return int(out), process.returncode

    async def main():
        return await asyncio.gather(*(one(number) for number in range(10)))

    assert run(main()) == [(number, number) for number in range(10)]


class Protocol(asyncio.SubprocessProtocol):
    def __init__(self):
        self.events = []
        self.output = {1: b"", 2: b""}
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def pipe_data_received(self, fd, data):
        self.output[fd] += data

    def pipe_connection_lost(self, fd, exc):
        self.events.append(f"pipe {fd}")

    def process_exited(self):
        self.events.append("exited")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)


def test_protocols(run, loop):
    async def main():
        transport, protocol = await loop.subprocess_exec(
            Protocol,
            *python("import sys; sys.stdout.write('out'); sys.stderr.write('err'); sys.exit(5)"),
        )
        assert isinstance(transport, asyncio.SubprocessTransport)
        assert transport.get_extra_info("subprocess").pid == transport.get_pid()
        assert isinstance(transport.get_pipe_transport(1), asyncio.ReadTransport)
        assert isinstance(transport.get_pipe_transport(0), asyncio.WriteTransport)
        await protocol.lost
        assert protocol.output == {1: b"out", 2: b"err"}
        assert transport.get_returncode() == 5
        assert protocol.events[0] == "made" and protocol.events[-1] == "lost"
        assert sorted(protocol.events[1:-1]) == ["exited", "pipe 0", "pipe 1", "pipe 2"]
        transport.close()

    run(main())


def test_closing_a_transport_kills(run, loop):
    async def main():
        transport, protocol = await loop.subprocess_exec(
            Protocol, "sleep", "60", stdin=None, stdout=None, stderr=None
        )
        transport.close()
        await protocol.lost
        assert transport.get_returncode() == -signal.SIGKILL

    run(main())


def test_stdin_that_is_closed_early(run):
    """The child does not read: communicate() does not fail for that."""

    async def main():
        process = await asyncio.create_subprocess_exec("true", stdin=PIPE)
        await process.communicate(b"x" * 1_000_000)
        assert process.returncode == 0

    run(main())


def test_a_program_that_does_not_exist(run):
    async def main():
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/no/such/program")

    run(main())


def test_options_reach_the_child(run, tmp_path):
    async def main():
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            "pwd; echo $WORD",
            stdout=PIPE,
            cwd=tmp_path,
            env={"WORD": "given", **os.environ},
        )
        out, _ = await process.communicate()
        assert out.decode().split() == [str(tmp_path), "given"]

    run(main())


def test_redirections(run, tmp_path):
    async def main():
        with open(tmp_path / "out", "wb") as file:
            process = await asyncio.create_subprocess_shell(
                "echo out; echo err >&2", stdout=file, stderr=asyncio.subprocess.STDOUT
            )
            await process.wait()
        assert (tmp_path / "out").read_bytes() == b"out\nerr\n"
        process = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
        )
        assert await process.wait() == 0

    run(main())


def test_children_do_not_inherit_the_loops_descriptors(run):
    async def main():
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        process = await asyncio.create_subprocess_exec(
            *python("import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"),
            stdout=PIPE,
        )
        out, _ = await process.communicate()
        assert out.strip() == b"[0, 1, 2]"
        server.close()
        await spin(3)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc on this system")
    run(main())


def test_signals_are_at_their_defaults_in_the_child(run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            *python("import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler,"
                    " signal.pthread_sigmask(signal.SIG_BLOCK, []))"), stdout=PIPE
        )  # fmt: skip
        out, _ = await process.communicate()
        assert out.strip() == b"True set()"

    run(main())


def test_cancelling_a_wait(run):
    async def main():
        process = await asyncio.create_subprocess_exec("sleep", "60")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.01)
        process.kill()
        assert await process.wait() == -signal.SIGKILL

    run(main())


def test_subprocess_popen_beside_a_running_loop(run, loop):
    """Children that are not the loop's are left to whoever started them."""

    async def main():
        process = subprocess.Popen(["sh", "-c", "exit 7"])
        return await loop.run_in_executor(None, process.wait)

    assert run(main()) == 7


def test_a_loop_in_another_thread(loop_factory):
    import threading

    results = []

    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 4")
        return await process.wait()

    def work():
        loop = loop_factory()
        try:
            results.append(loop.run_until_complete(main()))
        finally:
            loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [4]


@pytest.mark.parametrize("what", ["universal_newlines", "shell", "bufsize", "text"])
def test_what_is_refused(compare, what):
    from harness import outcome

    def scenario(loop, reports):
        options = {"universal_newlines": True, "shell": True, "bufsize": 5, "text": True}
        return outcome(
            lambda: loop.run_until_complete(
                loop.subprocess_exec(Protocol, "true", **{what: options[what]})
            )
        )

    assert compare(scenario)[0] == "ValueError"
