"""One probe for each trap that caught the users of some event loop; the number is the trap's.

The traps are numbered by topic: files and lifetime (1 to 11), scheduling and time (12 to 17), types (18 to 22),
network (23 to 28), processes and signals (29 to 32), packaging (33 to 40). Most have a fuller test in the
file of their subject; this file is the list.
"""

import asyncio
import contextvars
import gc
import os
import signal
import socket
import ssl
import sys
import threading
import time
import weakref

import pytest

from harness import (
    FULL,
    HOST,
    PY,
    BufferedRecorder,
    Recorder,
    connect,
    open_files,
    outcome,
    pattern,
    piped,
    recv_exactly,
    reset,
    run_turns,
    serving,
    spin,
    tcp_pair,
    unix_pair,
    until,
)


def test_trap_01_one_owner_one_close(run, loop):
    """A socket handed over is closed exactly once, also when handing over fails or is cancelled."""

    async def main():
        before = len(open_files())
        for fail in (False, True):
            near, far = tcp_pair()
            number = near.fileno()
            near.setblocking(False)

            def factory(fail=fail):
                if fail:
                    raise ZeroDivisionError
                return Recorder()

            try:
                transport, protocol = await loop.create_connection(factory, sock=near)
            except ZeroDivisionError:
                near.close()
            else:
                transport.close()
                await protocol.lost
                await spin(2)
            # The number is free: a second close would hit whoever has it now.
            far.close()
            other = socket.socket()
            assert other.fileno() <= number
            del near
            gc.collect()
            other.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
            other.close()
        assert len(open_files()) == before

    run(main())


def test_trap_02_a_reused_number_gets_no_old_events(run, loop):
    async def main():
        for _ in range(10):
            near, far = tcp_pair()
            number = near.fileno()
            transport, protocol = await connect(near)
            far.sendall(b"unread")
            transport.abort()
            await protocol.lost
            far.close()
            near, far = tcp_pair()
            near, far = (near, far) if near.fileno() == number else (far, near)
            transport, second = await connect(near)
            await asyncio.sleep(0.0005)
            assert second.names == ["made"]
            far.sendall(b"new")
            assert await second.got(3) == b"new"
            transport.abort()
            await second.lost
            far.close()

    run(main())


def test_trap_03_descriptor_of_a_transport(run, loop):
    async def main():
        near, far = tcp_pair()
        number = near.fileno()
        transport, protocol = await connect(near)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(number, print)
        transport.abort()
        await protocol.lost
        await spin(2)
        far.close()
        one, two = unix_pair()
        for sock in (one, two):
            loop.add_reader(sock, print)
            assert loop.remove_reader(sock)
            sock.close()

    run(main())


def test_trap_04_data_received_raises(run, reports):
    class Raising(Recorder):
        def data_received(self, data):
            raise ZeroDivisionError("boom")

    async def main():
        async with piped(Raising()) as (_, protocol, peer):
            peer.send(b"x")
            assert isinstance(await protocol.lost, ZeroDivisionError)

    run(main())
    assert reports.messages() == ["Fatal error: protocol.data_received() call failed."]


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_trap_05_factory_raises_on_accept(run, loop, reports):
    calls = []

    def factory():
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("no protocol")
        return Recorder()

    async def main():
        async with serving(factory) as (_, address):
            with socket.create_connection(address), socket.create_connection(address):
                await until(lambda: len(calls) == 2)
            await asyncio.sleep(0.002)

    run(main())
    reports.messages()


def test_trap_06_reset_and_abort(run):
    async def main():
        async with piped() as (_, protocol, peer):
            reset(peer)
            exc = await protocol.lost
            assert isinstance(exc, ConnectionResetError) and exc.errno and exc.strerror
        async with piped() as (transport, protocol, _):
            transport.abort()
            assert await protocol.lost is None

    run(main())


def test_trap_07_write_after_the_end(run):
    async def main():
        async with piped() as (transport, protocol, _):
            transport.close()
            await protocol.lost
            for _ in range(4):
                transport.write(b"dropped")
        async with piped() as (transport, protocol, _):
            transport.write_eof()
            with pytest.raises(RuntimeError):
                transport.write(b"refused")

    run(main())


def test_trap_08_connection_lost_is_scheduled(run):
    async def main():
        for how in ("close", "abort"):
            async with piped() as (transport, protocol, _):
                getattr(transport, how)()
                assert "lost" not in protocol.names
                await protocol.lost

    run(main())


def test_trap_09_reentering_from_flow_control(run, loop):
    class Protocol(Recorder):
        def pause_writing(self):
            super().pause_writing()
            self.transport.write(b"!")

        def resume_writing(self):
            super().resume_writing()
            if self.names.count("resume") == 1:
                self.transport.write(b"?")
                self.transport.write_eof()

    async def main():
        async with piped(Protocol()) as (transport, _, peer):
            data = pattern(FULL)
            transport.write(data)
            assert await loop.run_in_executor(None, recv_exactly, peer, FULL + 10) == data + b"!?"

    run(main())


def test_trap_10_buffers_are_snapshots(run):
    async def main():
        async with piped() as (transport, _, peer):
            buffer = bytearray(b"original")
            transport.write(buffer)
            transport.writelines([memoryview(buffer)])
            buffer[:] = b"changed!"
            buffer.extend(b"and resized")
            await asyncio.sleep(0.001)
            assert recv_exactly(peer, 16) == b"originaloriginal"

    run(main())


def test_trap_11_readable_and_writable_in_one_event(run, loop):
    async def main():
        protocol = Recorder()
        protocol.keep_open = True
        async with piped(protocol) as (transport, _, peer):
            data = pattern(FULL)
            transport.write(data)  # waits for room
            peer.sendall(b"last words")
            peer.shutdown(socket.SHUT_WR)  # data and the end, readable at once
            received = await loop.run_in_executor(None, recv_exactly, peer, FULL)
            await protocol.eof
            assert received == data and bytes(protocol.data) == b"last words"
            transport.write(b"still writing")
            assert await loop.run_in_executor(None, recv_exactly, peer, 13) == b"still writing"

    run(main())


@pytest.mark.zloop_only("asyncio's heap leaves the order of equal deadlines open")
def test_trap_12_equal_deadlines(loop):
    seen = []
    when = loop.time() + 0.002
    for number in range(5):
        loop.call_at(when, seen.append, number)
    loop.call_at(when + 0.001, loop.stop)
    loop.run_forever()
    assert seen == [0, 1, 2, 3, 4]


def test_trap_13_the_clock_is_monotonic_time(loop):
    assert abs(loop.time() - time.monotonic()) < 0.05
    before = time.monotonic()
    assert before <= loop.time() <= time.monotonic()


def test_trap_14_handles(loop):
    handle = loop.call_later(0, print)
    assert isinstance(handle, asyncio.TimerHandle) and handle.when() <= loop.time()
    assert weakref.ref(handle)() is handle
    assert "TimerHandle" in repr(handle)
    assert handle <= loop.call_later(1000, print)
    handle.cancel()
    assert handle.cancelled()
    assert PY < (3, 12) or isinstance(handle.get_context(), contextvars.Context)


def test_trap_15_stop_runs_exactly_the_batch(loop):
    seen = []
    loop.call_soon(loop.stop)
    loop.call_soon(lambda: (seen.append(1), loop.call_soon(seen.append, 2)))
    loop.run_forever()
    assert seen == [1]
    loop.run_until_complete(asyncio.sleep(0))
    assert seen == [1, 2]


def test_trap_16_contexts(run, loop):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    class Protocol(Recorder):
        def data_received(self, data):
            seen.append(variable.get())
            super().data_received(data)

    def work():
        variable.set("thread")
        loop.call_soon_threadsafe(lambda: seen.append(variable.get()))

    async def create():
        variable.set("creator")
        near, far = tcp_pair()
        return *(await connect(near, Protocol())), far

    async def main():
        transport, protocol, far = await loop.create_task(create())
        variable.set("other")
        far.send(b"x")
        await protocol.got(1)
        thread = threading.Thread(target=work)
        thread.start()
        await until(lambda: len(seen) == 2)
        thread.join()
        far.close()
        await protocol.lost
        assert transport.is_closing()

    run(main())
    assert seen == ["creator", "thread"]


def test_trap_17_reports_and_debug_mode(debug_loop, reports):
    debug_loop.call_soon(lambda: 1 // 0)
    run_turns(debug_loop)
    report = reports.one()
    assert isinstance(report["handle"], asyncio.Handle)
    assert report["source_traceback"]
    errors = []
    thread = threading.Thread(
        target=lambda: errors.append(outcome(lambda: debug_loop.call_soon(bool)))
    )
    debug_loop.call_soon(thread.start)
    debug_loop.call_later(0.02, debug_loop.stop)
    debug_loop.run_forever()
    thread.join()
    assert errors[0][1].startswith("Non-thread-safe operation")


def test_trap_18_types(run, loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)

    async def main():
        async with serving(Recorder) as (server, _), piped() as (transport, _, _):
            assert isinstance(server, asyncio.AbstractServer)
            assert isinstance(transport, asyncio.Transport)

    run(main())


def test_trap_19_extra_info(run):
    async def main():
        async with piped() as (transport, _, peer):
            sock = transport.get_extra_info("socket")
            assert type(sock) is asyncio.trsock.TransportSocket
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\0" * 8)
            assert transport.get_extra_info("peername") == peer.getsockname()
            assert transport.get_extra_info("sockname") == peer.getpeername()

    run(main())


def test_trap_20_set_protocol_sees_the_kind(run, loop):
    async def main():
        async with piped() as (transport, _, peer):
            for kind in (BufferedRecorder, Recorder, BufferedRecorder):
                protocol = kind()
                transport.set_protocol(protocol)
                peer.send(b"x")
                assert await protocol.got(1) == b"x"
            transport.attribute = loop.attribute = 1

    run(main())


def test_trap_21_real_tasks(run, loop):
    async def main():
        task = loop.create_task(asyncio.sleep(0), name="n", context=contextvars.copy_context())
        assert type(task) is asyncio.Task and task in asyncio.all_tasks()
        assert asyncio.current_task() is not task
        await task
        if PY >= (3, 12):
            loop.set_task_factory(asyncio.eager_task_factory)
            assert loop.create_task(asyncio.sleep(0)).get_loop() is loop
            loop.set_task_factory(None)

    run(main())


def test_trap_22_servers(run, loop):
    async def main():
        server = await loop.create_server(Recorder, HOST, 0, start_serving=False)
        assert isinstance(server.sockets, tuple) and not server.is_serving()
        task = loop.create_task(server.serve_forever())
        await spin(2)
        assert server.is_serving()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not server.is_serving()
        assert PY < (3, 13) or (server.close_clients, server.abort_clients)

    run(main())


@pytest.mark.parametrize(
    "host", ["127.1", "fe80::1%lo", "", None, "::", "0x7f.1", "1.2.3.4.5", "127.0.0.1"]
)
def test_trap_23_numeric_hosts(run, loop, host):
    for port in (80, "80", None, 0):
        options = {"type": socket.SOCK_STREAM, "flags": socket.AI_NUMERICHOST | socket.AI_CANONNAME}
        try:
            expected = socket.getaddrinfo(host, port, **options)
        except OSError as exc:
            with pytest.raises(type(exc)) as caught:
                run(loop.getaddrinfo(host, port, **options))
            assert caught.value.args == exc.args
        else:
            assert run(loop.getaddrinfo(host, port, **options)) == expected


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


def test_trap_26_the_actual_ssl_context(run, certificates):
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


@pytest.fixture
def tolerate_reports(reports):
    yield
    reports.messages()


def test_trap_27_tls_that_is_cut_off(run, loop, certificates, tolerate_reports):
    """The peer vanishes in the middle of a transfer: connection_lost comes, nothing hangs."""

    async def main():
        near, far = tcp_pair()
        near.setblocking(False)
        far.setblocking(False)
        left, right = Recorder(), Recorder()
        first, second = await asyncio.gather(
            loop.create_connection(
                lambda: left, sock=near, ssl=certificates.client(), server_hostname="localhost"
            ),
            loop.connect_accepted_socket(lambda: right, far, ssl=certificates.server()),
        )
        first[0].write(b"x" * 5_000_000)
        second[0].abort()
        await asyncio.wait_for(left.lost, 5)
        await asyncio.wait_for(right.lost, 5)

    run(main())


def test_trap_28_sendfile_over_tls(run, loop, certificates, tmp_path):
    (tmp_path / "file").write_bytes(b"content")

    async def main():
        near, far = tcp_pair()
        near.setblocking(False)
        far.setblocking(False)
        left, right = Recorder(), Recorder()
        first, second = await asyncio.gather(
            loop.create_connection(
                lambda: left, sock=near, ssl=certificates.client(), server_hostname="localhost"
            ),
            loop.connect_accepted_socket(lambda: right, far, ssl=certificates.server()),
        )
        with open(tmp_path / "file", "rb") as file:
            with pytest.raises((RuntimeError, asyncio.SendfileNotAvailableError)):
                await loop.sendfile(first[0], file, fallback=False)
            await loop.sendfile(first[0], file)
        assert await right.got(7) == b"content"
        first[0].close()
        await left.lost
        await right.lost
        assert second[0].is_closing()

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


def test_every_trap_has_its_probe():
    numbers = {int(name.split("_")[2]) for name in globals() if name.startswith("test_trap_")}
    assert numbers == set(range(1, 41))
