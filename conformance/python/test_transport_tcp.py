"""The TCP transport: a connection's life, reading, half close, options of create_connection."""

import asyncio
import socket

import pytest

from harness import (
    HOST,
    PY,
    Recorder,
    connect,
    outcome,
    pattern,
    piped,
    recv_exactly,
    serving,
    spin,
    tcp_pair,
    unix_pair,
    until,
)

both_kinds = pytest.mark.parametrize("sockets", [tcp_pair, unix_pair], ids=["tcp", "unix"])


# A connection's life


@both_kinds
def test_a_whole_life(run, sockets):
    async def main():
        async with piped(sockets=sockets) as (transport, protocol, peer):
            assert protocol.events == [("made",)]
            assert protocol.transport is transport
            peer.send(b"one")
            await protocol.got(3)
            transport.write(b"two")
            await spin(2)
            assert peer.recv(10) == b"two"
            peer.close()
            assert await protocol.lost is None
            assert protocol.events == [("made",), ("data", b"one"), ("eof",), ("lost", None)]
            assert transport.is_closing()

    run(main())


def test_kinds(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            assert isinstance(transport, asyncio.Transport)
            assert isinstance(transport, asyncio.ReadTransport)
            assert isinstance(transport, asyncio.WriteTransport)
            assert transport.get_protocol() is protocol
            assert transport.is_reading()
            assert not transport.is_closing()
            assert transport.can_write_eof() is True

    run(main())


def test_create_connection_returns_after_connection_made(run, loop):
    async def main():
        async with serving(Recorder) as (server, address):
            protocol = Recorder()
            transport, same = await loop.create_connection(lambda: protocol, *address)
            assert same is protocol and protocol.events[0] == ("made",)
            assert protocol.transport is transport
            transport.close()
            await protocol.lost

    run(main())


def test_connection_made_runs_before_data(run, loop):
    """Data that waits in the socket already comes after connection_made, in a later callback."""

    async def main():
        near, far = tcp_pair()
        far.send(b"early")
        transport, protocol = await connect(near)
        assert protocol.names == ["made"]
        await protocol.got(5)
        assert protocol.names == ["made", "data"]
        far.close()
        await protocol.lost

    run(main())


def test_data_and_end_in_one_go(run):
    async def main():
        near, far = tcp_pair()
        far.send(b"all of it")
        far.close()
        transport, protocol = await connect(near)
        await protocol.lost
        assert bytes(protocol.data) == b"all of it"
        assert protocol.names == ["made", "data", "eof", "lost"]

    run(main())


def test_sockets_are_taken_non_blocking(run, loop):
    async def main():
        async with piped() as (transport, protocol, peer):
            assert transport.get_extra_info("socket").gettimeout() == 0

    run(main())


# Reading


def test_large_reads_arrive_whole(run, loop):
    data = pattern(5_000_000)

    async def main():
        async with piped() as (transport, protocol, peer):
            sending = loop.run_in_executor(None, peer.sendall, data)
            assert await protocol.got(len(data)) == data
            await sending

    run(main())


def test_pause_and_resume_reading(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            transport.pause_reading()
            assert not transport.is_reading()
            peer.send(b"held back")
            await asyncio.sleep(0.005)
            assert protocol.names == ["made"]
            transport.resume_reading()
            assert transport.is_reading()
            assert await protocol.got(9) == b"held back"

    run(main())


def test_pausing_twice_and_resuming_twice(compare):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                results = [outcome(transport.pause_reading) for _ in range(2)]
                results.append(transport.is_reading())
                results += [outcome(transport.resume_reading) for _ in range(2)]
                results.append(transport.is_reading())
                transport.close()
                results += [outcome(transport.pause_reading), outcome(transport.resume_reading)]
                results.append(transport.is_reading())
                await protocol.lost
                results += [outcome(transport.pause_reading), outcome(transport.resume_reading)]
                return results

        return loop.run_until_complete(main())

    compare(scenario)


def test_pause_inside_data_received(run):
    """Nothing more comes after the protocol asked for a pause, whatever was read ahead."""

    class Pausing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    async def main():
        async with piped(Pausing()) as (transport, protocol, peer):
            data = pattern(1_000_000)
            sending = asyncio.get_running_loop().run_in_executor(None, peer.sendall, data)
            while len(protocol.data) < len(data):
                calls = len(protocol.events)
                await until(lambda: not transport.is_reading())
                await spin(3)
                assert len(protocol.events) <= calls + 1
                transport.resume_reading()
                await spin(2)
            await sending
            assert bytes(protocol.data) == data

    run(main())


def test_pause_inside_connection_made(run):
    class Pausing(Recorder):
        def connection_made(self, transport):
            transport.pause_reading()
            super().connection_made(transport)

    async def main():
        near, far = tcp_pair()
        far.send(b"x")
        transport, protocol = await connect(near, Pausing())
        await asyncio.sleep(0.005)
        assert protocol.names == ["made"] and not transport.is_reading()
        transport.resume_reading()
        await protocol.got(1)
        far.close()
        await protocol.lost

    run(main())


def test_pausing_holds_back_the_end_too(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            transport.pause_reading()
            peer.send(b"last")
            peer.close()
            await asyncio.sleep(0.005)
            assert protocol.names == ["made"]
            transport.resume_reading()
            await protocol.lost
            assert protocol.names == ["made", "data", "eof", "lost"]

    run(main())


# Half close


@both_kinds
@pytest.mark.parametrize("keep", [True, 1, "yes"])
def test_a_true_eof_received_keeps_the_transport_open(run, sockets, keep):
    async def main():
        protocol = Recorder()
        protocol.keep_open = keep
        async with piped(protocol, sockets) as (transport, _, peer):
            peer.shutdown(socket.SHUT_WR)
            await protocol.eof
            await spin(3)
            assert not transport.is_closing()
            transport.write(b"still here")
            await spin(2)
            assert peer.recv(20) == b"still here"
            transport.close()
            assert await protocol.lost is None
            assert peer.recv(20) == b""
            assert protocol.names == ["made", "eof", "lost"]

    run(main())


@pytest.mark.parametrize("keep", [False, None, 0])
def test_a_false_eof_received_closes(run, keep):
    async def main():
        protocol = Recorder()
        protocol.keep_open = keep
        async with piped(protocol) as (transport, _, peer):
            peer.shutdown(socket.SHUT_WR)
            assert await protocol.lost is None
            assert protocol.names == ["made", "eof", "lost"]

    run(main())


def test_end_of_stream_is_told_once(run):
    async def main():
        protocol = Recorder()
        protocol.keep_open = True
        async with piped(protocol) as (transport, _, peer):
            peer.shutdown(socket.SHUT_WR)
            await protocol.eof
            await asyncio.sleep(0.005)
            assert protocol.names == ["made", "eof"]

    run(main())


def test_a_kept_open_transport_does_not_spin(run):
    """After the end of the stream the socket stays readable; the loop must not look at it."""
    import time

    async def main():
        protocol = Recorder()
        protocol.keep_open = True
        async with piped(protocol) as (transport, _, peer):
            peer.shutdown(socket.SHUT_WR)
            await protocol.eof
            before = time.process_time()
            await asyncio.sleep(0.1)
            assert time.process_time() - before < 0.06

    run(main())


@both_kinds
def test_write_eof(run, sockets):
    async def main():
        async with piped(sockets=sockets) as (transport, protocol, peer):
            transport.write(b"request")
            transport.write_eof()
            transport.write_eof()
            await spin(2)
            assert recv_exactly(peer, 100) == b"request"
            peer.send(b"answer")
            assert await protocol.got(6) == b"answer"
            assert not transport.is_closing()
            with pytest.raises(RuntimeError, match=r"Cannot call write\(\) after write_eof\(\)"):
                transport.write(b"more")

    run(main())


def test_write_eof_after_a_large_write(run, loop):
    data = pattern(5_000_000)

    async def main():
        async with piped() as (transport, protocol, peer):
            transport.write(data)
            transport.write_eof()
            assert await loop.run_in_executor(None, recv_exactly, peer, len(data) + 1) == data

    run(main())


def test_writing_after_write_eof_like_asyncio(compare):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                transport.write_eof()
                return [
                    outcome(lambda: transport.write(b"x")),
                    outcome(lambda: transport.writelines([b"x"])),
                    outcome(lambda: transport.write(b"")),
                    outcome(transport.write_eof),
                    outcome(transport.can_write_eof),
                ]

        return loop.run_until_complete(main())

    assert compare(scenario)[0] == ("RuntimeError", "Cannot call write() after write_eof()")


# connect_accepted_socket, create_connection's options


def test_connect_accepted_socket(run, loop):
    async def main():
        with socket.create_server((HOST, 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
        transport, protocol = await loop.connect_accepted_socket(Recorder, accepted)
        client.send(b"hello")
        assert await protocol.got(5) == b"hello"
        client.close()
        await protocol.lost

    run(main())


def test_local_addr_and_family(run, loop):
    async def main():
        async with serving(Recorder) as (server, address):
            transport, protocol = await loop.create_connection(
                Recorder, *address, family=socket.AF_INET, local_addr=(HOST, 0)
            )
            assert transport.get_extra_info("sockname")[0] == HOST
            transport.close()
            await protocol.lost

    run(main())


@pytest.mark.skipif(PY < (3, 12), reason="create_connection(all_errors=) is new in Python 3.12")
def test_all_errors(run, loop):
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port = sock.getsockname()[1]
        with pytest.raises(ExceptionGroup) as caught:
            run(loop.create_connection(Recorder, "localhost", port, all_errors=True))
    assert all(isinstance(exc, ConnectionRefusedError) for exc in caught.value.exceptions)


def test_v6(run, loop):
    async def main():
        server = await loop.create_server(Recorder, "::1", 0)
        transport, protocol = await loop.create_connection(
            Recorder, *server.sockets[0].getsockname()[:2]
        )
        assert transport.get_extra_info("peername") == server.sockets[0].getsockname()
        assert len(transport.get_extra_info("sockname")) == 4
        transport.close()
        await protocol.lost
        server.close()
        await spin(5)

    run(main())
