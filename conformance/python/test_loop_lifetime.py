"""What a loop leaves behind: closed or not, one of many, at the end of the interpreter."""

import asyncio
import gc
import warnings
import weakref

import pytest

from harness import value


def test_an_unclosed_loop_warns(loop_factory):
    loop = loop_factory()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        text = repr(loop)
        del loop
        gc.collect()
    messages = [str(w.message) for w in caught if issubclass(w.category, ResourceWarning)]
    assert f"unclosed event loop {text}" in messages


def test_a_closed_loop_is_freed(loop_factory):
    loop = loop_factory()
    loop.run_until_complete(value(1))
    loop.call_later(60, lambda: None)
    loop.attribute = loop
    alive = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert alive() is None


def test_a_closed_loop_that_was_used_for_all_sorts_is_freed(loop_factory):
    loop = loop_factory()

    async def main():
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await asyncio.get_running_loop().run_in_executor(None, int)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    alive = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert alive() is None


def test_many_loops_one_after_another(loop_factory, leaks):
    before = len(leaks.files)
    for number in range(50):
        loop = loop_factory()
        assert loop.run_until_complete(value(number)) == number
        loop.close()
    from harness import open_files

    assert len(open_files()) == before


def test_many_loops_at_once(loop_factory):
    loops = [loop_factory() for _ in range(30)]
    assert [loop.run_until_complete(value(i)) for i, loop in enumerate(loops)] == list(range(30))
    for loop in loops:
        loop.close()


def test_an_exit_at_import_level_of_a_script(script):
    """SystemExit's code is the process's code."""
    done = script(
        "import sys\n"
        "async def main():\n"
        "    sys.exit(7)\n"
        "with asyncio.Runner(loop_factory=new_event_loop) as runner:\n"
        "    runner.run(main())\n",
        check=False,
    )
    assert done.returncode == 7, done.stderr


def test_a_loop_whose_method_makes_its_tasks_is_freed(loop_factory):
    loop = loop_factory()

    class Loop(type(loop)):
        def make(self, loop, coroutine, **options):
            return asyncio.Task(coroutine, loop=loop, **options)

    loop.__class__ = Loop
    loop.set_task_factory(loop.make)
    loop.run_until_complete(value(1))
    loop.close()
    alive = weakref.ref(loop)
    del loop
    gc.collect()
    assert alive() is None


def test_a_loop_left_running_at_interpreter_exit(script):
    """A daemon thread's loop does not crash the interpreter at its end."""
    done = script(
        "import threading, time\n"
        "ready = threading.Event()\n"
        "def work():\n"
        "    loop = new_event_loop()\n"
        "    loop.call_soon(ready.set)\n"
        "    loop.run_forever()\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "ready.wait(10)\n"
        "print('bye')\n",
    )
    assert done.stdout == "bye\n" and done.stderr == ""


BUSY = """
import threading

ready = threading.Event()

def busy(*_):
    ready.set()
    while not over:
        sum(range(1000))  # Python code, which is where the interpreter takes the GIL away

def call(loop):
    loop.call_soon(busy)

def task(loop):
    async def forever():
        busy()
    loop.tasks = [loop.create_task(forever())]

def reader(loop):
    loop.add_reader(ours, busy)

class Protocol(asyncio.Protocol):
    data_received = busy

def stream(loop):
    loop.tasks = [loop.create_task(loop.create_connection(Protocol, sock=ours))]

class Buffered(asyncio.BufferedProtocol):
    def get_buffer(self, hint):
        return bytearray(10)
    buffer_updated = busy

def buffered(loop):
    loop.tasks = [loop.create_task(loop.create_connection(Buffered, sock=ours))]

class Datagrams(asyncio.DatagramProtocol):
    datagram_received = busy

def datagram(loop):
    loop.tasks = [loop.create_task(loop.create_datagram_endpoint(Datagrams, sock=ours))]

def pipe(loop):
    loop.tasks = [loop.create_task(loop.connect_read_pipe(Protocol, ours.makefile("rb", 0)))]

def threadsafe(loop):
    # Wakes the loop again and again, from a thread that does not belong to it.
    def storm():
        ready.set()
        while not over:
            loop.call_soon_threadsafe(int)
    threading.Thread(target=storm, daemon=True).start()

def work():
    loop = new_event_loop()
    KIND(loop)
    loop.run_forever()

over = False
import socket
ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM if KIND == "datagram" else socket.SOCK_STREAM)
ours.setblocking(False)
theirs.send(b"data")
KIND = globals()[KIND]
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
    if KIND not in (call, task, threadsafe):
        break
ready.wait(10)
print("bye")
"""


@pytest.mark.parametrize(
    "kind", ["call", "task", "reader", "stream", "buffered", "datagram", "pipe", "threadsafe"]
)
def test_a_busy_loop_at_interpreter_exit(script, kind):
    """A daemon thread that runs Python code for its loop does not crash the interpreter at its end either."""
    done = script(f"KIND = {kind!r}\n" + BUSY)
    assert done.stdout == "bye\n" and done.stderr == ""


def test_an_open_loop_at_interpreter_exit(script):
    done = script(
        "async def main():\n"
        "    asyncio.get_running_loop().call_later(60, print)\n"
        "import warnings; warnings.simplefilter('ignore')\n"
        "loop = new_event_loop()\n"
        "loop.run_until_complete(main())\n"
        "print('bye')\n",
    )
    assert done.stdout == "bye\n" and done.stderr == ""
