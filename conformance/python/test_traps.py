"""One probe for each trap that caught the users of some event loop; the number is the trap's.

Files and lifetime are 1 to 11, scheduling and time 12 to 17, types 18 to 22; the rest is in
test_traps_system.py. Most have a fuller test in the file of their subject; this is the list.
"""

import asyncio
import contextvars
import gc
import socket
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
            assert isinstance(sock, asyncio.trsock.TransportSocket)
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
        assert PY < (3, 13) or callable(server.close_clients)

    run(main())


@pytest.mark.parametrize(
    "host", ["127.1", "fe80::1%lo", "", None, "::", "0x7f.1", "1.2.3.4.5", "127.0.0.1"]
)
def test_trap_23_numeric_hosts(run, loop, host):
    for port in (80, "80", None, 0):
        options = {"type": socket.SOCK_STREAM, "flags": socket.AI_NUMERICHOST | socket.AI_CANONNAME}
        expected = outcome(lambda: socket.getaddrinfo(host, port, **options))
        assert outcome(lambda: run(loop.getaddrinfo(host, port, **options))) == expected


def test_every_trap_has_its_probe():
    import test_traps_system

    names = [*globals(), *vars(test_traps_system)]
    numbers = {int(name.split("_")[2]) for name in names if name.startswith("test_trap_")}
    assert numbers == set(range(1, 41))
