"""Datagram transports receiving and closing: crowds, exceptions, contexts, sockets of other kinds, a long time."""

import asyncio
import contextvars
import gc
import logging
import os
import socket
import time
import warnings

import pytest

from harness import HOST, PY, normal, outcome, run_turns, spin, until
from test_datagram import Datagrams, close, endpoints
from test_datagram_edges import shown

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


def test_sizes_up_to_the_largest(run, loop, tmp_path, monkeypatch):
    """What is longer than asyncio's limit of 256 KiB is cut off there."""
    monkeypatch.chdir(tmp_path)

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


def test_sending_after_the_end(compare, caplog):
    """A connected one drops it, the sixth time with a warning. See test_sending_without_a_peer_after_the_end, too."""

    def scenario(loop, reports):
        caplog.clear()

        async def main():
            server, client = await endpoints(loop)
            transport, protocol = client
            transport.close()
            found = [outcome(lambda: transport.sendto(b"x")) for _ in range(3)]
            await protocol.lost
            await spin()
            found += [outcome(lambda: transport.sendto(b"x")) for _ in range(5)]
            found += [transport._conn_lost, transport._sock, transport._loop, shown(transport)]
            await close(server)
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
            uses = [lambda: loop.sock_recv(sock, 10), lambda: loop.sock_recvfrom(sock, 10)]
            if PY >= (3, 12):  # asyncio did not look before
                uses.append(lambda: loop.create_datagram_endpoint(Datagrams, sock=sock))
            for use in uses:
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
