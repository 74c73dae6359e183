"""The edges of datagram transports: full peers, closing, errors, odd sockets, many datagrams at once."""

import asyncio
import contextvars
import gc
import logging
import os
import socket
import warnings

import pytest

from harness import HOST, PY, normal, outcome, run_turns, spin, until
from test_datagram import Datagrams, close, endpoints


@pytest.fixture
def unix(tmp_path, monkeypatch):
    """Addresses of Unix sockets are file names in an empty folder."""
    monkeypatch.chdir(tmp_path)


async def stuffed(loop, name="far"):
    """A transport whose peer, a plain Unix socket, takes nothing more, and how many fitted."""
    far = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    far.bind(name)
    far.setblocking(False)
    transport, protocol = await loop.create_datagram_endpoint(
        Datagrams, remote_addr=name, family=socket.AF_UNIX
    )
    fitted = 0
    while not transport.get_write_buffer_size():
        transport.sendto(b"%6d" % fitted)
        fitted += 1
    return far, transport, protocol, fitted - 1


def shown(transport) -> str:
    """A transport's repr without what its class is called."""
    return normal(transport).split(" ", 1)[1]


# A peer that takes no more


def test_what_does_not_fit_is_kept(run, loop, unix):
    async def main():
        far, transport, protocol, fitted = await stuffed(loop)
        with far:
            header = 8 if PY >= (3, 13) else 0
            assert transport.get_write_buffer_size() == 6 + header
            data = bytearray(b"changed")
            transport.sendto(data)
            data[:] = b"XXXXXXX"
            transport.sendto(memoryview(b"last"))
            assert transport.get_write_buffer_size() == 6 + 7 + 4 + 3 * header
            assert "write=<polling" in repr(transport)
            expected = [b"%6d" % number for number in range(fitted + 1)] + [b"changed", b"last"]
            got = []
            while len(got) < len(expected):
                got.append(await loop.sock_recv(far, 100))
            assert got == expected
            await until(lambda: "write=<idle" in repr(transport))
            # CPython 3.13.0 counts headers when it keeps datagrams, and not when it sends them.
            assert transport.get_write_buffer_size() == 0 or PY == (3, 13)
            transport.sendto(b"and on")
            assert await loop.sock_recv(far, 100) == b"and on"
            await close((transport, protocol))

    run(main())


def test_pausing_and_resuming(compare, unix):
    def scenario(loop, reports):
        async def main():
            far, transport, protocol, fitted = await stuffed(loop)
            with far:
                transport.set_write_buffer_limits(high=100, low=20)
                found = [transport.get_write_buffer_limits()]
                for number in range(12):
                    transport.sendto(b"%20d" % number)
                    found.append((transport.get_write_buffer_size(), *protocol.events))
                taken = 0
                while "resume" not in protocol.events or taken < fitted + 13:
                    await loop.sock_recv(far, 100)
                    taken += 1
                    await spin(3)
                found.append(taken)
                await close((transport, protocol))
            os.unlink("far")
            return found + protocol.events

        return loop.run_until_complete(main())

    compare(scenario)


def test_limits_that_are_refused(compare):
    def scenario(loop, reports):
        async def main():
            transport, protocol = await loop.create_datagram_endpoint(
                Datagrams, local_addr=(HOST, 0)
            )
            given = [{"high": 5, "low": 9}, {"low": -1}, {"high": 0}, {"low": 7}, {}]
            found = []
            for limits in given:
                found.append(outcome(lambda: transport.set_write_buffer_limits(**limits)))
                found.append(transport.get_write_buffer_limits())
            await close((transport, protocol))
            return found

        return loop.run_until_complete(main())

    compare(scenario)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_closing_while_something_waits(compare, unix, how):
    def scenario(loop, reports):
        async def main():
            far, transport, protocol, fitted = await stuffed(loop)
            with far:
                getattr(transport, how)()
                found = [transport.is_closing(), shown(transport)]
                await spin(3)
                found += [protocol.lost.done(), transport.get_write_buffer_size()]
                got = 0
                while not protocol.lost.done() or outcome(lambda: far.recv(100)) == b"%6d" % got:
                    got += outcome(lambda: far.recv(100)) is not None
                    await spin()
                found += [await protocol.lost, shown(transport)]
            os.unlink("far")
            return found + protocol.events

        return loop.run_until_complete(main())

    result = compare(scenario)
    assert result[2] is (how == "abort")


def test_an_error_while_something_waits(compare, unix):
    """The peer goes: asyncio tells of one error for each datagram that waits, and stays open."""

    def scenario(loop, reports):
        async def main():
            far, transport, protocol, fitted = await stuffed(loop)
            transport.sendto(b"second")
            far.close()
            os.unlink("far")
            await until(lambda: len(protocol.errors) >= 2)
            await spin(3)
            found = [type(error).__name__ for error in protocol.errors]
            found += [
                transport.is_closing(),
                transport.get_write_buffer_size() if PY != (3, 13) else 0,
            ]
            transport.abort()
            await protocol.lost
            return found + protocol.events

        return loop.run_until_complete(main())

    compare(scenario)


# What may be sent, and where to

ODD = {
    "text": ["text"],
    "number": [5],
    "list": [[1]],
    "nothing": [None],
    "strided": [memoryview(b"abcdef")[::2]],
    "wrong address": [b"x", (HOST, 1)],
    "same address by name": [b"x", "remote"],
    "empty": [b""],
    "empty bytearray": [bytearray()],
    "too large": [b"x" * 70_000],
}


@pytest.mark.parametrize("kind", ["connected", "open", "broadcast"])
@pytest.mark.parametrize("arguments", ODD.values(), ids=ODD)
def test_odd_datagrams(compare, kind, arguments):
    def scenario(loop, reports):
        async def main():
            server = await loop.create_datagram_endpoint(Datagrams, local_addr=(HOST, 0))
            to = server[0].get_extra_info("sockname")
            options = {"remote_addr": to, "allow_broadcast": kind == "broadcast" or None}
            if kind == "open":
                options = {"local_addr": (HOST, 0)}
            client = await loop.create_datagram_endpoint(Datagrams, **options)
            data, *where = [to if item == "remote" else item for item in arguments]
            if kind == "open" and not where:
                where = [to]
            found = [outcome(lambda: client[0].sendto(data, *where))]
            found.append([(type(exc).__name__, exc.args) for exc in client[1].errors])
            await asyncio.sleep(0.01)
            found += [client[0].is_closing(), [data for data, _ in server[1].received]]
            for transport, protocol in (server, client):
                if not protocol.lost.done():
                    await close((transport, protocol)) if not transport.is_closing() else None
            return [normal(item).replace(str(to[1]), "N") for item in found] + reports.messages()

        return loop.run_until_complete(main())

    compare(scenario)


ADDRESSES = {
    "name": lambda port: ("localhost", port),
    "four": lambda port: (HOST, port, 0, 0),
    "list": lambda port: [HOST, port],
    "half": lambda port: (HOST,),
    "text": lambda port: "text",
    "port's name": lambda port: (HOST, str(port)),
    "port too large": lambda port: (HOST, 70_000),
    "port below zero": lambda port: (HOST, -1),
    "port true": lambda port: (HOST, True),
    "bytes": lambda port: (HOST.encode(), port),
    "other family": lambda port: ("::1", port),
    "nothing": lambda port: None,
    "equal": lambda port: (str(HOST), int(port)),
    "leading zeros": lambda port: ("127.0.0.01", port),
    "short form": lambda port: ("127.1", port),
}


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
def test_odd_addresses(compare, address):
    def scenario(loop, reports):
        async def main():
            server = await loop.create_datagram_endpoint(Datagrams, local_addr=(HOST, 0))
            port = server[0].get_extra_info("sockname")[1]
            client = await loop.create_datagram_endpoint(Datagrams, local_addr=(HOST, 0))
            found = [outcome(lambda: client[0].sendto(b"x", address(port)))]
            await asyncio.sleep(0.005)
            found += [client[0].is_closing(), len(server[1].received)]
            found += [(type(exc).__name__, str(exc)) for exc in client[1].errors]
            await close(server)
            client[0].close()
            lost = await client[1].lost
            found += [type(lost).__name__, str(lost)]
            return found + reports.messages()

        return loop.run_until_complete(main())

    compare(scenario)


def test_arguments_by_name(run, loop):
    async def main():
        server, client = await endpoints(loop)
        client[0].sendto(data=b"one", addr=None)
        client[0].sendto(b"two", addr=server[0].get_extra_info("sockname"))
        await until(lambda: len(server[1].received) == 2)
        for bad in (lambda: client[0].sendto(), lambda: client[0].sendto(b"x", to=None)):
            with pytest.raises(TypeError):
                bad()
        await close(server, client)

    run(main())


def test_broadcast(run, loop):
    """The only address, of a socket that is not connected."""

    async def main():
        server = await loop.create_datagram_endpoint(Datagrams, local_addr=(HOST, 0))
        to = server[0].get_extra_info("sockname")
        client = await loop.create_datagram_endpoint(
            Datagrams, remote_addr=to, allow_broadcast=True
        )
        assert client[0].get_extra_info("peername") is None
        client[0].sendto(b"one")
        client[0].sendto(b"two", to)
        with pytest.raises(ValueError, match="Invalid address: must be None or"):
            client[0].sendto(b"three", (HOST, 1))
        await until(lambda: len(server[1].received) == 2)
        await close(server, client)

    run(main())


def test_a_connected_socket_of_ones_own(run, loop):
    """asyncio does not know its address, and sends to the peer whatever is asked for."""

    async def main():
        server = await loop.create_datagram_endpoint(Datagrams, local_addr=(HOST, 0))
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.connect(server[0].get_extra_info("sockname"))
        client = await loop.create_datagram_endpoint(Datagrams, sock=sock)
        client[0].sendto(b"one")
        client[0].sendto(b"two", ("192.0.2.1", 1))
        await until(lambda: len(server[1].received) == 2)
        await close(server, client)

    run(main())


def test_v6_addresses(run, loop):
    async def main():
        server = await loop.create_datagram_endpoint(Datagrams, local_addr=("::1", 0))
        to = server[0].get_extra_info("sockname")
        client = await loop.create_datagram_endpoint(Datagrams, local_addr=("::1", 0))
        for number, address in enumerate([to, to[:2], to[:3], ("0:0::1", to[1])]):
            client[0].sendto(b"x", address)
            await until(lambda number=number: len(server[1].received) == number + 1)
        assert [addr for _, addr in server[1].received] == [
            client[0].get_extra_info("sockname")
        ] * 4
        server[0].sendto(b"back", server[1].received[0][1])
        await until(lambda: client[1].received == [(b"back", to)])
        await close(server, client)

    run(main())


def test_nameless_senders(compare, unix):
    def scenario(loop, reports):
        async def main():
            server = await loop.create_datagram_endpoint(
                Datagrams, local_addr="server", family=socket.AF_UNIX
            )
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
                nameless.sendto(b"who", "server")
                await until(lambda: server[1].received)
            await close(server)
            return server[1].received

        return loop.run_until_complete(main())

    assert compare(scenario) == [(b"who", None)]


def test_many_peers_get_their_own_answers(run, loop):
    """More of them than addresses are remembered."""

    async def main():
        class Echo(Datagrams):
            def datagram_received(self, data, addr):
                assert type(addr) is tuple and type(addr[0]) is str and type(addr[1]) is int
                self.transport.sendto(data, addr)

        server = await loop.create_datagram_endpoint(Echo, local_addr=(HOST, 0))
        to = server[0].get_extra_info("sockname")
        peers = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(60)]
        for peer in peers:
            peer.setblocking(False)
        for turn in range(3):
            for number, peer in enumerate(peers):
                await loop.sock_sendto(peer, b"%d" % (turn * 100 + number), to)
            for number, peer in enumerate(peers):
                assert await loop.sock_recv(peer, 100) == b"%d" % (turn * 100 + number)
        for peer in peers:
            peer.close()
        await close(server)

    run(main())


# What comes


async def crowded(loop, protocol, count):
    """A transport with `count` datagrams waiting in its socket, and the address to send more to."""
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    with socket.socket(type=socket.SOCK_DGRAM) as far:
        for number in range(count):
            far.sendto(b"%d" % number, sock.getsockname())
    transport, protocol = await loop.create_datagram_endpoint(lambda: protocol, sock=sock)
    return transport, protocol


def numbers(protocol) -> list[int]:
    return [int(data) for data, _ in protocol.received]


@pytest.mark.parametrize("method", ["pause_reading", "close", "abort"])
def test_nothing_comes_after_it_was_stopped(run, loop, method):
    class Stopping(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if len(self.received) % 3 == 0:
                getattr(self.transport, method)()

    async def main():
        transport, protocol = await crowded(loop, Stopping(), 20)
        await asyncio.sleep(0.005)
        assert numbers(protocol) == [0, 1, 2]
        if method == "pause_reading":
            assert not transport.is_reading() and "read=idle" in repr(transport)
            while len(protocol.received) < 20:
                transport.resume_reading()
                transport.resume_reading()
                assert transport.is_reading() and "read=polling" in repr(transport)
                await asyncio.sleep(0.001)
            assert numbers(protocol) == list(range(20))
            transport.close()
        await protocol.lost

    run(main())


def test_exceptions_cost_one_datagram_each(compare):
    def scenario(loop, reports):
        class Raising(Datagrams):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                if int(data) % 4 == 1:
                    raise ZeroDivisionError(data.decode())

        async def main():
            transport, protocol = await crowded(loop, Raising(), 40)
            await until(lambda: len(protocol.received) == 40)
            assert not transport.is_closing()
            await close((transport, protocol))
            return numbers(protocol)

        found = loop.run_until_complete(main())
        told = reports.take(10)
        return found, [(str(c["exception"]), sorted(c), c["message"][:21]) for c in told]

    compare(scenario)


def test_an_interrupt_leaves_the_rest_for_the_next_run(compare):
    def scenario(loop, reports):
        class Interrupting(Datagrams):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.pause_reading()

            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                if int(data) == 5:
                    raise KeyboardInterrupt

        async def start():
            return await crowded(loop, Interrupting(), 20)

        transport, protocol = loop.run_until_complete(start())
        transport.resume_reading()
        with pytest.raises(KeyboardInterrupt):
            run_turns(loop, 100)
        found = [numbers(protocol)]
        loop.run_until_complete(until(lambda: len(protocol.received) == 20))
        transport.close()
        loop.run_until_complete(protocol.lost)
        return [*found, numbers(protocol)]

    compare(scenario)


def test_others_get_their_turn(run, loop):
    """A crowd of datagrams does not keep callbacks waiting."""
    turns = []

    class Counting(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if not turns or turns[-1] is None:
                turns.append(len(self.received))
                loop.call_soon(turns.append, None)

    async def main():
        transport, protocol = await crowded(loop, Counting(), 200)
        await until(lambda: len(protocol.received) == 200)
        assert len([turn for turn in turns if turn]) >= 200 // 16
        await close((transport, protocol))

    run(main())


def test_a_slow_protocol_lets_others_have_their_turn_sooner(run, loop):
    import time

    seen = []

    class Slow(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            time.sleep(0.015)
            loop.call_soon(seen.append, len(self.received))

    async def main():
        transport, protocol = await crowded(loop, Slow(), 12)
        await until(lambda: len(protocol.received) >= 2)
        assert len(protocol.received) < 12, "one turn took all of them"
        await close((transport, protocol))

    run(main())


def test_sizes_up_to_the_largest(run, loop, unix):
    """What is longer than asyncio's limit of 256 KiB is cut off there."""

    async def main():
        server = await loop.create_datagram_endpoint(
            Datagrams, local_addr="server", family=socket.AF_UNIX
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            sizes = [0, 1, 65_536, 200_000, 262_144, 262_145, 300_000]
            try:
                far.sendto(b"x" * sizes[-1], "server")
            except OSError as exc:
                pytest.skip(f"the system sends no datagrams of {sizes[-1]} bytes: {exc}")
            await until(lambda: server[1].received)
            server[1].received.clear()
            for size in sizes:
                far.sendto(b"x" * size, "server")
                await until(lambda: server[1].received)
                assert len(server[1].received.pop()[0]) == min(size, 262_144)
        await close(server)

    run(main())


def test_the_context_of_calls(compare):
    variable = contextvars.ContextVar("variable", default="none")

    def scenario(loop, reports):
        found = []

        class Noting(Datagrams):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                found.append((data, variable.get()))
                variable.set("changed")

        async def main():
            variable.set("made")
            transport, protocol = await crowded(loop, Noting(), 3)
            await until(lambda: len(found) == 3)
            transport.pause_reading()
            variable.set("resumed")
            transport.resume_reading()
            variable.set("later")
            transport.sendto(b"9", transport.get_extra_info("sockname"))
            await until(lambda: len(found) == 4)
            await close((transport, protocol))

        loop.run_until_complete(main())
        return found

    compare(scenario)


def test_the_protocol_can_change(run, loop):
    async def main():
        server, client = await endpoints(loop)
        other = Datagrams()
        server[0].set_protocol(other)
        assert server[0].get_protocol() is other
        client[0].sendto(b"x")
        await until(lambda: other.received)
        assert not server[1].received
        server[0].close()
        await other.lost
        await close(client)

    run(main())


# Errors that protocols raise in turn


def test_an_exception_of_error_received_comes_out_of_sendto(compare):
    def scenario(loop, reports):
        class Raising(Datagrams):
            def error_received(self, exc):
                super().error_received(exc)
                raise ZeroDivisionError("told")

        async def main():
            transport, protocol = await loop.create_datagram_endpoint(Raising, local_addr=(HOST, 0))
            found = [outcome(lambda: transport.sendto(b"x" * 70_000, (HOST, 9)))]
            found.append(transport.is_closing())
            await close((transport, protocol))
            return found

        return loop.run_until_complete(main())

    assert compare(scenario)[0] == ("ZeroDivisionError", "told")


# Closing


@pytest.mark.parametrize("kind", ["connected", "open"])
def test_sending_after_the_end(compare, caplog, kind):
    """A connected one drops it, the sixth time with a warning; the other fails as asyncio's does."""

    def scenario(loop, reports):
        caplog.clear()

        async def main():
            server, client = await endpoints(loop)
            transport, protocol = client if kind == "connected" else server
            transport.close()
            to = None if kind == "connected" else (HOST, 9)
            found = [outcome(lambda: transport.sendto(b"x", to)) for _ in range(3)]
            await protocol.lost
            await spin()
            found += [outcome(lambda: transport.sendto(b"x", to)) for _ in range(5)]
            found += [transport._conn_lost, transport._sock, transport._loop, shown(transport)]
            await close(server if kind == "connected" else client)
            return found

        with caplog.at_level(logging.WARNING, "asyncio"):
            found = loop.run_until_complete(main())
        return [normal(item) for item in found], [record.getMessage() for record in caplog.records]

    compare(scenario)


def test_what_is_shown(compare):
    def scenario(loop, reports):
        async def main():
            server, client = await endpoints(loop)
            found = []
            for transport, protocol in (server, client):
                found += [shown(transport), sorted(transport._extra), transport.is_reading()]
                found += [transport.get_extra_info("nothing", 5), transport.max_size]
                found += [
                    isinstance(transport, kind)
                    for kind in (asyncio.Transport, asyncio.BaseTransport)
                ]
                transport.pause_reading()
                transport.pause_reading()
                found.append(shown(transport))
                transport.close()
                found.append(shown(transport))
                await protocol.lost
                await spin()
                found.append(shown(transport))
            return found

        return loop.run_until_complete(main())

    compare(scenario)


def test_one_that_is_dropped_warns(compare):
    def scenario(loop, reports):
        async def main():
            transport, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=(HOST, 0))
            return transport

        transport = loop.run_until_complete(main())
        loop._remove_reader(transport._sock_fd)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del transport
            gc.collect()
        return sorted(str(w.message).split("<")[0] for w in caught)

    assert "unclosed transport " in compare(scenario)


def test_the_loop_is_closed_first(script):
    done = script("""
import warnings
loop = new_event_loop()
made = loop.run_until_complete(loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)))
loop.close()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    del made
    import gc; gc.collect()
print(len(caught), "unclosed transport" in str(caught[0].message))
""")
    assert done.stdout == "1 True\n"


# Sockets


@pytest.mark.parametrize("paused", [False, True])
def test_the_socket_of_a_transport_is_taken(compare, paused):
    def scenario(loop, reports):
        async def main():
            sock = socket.socket(type=socket.SOCK_DGRAM)
            sock.bind((HOST, 0))
            transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=sock)
            if paused:
                transport.pause_reading()
            found = []
            for use in (
                lambda: loop.sock_recv(sock, 10),
                lambda: loop.sock_recvfrom(sock, 10),
                lambda: loop.create_datagram_endpoint(Datagrams, sock=sock),
            ):
                try:
                    await asyncio.wait_for(use(), 1)
                except RuntimeError as exc:
                    found.append(normal(exc).split(" is used by transport ")[1].split(" ")[0][:1])
            found.append(outcome(lambda: loop.add_reader(sock, print))[0])
            await close((transport, protocol))
            return found

        return loop.run_until_complete(main())

    compare(scenario)


def test_sockets_with_methods_of_their_own(run, loop):
    called = set()

    class Own(socket.socket):
        def recvfrom(self, *args):
            called.add("recvfrom")
            return super().recvfrom(*args)

        def sendto(self, *args):
            called.add("sendto")
            return super().sendto(*args)

    async def main():
        sock = Own(type=socket.SOCK_DGRAM)
        sock.bind((HOST, 0))
        transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=sock)
        transport.sendto(b"to myself", sock.getsockname())
        await until(lambda: protocol.received)
        await close((transport, protocol))

    run(main())
    assert called == {"recvfrom", "sendto"}


# For a long time


def test_soak(run, loop):
    class Echo(Datagrams):
        def datagram_received(self, data, addr):
            self.transport.sendto(data, addr)

    class Asking(Datagrams):
        count = 0

        def datagram_received(self, data, addr):
            assert data == b"%d" % self.count
            self.count += 1
            if self.count == self.until:
                self.done.set_result(None)
            else:
                self.transport.sendto(b"%d" % self.count)

        async def ask(self, count):
            self.done = asyncio.get_running_loop().create_future()
            self.until = self.count + count
            self.transport.sendto(b"%d" % self.count)
            await self.done

    async def main():
        server = await loop.create_datagram_endpoint(Echo, local_addr=(HOST, 0))
        client = await loop.create_datagram_endpoint(
            Asking, remote_addr=server[0].get_extra_info("sockname")
        )
        counts = []
        for _ in range(2):
            await client[1].ask(5000)
            gc.collect()
            counts.append((len(gc.get_objects()), len(os.listdir("/dev/fd"))))
        assert counts[1][1] == counts[0][1] and counts[1][0] - counts[0][0] < 100
        await close(server, client)

    run(main())


def test_many_endpoints_come_and_go(run, loop):
    async def main():
        counts = []
        for round_ in range(3):
            for _ in range(100):
                server, client = await endpoints(loop)
                client[0].sendto(b"x")
                await close(server, client)
            del server, client
            await spin(3)
            gc.collect()
            counts.append((len(gc.get_objects()), len(os.listdir("/dev/fd"))))
        assert counts[2][1] == counts[1][1] and counts[2][0] - counts[1][0] < 100

    run(main())
