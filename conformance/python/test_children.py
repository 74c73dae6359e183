"""How the loop learns that a child process has ended."""

import asyncio
import errno
import logging
import os
import sys
import threading

import pytest

from harness import Reports, managed_loop

pytestmark = pytest.mark.zloop_only("asyncio has watchers of its own")


async def shell_exit(code):
    process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}")
    return await process.wait()


def run_with(loop_factory, answer):
    """Run a child on a loop whose backend gives this answer when asked; its code, and whether more are asked."""
    import zloop

    class Loop(zloop.Loop):
        def _watch_exit(self, pid, callback, *args):
            return answer(pid, callback, *args)

    with managed_loop(lambda: Loop(loop_factory.backend), Reports()) as loop:
        return loop.run_until_complete(shell_exit(3)), loop._backend_tells_exits


def test_the_backend_tells_and_no_thread_waits(run, loop, loop_factory):
    async def main():
        process = await asyncio.create_subprocess_exec("sleep", "60")
        waiting = [t.name for t in threading.enumerate() if "waitpid" in t.name]
        sources = loop._stats()["sources"]
        process.kill()
        await process.wait()
        return waiting, sources - loop._stats()["sources"]

    waiting, taken_back = run(main())
    # Another backend cannot, and has said so at the first child; it is not asked again.
    assert loop._backend_tells_exits == (loop_factory.backend == "kqueue")
    assert not (waiting and loop._backend_tells_exits)
    assert taken_back == (1 if sys.platform == "linux" or loop_factory.backend == "kqueue" else 0)


def test_a_child_that_ended_before_it_could_be_watched(loop_factory):
    def gone(pid, callback, *args):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        raise ProcessLookupError(pid)

    assert run_with(loop_factory, gone)[0] == 3


def test_a_child_that_somebody_else_has_reaped(loop_factory, caplog):
    def gone(pid, callback, *args):
        os.waitpid(pid, 0)
        raise ProcessLookupError(pid)

    with caplog.at_level(logging.WARNING, "asyncio"):
        assert run_with(loop_factory, gone)[0] == 255
    assert "will report returncode 255" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_a_backend_that_cannot_leaves_it_to_asyncio(loop_factory, code):
    def refuse(pid, callback, *args):
        raise OSError(code, os.strerror(code))

    exit_code, asked_again = run_with(loop_factory, refuse)
    assert exit_code == 3
    assert asked_again == (code != errno.ENOSYS)
