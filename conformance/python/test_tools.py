"""Tools that look at a running loop from outside, or patch it."""

import asyncio
import subprocess
import sys

import pytest

from harness import PY

SLEEPERS = """
import sys

async def inner():
    print("ready", flush=True)
    await asyncio.sleep(60)

async def outer():
    async with asyncio.TaskGroup() as group:
        group.create_task(inner(), name="the inner task")

async def main():
    await asyncio.create_task(outer(), name="the outer task")

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("tool", ["ps", "pstree"])
def test_asyncios_tools_show_the_tasks_of_a_running_process(loop_factory, tool):
    """`python -m asyncio ps PID` reads the memory of the process; tasks are asyncio's own, so it finds them."""
    if PY < (3, 14):
        pytest.skip("python -m asyncio ps is new in Python 3.14")
    command = [sys.executable, "-c", loop_factory.source + SLEEPERS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            shown = subprocess.run(
                [sys.executable, "-m", "asyncio", tool, str(process.pid)],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
        finally:
            process.kill()
    if "ermission" in shown.stderr + shown.stdout:
        pytest.skip(f"the memory of another process may not be read here: {shown.stderr[-200:]}")
    assert shown.returncode == 0, shown.stderr
    assert "the inner task" in shown.stdout and "the outer task" in shown.stdout
    assert "inner" in shown.stdout and "sleep" in shown.stdout


def test_a_patched_run_until_complete_of_an_instance(run, loop):
    """What patches a method of one loop object is seen by callers, as on asyncio."""
    calls = []
    original = loop.run_until_complete

    def patched(future):
        calls.append(future)
        return original(future)

    loop.run_until_complete = patched
    assert loop.run_until_complete(asyncio.sleep(0, 5)) == 5
    assert len(calls) == 1
