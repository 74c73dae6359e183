"""The edges of loop.sock_recv and its family: arguments, errors, cancelling, who else uses the fd."""

import array
import asyncio
import gc
import inspect
import os
import socket
import warnings

import pytest

from harness import HOST, connect, normal, outcome, spin, tcp_pair, unix_pair, until

METHODS = [
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendto",
    "sock_connect",
    "sock_accept",
]
ARGUMENTS = {
    "sock_recv": [10],
    "sock_recv_into": [bytearray(10)],
    "sock_recvfrom": [10],
    "sock_recvfrom_into": [bytearray(10)],
    "sock_sendall": [b"data"],
    "sock_sendto": [b"data", (HOST, 9)],
    "sock_connect": [(HOST, 9)],
    "sock_accept": [],
}
WAITING = [name for name in METHODS if "send" not in name and "connect" not in name]


@pytest.fixture
def pair():
    near, far = tcp_pair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


@pytest.fixture
def datagrams():
    with (
        socket.socket(type=socket.SOCK_DGRAM) as one,
        socket.socket(type=socket.SOCK_DGRAM) as two,
    ):
        for sock in (one, two):
            sock.bind((HOST, 0))
            sock.setblocking(False)
        yield one, two


def sources(loop) -> int:
    """How many fds the loop watches; asyncio is asked its own way."""
    return loop._stats()["sources"] if hasattr(loop, "_stats") else len(loop._selector.get_map())


# What kind of thing they are


@pytest.mark.parametrize("name", METHODS)
def test_they_are_coroutine_functions(run, loop, pair, name):
    ours, theirs = getattr(loop, name), getattr(asyncio.SelectorEventLoop, name)
    assert inspect.iscoroutinefunction(ours)

    def parameters(function):
        found = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, p.default) for p in found if p.name != "self"]

    assert parameters(ours) == parameters(theirs)
    coroutine = ours(pair[0], *ARGUMENTS[name])
    assert asyncio.iscoroutine(coroutine) and inspect.iscoroutine(coroutine)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del coroutine
        gc.collect()
    assert [f"{name}' was never awaited" in str(w.message) for w in caught] == [True]


def test_what_is_there_is_taken_without_a_turn(loop, pair):
    near, far = pair
    far.send(b"there")
    coroutine = loop.sock_recv(near, 100)
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value == b"there"
    with pytest.raises(StopIteration):
        loop.sock_sendall(near, b"back").send(None)


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_sockets_that_may_block(compare, name, debug):
    """In debug mode they are refused; otherwise the socket's own timeout counts."""

    def scenario(loop, reports):
        loop.set_debug(debug)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind((HOST, 0))
            sock.settimeout(0.01)
            call = getattr(loop, name)
            return outcome(lambda: loop.run_until_complete(call(sock, *ARGUMENTS[name])))

    result = compare(scenario)
    assert not debug or result == ("ValueError", "the socket must be non-blocking")


@pytest.mark.parametrize("name", METHODS)
def test_tls_sockets(compare, certificates, name):
    def scenario(loop, reports):
        near, far = unix_pair()
        context = certificates.client()
        options = {"server_hostname": "localhost", "do_handshake_on_connect": False}
        with far, context.wrap_socket(near, **options) as wrapped:
            wrapped.setblocking(False)
            call = getattr(loop, name)
            return outcome(lambda: loop.run_until_complete(call(wrapped, *ARGUMENTS[name])))

    assert compare(scenario) == ("TypeError", "Socket cannot be of type SSLSocket")


@pytest.mark.parametrize("name", METHODS)
def test_closed_sockets(compare, name):
    def scenario(loop, reports):
        sock = socket.socket()
        sock.setblocking(False)
        sock.close()
        call = getattr(loop, name)
        return outcome(lambda: loop.run_until_complete(call(sock, *ARGUMENTS[name])))

    assert compare(scenario)[0] == "OSError"


def test_sockets_with_methods_of_their_own(run, loop):
    """A subclass's methods are called, as by asyncio."""
    called = []

    class Own(socket.socket):
        def recv(self, *args):
            called.append("recv")
            return super().recv(*args)

        def send(self, *args):
            called.append("send")
            return super().send(*args)

        def accept(self):
            called.append("accept")
            return super().accept()

        def connect(self, *args):
            called.append("connect")
            return super().connect(*args)

    async def main():
        with Own() as listener, Own() as client:
            for sock in (listener, client):
                sock.setblocking(False)
            listener.bind((HOST, 0))
            listener.listen()
            await loop.sock_connect(client, listener.getsockname())
            conn, _ = await loop.sock_accept(listener)
            with conn:
                await loop.sock_sendall(client, b"x")
                conn.send(b"y")
                await until(lambda: client.recv(1, socket.MSG_PEEK))
                called.remove("recv")
                assert await loop.sock_recv(client, 1) == b"y"

    run(main())
    assert sorted(set(called)) == ["accept", "connect", "recv", "send"]


# Arguments

BAD = {
    "recv negative": ("sock_recv", [-1]),
    "recv text": ("sock_recv", ["5"]),
    "recv float": ("sock_recv", [5.0]),
    "recv huge": ("sock_recv", [1 << 70]),
    "recv none": ("sock_recv", [0]),
    "recv true": ("sock_recv", [True]),
    "recv_into read-only": ("sock_recv_into", [b"abc"]),
    "recv_into nothing": ("sock_recv_into", [bytearray()]),
    "recv_into text": ("sock_recv_into", ["abc"]),
    "recv_into strided": ("sock_recv_into", [memoryview(bytearray(9))[::2]]),
    "recv_into items": ("sock_recv_into", [array.array("I", [0] * 4)]),
    "recvfrom negative": ("sock_recvfrom", [-1]),
    "recvfrom none": ("sock_recvfrom", [0]),
    "recvfrom_into too much": ("sock_recvfrom_into", [bytearray(3), 4]),
    "recvfrom_into negative": ("sock_recvfrom_into", [bytearray(3), -1]),
    "recvfrom_into no length": ("sock_recvfrom_into", [5]),
    "recvfrom_into items": ("sock_recvfrom_into", [array.array("I", [0] * 4)]),
    "sendall text": ("sock_sendall", ["text"]),
    "sendall number": ("sock_sendall", [5]),
    "sendto text": ("sock_sendto", ["text", (HOST, 9)]),
    "sendto nowhere": ("sock_sendto", [b"x", None]),
    "sendto half": ("sock_sendto", [b"x", (HOST,)]),
    "sendto list": ("sock_sendto", [b"x", [HOST, 9]]),
    "sendto port": ("sock_sendto", [b"x", (HOST, 70_000)]),
    "sendto negative port": ("sock_sendto", [b"x", (HOST, -1)]),
    "sendto port's name": ("sock_sendto", [b"x", (HOST, "9")]),
    "sendto four": ("sock_sendto", [b"x", ("::1", 9, 0, 0)]),
    "sendto bytes": ("sock_sendto", [b"x", (b"127.0.0.1", 9)]),
    "sendto name": ("sock_sendto", [b"x", ("localhost", 9)]),
    "sendto too large": ("sock_sendto", [b"x" * 70_000, (HOST, 9)]),
    "connect nowhere": ("sock_connect", [None]),
    "connect half": ("sock_connect", [(HOST,)]),
    "connect port": ("sock_connect", [(HOST, 70_000)]),
    "connect other family": ("sock_connect", [("::1", 9)]),
    "accept": ("sock_accept", []),
}


@pytest.mark.parametrize(("name", "arguments"), BAD.values(), ids=BAD)
def test_odd_arguments(compare, datagrams, name, arguments):
    """Whatever asyncio makes of them, at once: there is a datagram to receive."""

    def scenario(loop, reports):
        one, two = datagrams
        two.sendto(b"there", one.getsockname())
        call = getattr(loop, name)
        found = outcome(lambda: loop.run_until_complete(call(one, *arguments)))
        while outcome(lambda: one.recv(100)) == b"there":
            pass
        if name == "sock_connect":
            outcome(lambda: one.connect(("0.0.0.0", 0)))
        return normal(found)

    compare(scenario)


def test_odd_buffers_of_streams(compare):
    def scenario(loop, reports):
        near, far = unix_pair()
        near.setblocking(False)
        found = []
        with near, far:
            for data in (b"", bytearray(b"ab"), memoryview(b"cdef")[::2], memoryview(b"gh")):
                found.append(
                    outcome(lambda: loop.run_until_complete(loop.sock_sendall(near, data)))
                )
                found.append(far.recv(9) if data and found[-1] is None else None)
            for size in (1, True, 300_000):
                far.send(b"abc")
                found.append(loop.run_until_complete(loop.sock_recv(near, size)))
                near.recv(9) if size == 1 else None
        return found

    compare(scenario)


def test_large_and_small_messages_in_turn(run, loop, pair):
    near, far = pair
    far.setblocking(True)

    async def main():
        for size in (10, 100_000, 50_000, 3, 70_000, 1):
            data = os.urandom(size)
            got = b""
            far.sendall(data)
            while len(got) < size:
                part = await loop.sock_recv(near, 262_144)
                assert type(part) is bytes and part
                got += part
            assert got == data

    run(main())


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
                    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                far.close()
                if ending == "reset":
                    with pytest.raises(ConnectionResetError):
                        await task
                else:
                    assert await task == b""

    run(main())


def test_a_send_fails_while_waiting(run, loop):
    async def main():
        near, far = tcp_pair()
        near.setblocking(False)
        with near:
            task = loop.create_task(loop.sock_sendall(near, b"x" * 20_000_000))
            await asyncio.sleep(0.002)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            far.close()
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


# Addresses


def test_where_datagrams_come_from(compare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def scenario(loop, reports):
        async def main():
            found = []
            for family, names in (
                (socket.AF_INET, [(HOST, 0), (HOST, 0)]),
                (socket.AF_INET6, [("::1", 0), ("::1", 0)]),
                (socket.AF_UNIX, ["one", "two"]),
                (socket.AF_UNIX, ["one", None]),
            ):
                with (
                    socket.socket(family, socket.SOCK_DGRAM) as one,
                    socket.socket(family, socket.SOCK_DGRAM) as two,
                ):
                    for sock, name in ((one, names[0]), (two, names[1])):
                        sock.setblocking(False)
                        if name is not None:
                            sock.bind(name)
                    to = one.getsockname()
                    found.append(await loop.sock_sendto(two, b"hello", to))
                    data, sender = await loop.sock_recvfrom(one, 3)
                    found += [data, type(sender), sender == (two.getsockname() or None)]
                    await loop.sock_sendto(two, memoryview(b"again"), to)
                    buffer = bytearray(8)
                    count, sender = await loop.sock_recvfrom_into(one, buffer, 4)
                    found += [count, bytes(buffer), sender == (two.getsockname() or None)]
                for path in ("one", "two"):
                    if os.path.exists(path):
                        os.unlink(path)
            left, right = socket.socketpair()
            with left, right:
                left.setblocking(False)
                right.send(b"stream")
                found.append(await loop.sock_recvfrom(left, 100))
            return found

        return loop.run_until_complete(main())

    compare(scenario)


def test_a_full_peer_of_datagrams(run, loop):
    """sock_sendto waits for room."""

    async def main():
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, two:
            one.setblocking(False)
            two.setblocking(False)
            sent = 0
            while outcome(lambda: one.send(b"x" * 1000)) == 1000:
                sent += 1
            task = loop.create_task(loop.sock_sendall(one, b"last"))
            await asyncio.sleep(0.002)
            assert not task.done()
            for _ in range(sent):
                assert len(await loop.sock_recv(two, 2000)) == 1000
            await task
            assert await loop.sock_recv(two, 2000) == b"last"

    run(main())


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_connect_and_accept_in_all_families(compare, tmp_path, monkeypatch, family):
    monkeypatch.chdir(tmp_path)

    def scenario(loop, reports):
        async def main():
            with socket.socket(family) as listener, socket.socket(family) as client:
                listener.setblocking(False)
                client.setblocking(False)
                listener.bind(
                    {socket.AF_INET: (HOST, 0), socket.AF_INET6: ("::1", 0)}.get(family, "s")
                )
                listener.listen()
                accepting = loop.create_task(loop.sock_accept(listener))
                await spin(2)
                found = [await loop.sock_connect(client, listener.getsockname())]
                conn, address = await accepting
                with conn:
                    found += [type(conn) is socket.socket, conn.family, conn.type, conn.proto]
                    found += [conn.gettimeout(), conn.get_inheritable(), type(address)]
                    found += [address == client.getsockname(), os.get_blocking(conn.fileno())]
                found.append(await loop.sock_recv(client, 5))
            if os.path.exists("s"):
                os.unlink("s")
            return found

        return loop.run_until_complete(main())

    compare(scenario)


@pytest.mark.parametrize("host", [HOST, "::1", "localhost", "missing"])
def test_connecting_to_nobody(compare, tmp_path, monkeypatch, host):
    monkeypatch.chdir(tmp_path)
    family = {"::1": socket.AF_INET6, "missing": socket.AF_UNIX}.get(host, socket.AF_INET)

    def scenario(loop, reports):
        async def main():
            with socket.socket(family) as unused, socket.socket(family) as client:
                address = "missing"
                if family != socket.AF_UNIX:
                    unused.bind((HOST if host == "localhost" else host, 0))
                    address = (host, unused.getsockname()[1])
                client.setblocking(False)
                try:
                    await loop.sock_connect(client, address)
                except OSError as exc:
                    port = str(address[1]) if family != socket.AF_UNIX else "-"
                    return type(exc), exc.errno, str(exc).replace(port, "N"), len(exc.args)

        return loop.run_until_complete(main())

    assert compare(scenario)[0] in (ConnectionRefusedError, FileNotFoundError)


def test_audit_hooks_hear_of_addresses(script):
    done = script("""
import socket, sys
heard = []
sys.addaudithook(lambda event, args: heard.append((event, args[1])) if event in WANTED else None)
WANTED = ("socket.connect", "socket.sendto")

async def main(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setblocking(False)
        heard.clear()
        await loop.sock_connect(client, listener.getsockname())
        assert heard == [("socket.connect", listener.getsockname())], heard
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        heard.clear()
        await loop.sock_sendto(sock, b"x", ("127.0.0.1", 9))
        assert heard == [("socket.sendto", ("127.0.0.1", 9))], heard
    print("heard")

loop = new_event_loop()
loop.run_until_complete(main(loop))
loop.close()
""")
    assert done.stdout == "heard\n"


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
