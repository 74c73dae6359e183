"""The edges of loop.sock_recv and its family: what they are, arguments, addresses, errors."""

import array
import asyncio
import gc
import inspect
import os
import socket
import warnings

import pytest

from harness import HOST, normal, outcome, spin, unix_pair, until

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
def datagrams():
    with (
        socket.socket(type=socket.SOCK_DGRAM) as one,
        socket.socket(type=socket.SOCK_DGRAM) as two,
    ):
        for sock in (one, two):
            sock.bind((HOST, 0))
            sock.setblocking(False)
        yield one, two


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
    "recv more than there is": ("sock_recv", [1 << 63]),
    "recv just too much": ("sock_recv", [(1 << 64) - 1]),
    "recvfrom more than there is": ("sock_recvfrom", [1 << 63]),
    "recvfrom_into more than there is": ("sock_recvfrom_into", [bytearray(3), 1 << 63]),
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


def test_a_bytearray_is_free_when_sending_was_given_up(run, loop):
    """Although tracebacks are kept."""

    async def main():
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            data = bytearray(1_000_000)
            with pytest.raises(TimeoutError) as kept:
                async with asyncio.timeout(0.02):
                    await loop.sock_sendall(left, data)
            data.append(1)
            task = loop.create_task(loop.sock_sendall(left, data))
            await spin(2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as kept_too:
                await task
            data.clear()
            assert kept.tb and kept_too.tb

    run(main())


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


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("state", ["new", "bound", "connected", "shut"])
def test_accepting_where_nothing_listens(compare, state, kind):
    """It fails at once: nobody will ever come."""

    def scenario(loop, reports):
        async def main():
            near, far = socket.socketpair(type=kind)
            alone = socket.socket(type=kind)
            with near, far, alone:
                if state != "new":
                    alone.bind((HOST, 0))
                if state == "shut" and kind == socket.SOCK_STREAM:
                    alone.listen()
                    alone.shutdown(socket.SHUT_RDWR)
                sock = near if state == "connected" else alone
                sock.setblocking(False)
                async with asyncio.timeout(5):
                    await loop.sock_accept(sock)

        return normal(outcome(lambda: loop.run_until_complete(main())))

    assert compare(scenario) is not None


@pytest.mark.parametrize("host", [HOST, "::1", "0:0::1", "localhost", "missing"])
def test_connecting_to_nobody(compare, tmp_path, monkeypatch, host):
    monkeypatch.chdir(tmp_path)
    others = {"::1": socket.AF_INET6, "0:0::1": socket.AF_INET6, "missing": socket.AF_UNIX}
    family = others.get(host, socket.AF_INET)

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
