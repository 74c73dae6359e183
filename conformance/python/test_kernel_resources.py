"""What a loop takes from the kernel, and gives back: requests, memory, files; and a fork in the middle of it all."""

import asyncio
import fcntl
import json
import os
import random
import sys

import pytest

from harness import HOST, Recorder, connect, open_files, scaled, unix_pair, until

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fdinfo"), reason="asks /proc")

# What the kernel keeps for the rings of this process: polls, and completions that did not fit.
KEPT = r"""
import json, os, re
def kept():
    polls = lost = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "io_uring" not in os.readlink(f"/proc/self/fd/{fd}"):
                continue
        except OSError:
            continue
        info = open(f"/proc/self/fdinfo/{fd}").read()
        polls += len(re.findall(r"^ +op=", info, re.MULTILINE))
        lost += len(re.findall(r"^ +user_data=", info, re.MULTILINE))
    return polls, lost
def memory(what):
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith(what + ":"):
            return int(line.split()[1])
def requests():
    # Of the whole system, where it is told: each request of any kind, a forgotten deadline, too.
    try:
        return next(int(line.split()[1]) for line in open("/proc/slabinfo") if line.startswith("io_kiocb "))
    except (OSError, StopIteration):
        return 0
"""


@needs_proc
@pytest.mark.timeout(35)  # on a busy machine; far less on another
def test_a_hundred_thousand_round_trips_beside_a_far_timer(script):
    """Neither requests nor memory grow while a deadline hours away is pending all the time."""
    trips = scaled(100_000)
    done = script(
        KEPT
        + r"""
import sys
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
class Client(Echo):
    left, ended = 0, None
    def data_received(self, data):
        self.left -= 1
        if self.left:
            self.transport.write(data)
        else:
            self.ended.set_result(None)
async def main(trips):
    loop = asyncio.get_running_loop()
    loop.call_later(36_000, print)
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clients = [(await loop.create_connection(Client, *address))[1] for _ in range(8)]
    async def talk(times):
        for client in clients:
            client.left, client.ended = times // len(clients), loop.create_future()
            client.transport.write(b"x" * 100)
        await asyncio.gather(*(client.ended for client in clients))
    await talk(trips // 10)
    before = (*kept(), memory("Anonymous"), requests())
    await talk(trips)
    print(json.dumps([before, (*kept(), memory("Anonymous"), requests())]))
    for client in clients:
        client.transport.close()
    server.close()
    await server.wait_closed()
loop = new_event_loop()
loop.run_until_complete(main(int(sys.argv[1])))
loop.close()
""",
        args=[str(trips)],
        timeout=100,
    )
    before, after = json.loads(done.stdout)
    assert after[:2] == before[:2], "polls in the kernel, and completions that it could not deliver"
    # On 3.15 asyncio itself takes another MiB once, which stays; the least object for each trip would be 3,000.
    limit = 500 if sys.version_info < (3, 15) else 2_000
    assert after[2] - before[2] < limit, "KiB of memory"
    # A request for each turn would be thousands; other processes of the machine have some, too.
    assert after[3] - before[3] < trips / 20


@needs_proc
def test_fifty_loops_fit_into_the_limits_of_a_user(script):
    """Locked memory is limited to 8 MiB by default; a loop may take about 100 KiB of any kind."""
    done = script(
        KEPT
        + r"""
import resource
resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
def opened():
    loop = new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    return loop
opened().close()
if os.getuid() == 0:
    os.setuid(65534)  # who may not exceed that limit
before = memory("Rss")
loops = [opened() for _ in range(50)]
print((memory("Rss") - before) / 50)
for loop in loops:
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
"""
    )
    assert float(done.stdout) < 150, "KiB for each loop"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_forked_by_a_running_loop(script):
    """It has a loop of its own, and the parent's goes on meanwhile and afterwards, with all its connections."""
    done = script(
        r"""
import os, socket, warnings
warnings.simplefilter("ignore")
async def echo(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
    writer.close()
async def talk(streams, times):
    for number in range(times):
        for reader, writer in streams:
            writer.write(b"%4d" % number)
        for reader, writer in streams:
            assert await reader.readexactly(4) == b"%4d" % number
async def serve_and_talk(times, middle=None):
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        streams = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(4)]
        await talk(streams, times)
        if middle:
            await middle(streams)
            await talk(streams, times)
        for reader, writer in streams:
            writer.close()
            await writer.wait_closed()
async def middle(streams):
    loop = asyncio.get_running_loop()
    ended, other = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            own = new_event_loop()
            own.run_until_complete(serve_and_talk(50))
            own.close()
            os._exit(7)
        finally:
            os._exit(1)
    os.close(other)
    done = loop.create_future()
    loop.add_reader(ended, done.set_result, None)
    while not done.done():
        await talk(streams, 5)
    loop.remove_reader(ended)
    os.close(ended)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
loop = new_event_loop()
asyncio.set_event_loop(loop)
loop.run_until_complete(serve_and_talk(50, middle))
loop.close()
"""
    )
    assert done.stdout == "7\n"


def test_a_reset_is_seen_as_a_reset(run, loop):
    """Also if there are bytes on their way to a peer that closes in the same turn with others unread."""

    async def main(write_late):
        near, far = unix_pair()
        transport, protocol = await connect(near, Recorder(loop))
        transport.write(b"never read")
        await asyncio.sleep(0)
        if write_late:
            loop.call_soon(transport.write, b"late")
        loop.call_soon(far.close)
        error = await protocol.lost
        assert isinstance(error, ConnectionResetError), error

    for write_late in (False, True):
        run(main(write_late))


@pytest.mark.parametrize("removed", ["in its own thread", "in another thread"])
def test_a_run_in_another_thread_without_a_file_to_spare(script, removed):
    """It works or fails as it should, and afterwards the loop works and holds no file that was let go of."""
    done = script(
        r"""
import errno, os, resource, socket, sys, threading
loop = new_event_loop()
near, far = socket.socketpair()
near.setblocking(False)
far.settimeout(5)
calls = []
def read():
    calls.append(near.recv(10))
    loop.stop()
loop.add_reader(near, read)
loop.call_soon(loop.stop)
loop.run_forever()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
errors, removed = [], sys.argv[1] == "in another thread"
def elsewhere():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    spares = []
    try:
        while True:
            spares.append(os.dup(0))
    except OSError:
        pass
    if removed:
        loop.remove_reader(near)
    stop = loop.call_soon(loop.stop)
    try:
        loop.run_forever()
    except OSError as exc:
        errors.append(exc.errno)
        stop.cancel()
    for fd in spares:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
assert set(errors) <= {errno.EMFILE}, errors
if not removed:
    far.send(b"data")
    loop.run_forever()
    assert calls == [b"data"], calls
    loop.remove_reader(near)
near.close()
loop.call_soon(loop.stop)
loop.run_forever()
assert far.recv(1) == b""
loop.close()
print("fine")
""",
        args=(removed,),
    )
    assert done.stdout == "fine\n"


@pytest.mark.skipif(sys.platform != "linux", reason="of closed files, an epoll is silent")
def test_a_reader_that_closes_its_own_file_is_not_called_again(run, loop, loop_factory):
    if loop_factory.backend == "poll":
        pytest.skip("poll(2) reports closed numbers, as it does to selectors.PollSelector")
    near, far = unix_pair()
    # High enough for no other file to get the number.
    number = fcntl.fcntl(near, fcntl.F_DUPFD_CLOEXEC, 800)
    near.close()
    calls = []

    def read():
        calls.append(os.read(number, 10))
        if not calls[-1]:
            os.close(number)

    loop.add_reader(number, read)
    far.send(b"data")
    run(until(lambda: calls))
    far.close()
    run(asyncio.sleep(0.02))
    assert calls == [b"data", b""]
    loop.remove_reader(number)


def test_numbers_of_files_are_reused_in_a_storm(run, loop):
    """Connections come and go in all ways with bytes on their way; none gets a byte or an event of another's."""
    before = len(open_files())
    dice = random.Random(2026)
    served = []

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport, self.count = transport, 0
            served.append(transport)

        def data_received(self, data):
            self.count += len(data)
            self.transport.write(data)
            if self.count > 20_000:
                dice.choice(
                    [self.transport.abort, self.transport.close, self.transport.pause_reading]
                )()

    async def visit(number, address):
        own = b"%08d" % number
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(own * dice.choice([1, 100, 4000]))
            received = await reader.readexactly(8)
            for _ in range(dice.randrange(4)):
                received += await asyncio.wait_for(reader.read(dice.choice([8, 800, 80_000])), 0.02)
            assert received == (own * (len(received) // 8 + 1))[: len(received)]
        except (ConnectionError, TimeoutError):
            pass
        finally:
            dice.choice([writer.close, writer.transport.abort])()

    async def main():
        server = await loop.create_server(Echo, HOST, 0)
        address = server.sockets[0].getsockname()
        for first in range(0, scaled(1000), 50):
            await asyncio.gather(*(visit(first + place, address) for place in range(50)))
        server.close()
        for transport in served:
            # asyncio's abort() does not stand being called once more.
            if not transport.is_closing():
                transport.abort()
        await until(lambda: len(open_files()) <= before)

    run(main())
