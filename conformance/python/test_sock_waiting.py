"""loop.sock_recv and its family while they wait: cancelling, who else uses the fd, a long time."""

import asyncio
import gc
import os
import socket

import pytest

from harness import HOST, connect, reset, spin, tcp_pair, unix_pair, until
from test_sock_edges import ARGUMENTS, WAITING


def sources(loop) -> int:
    """How many fds the loop watches; asyncio is asked its own way."""
    return loop._stats()["sources"] if hasattr(loop, "_stats") else len(loop._selector.get_map())


# Waiting, and being cancelled


@pytest.mark.parametrize("name", WAITING)
def test_cancelling_leaves_nothing_behind(run, loop, pair, name):
    near, far = pair

    async def main():
        with socket.create_server((HOST, 0)) as listener:
            listener.setblocking(False)
            sock = listener if name == "sock_accept" else near
            before = sources(loop)
            for turns in range(4):
                task = loop.create_task(getattr(loop, name)(sock, *ARGUMENTS[name]))
                await spin(turns)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await spin()
                assert sources(loop) == before
                assert loop.remove_reader(sock) is False
        far.send(b"intact")
        assert await loop.sock_recv(near, 100) == b"intact"

    run(main())


def test_a_send_that_is_cancelled_leaves_nothing_behind(run, loop, pair):
    near, far = pair

    async def main():
        before = sources(loop)
        task = loop.create_task(loop.sock_sendall(near, b"x" * 20_000_000))
        await asyncio.sleep(0.002)
        assert sources(loop) == before + 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await spin()
        assert sources(loop) == before

    run(main())


def test_a_connection_that_is_cancelled_leaves_nothing_behind(run, loop):
    async def main():
        with socket.socket() as listener:
            listener.bind((HOST, 0))
            listener.listen(0)
            crowd = [socket.socket() for _ in range(4)]
            for sock in crowd:
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
            before = sources(loop)
            with socket.socket() as client:
                client.setblocking(False)
                task = loop.create_task(loop.sock_connect(client, listener.getsockname()))
                await asyncio.sleep(0.002)
                assert not task.done(), "the backlog has room for more than was thought"
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await spin()
                assert sources(loop) == before
            for sock in crowd:
                sock.close()

    run(main())


@pytest.mark.zloop_only("asyncio has read by then, and drops what it read")
def test_what_comes_together_with_the_cancel_is_not_lost(run, loop, pair):
    near, far = pair

    async def main():
        for turns in range(6):
            task = loop.create_task(loop.sock_recv(near, 100))
            await spin(2)
            far.send(b"%d" % turns)
            await spin(turns)
            task.cancel()
            try:
                got = await task
            except asyncio.CancelledError:
                got = await loop.sock_recv(near, 100)
            assert got == b"%d" % turns

    run(main())


@pytest.mark.zloop_only("asyncio has accepted by then, and drops the connection")
def test_a_connection_that_comes_together_with_the_cancel_is_not_lost(run, loop):
    async def main():
        with socket.create_server((HOST, 0)) as listener:
            listener.setblocking(False)
            for turns in range(5):
                task = loop.create_task(loop.sock_accept(listener))
                await spin(2)
                with socket.create_connection(listener.getsockname()) as client:
                    await spin(turns)
                    task.cancel()
                    try:
                        conn, address = await task
                    except asyncio.CancelledError:
                        conn, address = await loop.sock_accept(listener)
                    with conn:
                        assert address == client.getsockname()

    run(main())


@pytest.mark.zloop_only("asyncio goes on watching for a coroutine that is gone")
def test_a_coroutine_that_is_closed_leaves_nothing_behind(run, loop, pair):
    async def main():
        before = sources(loop)
        coroutine = loop.sock_recv(pair[0], 100)
        coroutine.send(None)
        assert sources(loop) == before + 1
        coroutine.close()
        assert sources(loop) == before

    run(main())


def test_the_socket_is_closed_meanwhile(run, loop):
    async def main():
        near, far = tcp_pair()
        near.setblocking(False)
        with far:
            task = loop.create_task(loop.sock_recv(near, 100))
            await spin(2)
            near.close()
            await spin(2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        # The number is another file's now.
        one, two = unix_pair()
        with one, two:
            one.setblocking(False)
            task = loop.create_task(loop.sock_recv(one, 100))
            await spin(2)
            two.send(b"new")
            assert await task == b"new"

    run(main())


def test_the_other_end_goes_while_waiting(run, loop):
    async def main():
        for ending in ("close", "reset"):
            near, far = tcp_pair()
            near.setblocking(False)
            with near:
                task = loop.create_task(loop.sock_recv(near, 100))
                await spin(2)
                if ending == "reset":
                    reset(far)
                    with pytest.raises(ConnectionResetError):
                        await task
                else:
                    far.close()
                    assert await task == b""

    run(main())


def test_a_send_fails_while_waiting(run, loop):
    async def main():
        near, far = tcp_pair()
        near.setblocking(False)
        with near:
            task = loop.create_task(loop.sock_sendall(near, b"x" * 20_000_000))
            await asyncio.sleep(0.002)
            reset(far)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await task

    run(main())


def test_what_is_sent_may_change_but_not_shrink(run, loop, pair):
    near, far = pair

    async def main():
        data = bytearray(b"a" * 8_000_000)
        task = loop.create_task(loop.sock_sendall(near, data))
        await asyncio.sleep(0.002)
        assert not task.done()
        data[-1:] = b"z"
        with pytest.raises(BufferError):
            data.clear()
        count, last = 0, b""
        while count < len(data):
            last = await loop.sock_recv(far, 1 << 20)
            count += len(last)
        await task
        assert last.endswith(b"az")
        data.clear()

    run(main())


# Who else uses the fd


def test_a_reader_takes_the_place_of_a_receiver(compare):
    def scenario(loop, reports):
        async def main():
            near, far = tcp_pair()
            near.setblocking(False)
            called = []
            with near, far:
                task = loop.create_task(loop.sock_recv(near, 100))
                await spin(2)
                loop.add_reader(near, called.append, 1)
                far.send(b"x")
                await until(lambda: called)
                found = [task.done()]
                task.cancel()
                await asyncio.wait([task])
                await spin(2)
                # The reader is still there.
                found += [task.cancelled(), loop.remove_reader(near), loop.remove_reader(near)]
            return found

        return loop.run_until_complete(main())

    assert compare(scenario) == [False, True, True, False]


def test_a_receiver_takes_the_place_of_a_reader(compare):
    def scenario(loop, reports):
        async def main():
            near, far = tcp_pair()
            near.setblocking(False)
            called = []
            with near, far:
                loop.add_reader(near, called.append, 1)
                loop.add_writer(near, called.append, 2)
                task = loop.create_task(loop.sock_recv(near, 100))
                await spin(2)
                called.clear()
                far.send(b"x")
                found = [await task, 1 in called]
                await spin(2)
                found += [2 in called, loop.remove_reader(near), loop.remove_writer(near)]
            return found

        return loop.run_until_complete(main())

    assert compare(scenario) == [b"x", False, True, False, True]


def test_a_receiver_is_removed(compare):
    def scenario(loop, reports):
        async def main():
            near, far = tcp_pair()
            near.setblocking(False)
            with near, far:
                task = loop.create_task(loop.sock_recv(near, 100))
                await spin(2)
                found = [loop.remove_reader(near), loop.remove_reader(near)]
                far.send(b"x")
                await asyncio.sleep(0.005)
                found.append(task.done())
                task.cancel()
                await asyncio.wait([task])
                found.append(await loop.sock_recv(near, 100))
            return found

        return loop.run_until_complete(main())

    assert compare(scenario) == [True, False, False, b"x"]


def test_two_receivers(compare):
    def scenario(loop, reports):
        async def main():
            near, far = tcp_pair()
            near.setblocking(False)
            with near, far:
                tasks = [loop.create_task(loop.sock_recv(near, 1)) for _ in range(2)]
                await spin(2)
                far.send(b"x")
                await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
                found = [task.done() for task in tasks]
                tasks[0].cancel()
                await asyncio.wait(tasks)
                return [*found, tasks[1].result(), tasks[0].cancelled()]

        return loop.run_until_complete(main())

    assert compare(scenario) == [False, True, b"x", True]


@pytest.mark.parametrize("name", WAITING[:4])
def test_the_socket_of_a_transport(compare, name):
    def scenario(loop, reports):
        async def main():
            near, far = tcp_pair()
            with far:
                transport, protocol = await connect(near)
                try:
                    await getattr(loop, name)(near, *ARGUMENTS[name])
                except RuntimeError as exc:
                    return str(exc).split("<")[0].replace(str(near.fileno()), "N")
                finally:
                    transport.abort()
                    await protocol.lost

        return loop.run_until_complete(main())

    assert compare(scenario) == "File descriptor N is used by transport "


@pytest.mark.zloop_only("asyncio's transport hears nothing from the start")
@pytest.mark.parametrize("name", ["sock_recv", "sock_sendall"])
def test_a_transport_with_the_fd_of_a_socket_that_was_closed(run, loop, name):
    """Whoever gives up waiting for the old file takes nothing from the new one."""

    async def main():
        gone, peer = unix_pair()
        gone.setblocking(False)
        arguments = [b"x" * 5_000_000] if name == "sock_sendall" else ARGUMENTS[name]
        task = loop.create_task(getattr(loop, name)(gone, *arguments))
        await asyncio.sleep(0.002)
        number = gone.fileno()
        gone.close()
        with peer:
            near, far = unix_pair()
            if far.fileno() == number:
                near, far = far, near
            assert near.fileno() == number
            before = sources(loop)
            transport, protocol = await connect(near)
            far.send(b"before")
            assert await protocol.got(6) == b"before"
            task.cancel()
            await asyncio.wait([task])
            far.send(b" and after")
            assert await protocol.got(16) == b"before and after"
            assert sources(loop) == before
            with pytest.raises(RuntimeError):
                loop.add_reader(number, print)
            transport.abort()
            await protocol.lost
            assert sources(loop) == before - 1
            far.close()

    run(main())


# For a long time


def test_soak(run, loop, pair):
    """Ten thousand round trips, a third of them cancelled once, leave nothing behind."""
    near, far = pair

    async def echo():
        while data := await loop.sock_recv(far, 1000):
            await loop.sock_sendall(far, data)

    async def main():
        echoing = loop.create_task(echo())
        await spin(2)
        before = None
        for number in range(10_000):
            if number % 3 == 0:
                task = loop.create_task(loop.sock_recv(near, 1000))
                await spin(number % 2 + 1)
                task.cancel()
                await asyncio.wait([task])
            message = b"%d" % number
            await loop.sock_sendall(near, message)
            assert await loop.sock_recv(near, 1000) == message
            if number % 5000 == 1000:
                await spin(2)
                gc.collect()
                now = sources(loop), len(gc.get_objects()), len(os.listdir("/dev/fd"))
                before = before or now
        assert now[0] == before[0] and now[2] == before[2]
        assert now[1] - before[1] < 200
        near.close()
        await echoing

    run(main())


def test_a_storm_of_cancels(run, loop):
    async def main():
        pairs = [unix_pair() for _ in range(100)]
        for near, _ in pairs:
            near.setblocking(False)
        before = sources(loop)
        for round_ in range(20):
            tasks = [loop.create_task(loop.sock_recv(near, 10)) for near, _ in pairs]
            await spin(round_ % 4)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await spin()
            assert sources(loop) == before
        for near, far in pairs:
            far.send(b"fine")
            assert await loop.sock_recv(near, 10) == b"fine"
            near.close()
            far.close()

    run(main())
