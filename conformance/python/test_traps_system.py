"""The traps of test_traps.py that concern the network, processes and packaging: 24 to 40."""

import asyncio
import os
import signal
import socket
import ssl
import sys
import threading
import time

import pytest

from harness import (
    HOST,
    piped,
    spin,
    tls_pair,
    until,
)


@pytest.mark.skipif(sys.platform != "linux", reason="fills the table of descriptors through /proc")
def test_trap_24_no_descriptors_left(script):
    """Out of descriptors the server neither spins nor dies."""
    done = script(
        """
import os, resource, socket, time
async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reports.append(context["message"]))
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    client = socket.socket()
    client.setblocking(False)
    top = 1 + max(int(name) for name in os.listdir("/proc/self/fd"))
    for fd in range(top):
        try:
            os.fstat(fd)
        except OSError:
            os.dup2(0, fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (top, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    client.connect_ex(server.sockets[0].getsockname())
    cpu = time.process_time()
    await asyncio.sleep(0.2)
    assert time.process_time() - cpu < 0.15
    print(sorted(set(reports)), server.is_serving())
    client.close()
    server.close()
reports = []
loop = new_event_loop()
loop.run_until_complete(main())
loop.close()
"""
    )
    assert done.stdout == "['socket.accept() out of system resource'] True\n"


def test_trap_25_datagram_errors(run, loop):
    async def main():
        events = []

        class Protocol(asyncio.DatagramProtocol):
            def error_received(self, exc):
                events.append(type(exc))

            def connection_lost(self, exc):
                events.append("lost")

        transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=(HOST, 0))
        transport.sendto(b"x" * 70_000, (HOST, 9))
        await spin(3)
        assert events == [OSError] and not transport.is_closing()
        transport.close()
        await spin(3)
        assert events == [OSError, "lost"]

    run(main())


@pytest.fixture
def tolerate_reports(reports):
    """For what asyncio reports in debug mode only."""
    yield
    reports.messages()


def test_trap_26_the_actual_ssl_context(run, certificates, tolerate_reports):
    async def handler(reader, writer):
        seen.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        writer.close()

    seen = []

    async def main():
        server, client = certificates.server(), certificates.client()
        server.set_alpn_protocols(["h2"])
        server.sni_callback = lambda ssl_object, name, context: seen.append(name)
        client.set_alpn_protocols(["h2"])
        listener = await asyncio.start_server(handler, HOST, 0, ssl=server)
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            HOST, port, ssl=client, server_hostname="localhost"
        )
        await reader.read()
        writer.close()
        listener.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            listener = await asyncio.start_server(handler, HOST, 0, ssl=server)
            port = listener.sockets[0].getsockname()[1]
            try:
                await asyncio.open_connection(
                    HOST, port, ssl=client, server_hostname="wrong.example"
                )
            finally:
                listener.close()
                await asyncio.sleep(0.005)

    run(main())
    assert seen[:2] == ["localhost", "h2"]


def test_trap_27_tls_that_is_cut_off(run, loop, certificates, tolerate_reports):
    """The peer vanishes in the middle of a transfer: connection_lost comes, nothing hangs."""

    async def main():
        (near, left), (far, right) = await tls_pair(loop, certificates)
        near.write(b"x" * 5_000_000)
        far.abort()
        await asyncio.wait_for(left.lost, 5)
        await asyncio.wait_for(right.lost, 5)

    run(main())


def test_trap_28_sendfile_over_tls(run, loop, certificates, tmp_path):
    (tmp_path / "file").write_bytes(b"content")

    async def main():
        (near, left), (far, right) = await tls_pair(loop, certificates)
        with open(tmp_path / "file", "rb") as file:
            with pytest.raises((RuntimeError, asyncio.SendfileNotAvailableError)):
                await loop.sendfile(near, file, fallback=False)
            await loop.sendfile(near, file)
        assert await right.got(7) == b"content"
        near.close()
        await left.lost
        await right.lost
        assert far.is_closing()

    run(main())


def test_trap_29_signal_handlers_are_effective_at_once(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: (seen.append(1), loop.stop()))
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.call_later(5, loop.stop)
    loop.run_forever()
    loop.remove_signal_handler(signal.SIGUSR1)
    assert seen == [1] and signal.set_wakeup_fd(-1) == -1


def test_trap_30_interrupted_waits(loop):
    """A signal whose handler does nothing interrupts the wait; the wait goes on."""
    old = signal.signal(signal.SIGUSR1, lambda *args: None)
    main = threading.get_ident()

    def work():
        for _ in range(5):
            time.sleep(0.003)
            signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=work)
    start = loop.time()
    thread.start()
    try:
        loop.run_until_complete(asyncio.sleep(0.03))
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, old)
    assert loop.time() - start >= 0.03


def test_trap_31_fork(script):
    """The child makes a loop of its own; the parent's goes on undisturbed."""
    done = script(
        """
import os, socket, warnings
warnings.simplefilter("ignore")
one, two = socket.socketpair()
one.setblocking(False)
parent = new_event_loop()
async def open_it():
    return await asyncio.open_connection(sock=one)
reader, writer = parent.run_until_complete(open_it())
pid = os.fork()
if pid == 0:
    async def child():
        await asyncio.sleep(0.001)
        r, w = await asyncio.open_connection(sock=socket.socketpair()[0])
        w.close()
    loop = new_event_loop()
    loop.run_until_complete(child())
    loop.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
two.send(b"after the fork")
print(parent.run_until_complete(reader.readexactly(14)))
async def close():
    writer.close()
    await writer.wait_closed()
parent.run_until_complete(close())
parent.close()
two.close()
"""
    )
    assert done.stdout == "b'after the fork'\n"


def test_trap_32_a_loop_moves_between_threads(loop):
    async def talk():
        async with piped() as (_, protocol, peer):
            peer.send(b"x")
            return await protocol.got(1)

    results = [loop.run_until_complete(talk())]
    for _ in range(3):
        thread = threading.Thread(target=lambda: results.append(loop.run_until_complete(talk())))
        thread.start()
        thread.join()
    assert results == [b"x"] * 4


def test_trap_33_asyncio_is_left_alone(script):
    done = script(
        "from asyncio import open_connection, start_server, base_events\n"
        "print(open_connection.__module__, start_server.__module__, asyncio.sleep.__module__,\n"
        "      asyncio.SelectorEventLoop.call_soon.__module__)\n"
    )
    assert done.stdout == "asyncio.streams asyncio.streams asyncio.tasks asyncio.base_events\n"


def test_trap_34_many_loops_at_once(loop_factory):
    loops = [loop_factory() for _ in range(60)]
    for loop in loops:
        loop.run_until_complete(asyncio.sleep(0))
    for loop in loops:
        loop.close()


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="counts context switches in /proc"
)
def test_trap_35_an_idle_loop_never_wakes(script):
    done = script(
        """
import threading
def switches():
    return sum(int(line.split()[1]) for line in open("/proc/thread-self/status") if "ctxt_switches" in line)
async def main():
    await asyncio.sleep(0.01)
    before = switches()
    await asyncio.sleep(0.4)
    print(switches() - before, threading.active_count())
loop = new_event_loop()
loop.run_until_complete(main())
loop.close()
"""
    )
    count, threads = map(int, done.stdout.split())
    assert count < 20 and threads == 1


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_trap_36_exits(loop, exception):
    def leave():
        raise exception

    for _ in range(3):
        loop.call_soon(leave)
        with pytest.raises(exception):
            loop.run_forever()
        assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())


def test_trap_37_ctrl_c_under_a_runner_with_a_far_timer(script):
    done = script(
        """
import os, signal, threading, time
async def main():
    asyncio.get_running_loop().call_later(3.5, print)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    await asyncio.sleep(3.5)
start = time.monotonic()
try:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print(time.monotonic() - start < 0.6)
"""
    )
    assert done.stdout == "True\n"


def test_trap_38_short_sleeps_are_never_early(run, loop):
    async def main():
        for delay in (1e-6, 1e-5, 1e-4, 3e-4, 5e-4, 9e-4):
            start = time.monotonic()
            await asyncio.sleep(delay)
            assert time.monotonic() - start >= delay - 1e-8

    run(main())


def test_trap_39_a_refused_datagram(run, loop):
    async def main():
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind((HOST, 0))
            address = sock.getsockname()
        errors = []

        class Protocol(asyncio.DatagramProtocol):
            def error_received(self, exc):
                errors.append(exc)

        transport, _ = await loop.create_datagram_endpoint(Protocol, remote_addr=address)
        transport.sendto(b"x")
        await until(lambda: errors)
        assert isinstance(errors[0], ConnectionRefusedError) and not transport.is_closing()
        transport.close()
        await spin(3)

    run(main())


@pytest.mark.zloop_only("asyncio's heap leaves the order of equal deadlines open")
def test_trap_40_fifty_timers_with_one_deadline(loop):
    seen = []
    when = loop.time() + 0.002
    for number in range(50):
        loop.call_at(when, seen.append, number)
    loop.call_at(when + 0.001, loop.stop)
    loop.run_forever()
    assert seen == list(range(50))
