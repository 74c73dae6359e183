"""TLS clients and servers: streams, closing, timeouts, errors of the protocol."""

import asyncio
import contextlib
import socket
import ssl

import pytest

from harness import (
    HOST,
    Recorder,
    close_writer,
    echo,
    outcome,
    pattern,
    silent,
    spin,
    tcp_pair,
    tls_pair,
    tls_server,
    until,
)

pytestmark = pytest.mark.usefixtures("engine")


def test_three_megabytes(run, certificates):
    data = pattern(3_000_000)

    async def main():
        async with tls_server(echo, certificates.server()) as port:
            reader, writer = await asyncio.open_connection(HOST, port, ssl=certificates.client())

            async def send():
                writer.write(data)
                await writer.drain()

            sending = asyncio.ensure_future(send())
            assert await reader.readexactly(len(data)) == data
            await sending
            await close_writer(writer)

    run(main())


def test_a_slow_reader_over_tls(run, certificates):
    data = pattern(3_000_000)

    async def handler(reader, writer):
        writer.write(data)
        await writer.drain()

    async def main():
        async with tls_server(handler, certificates.server()) as port:
            reader, writer = await asyncio.open_connection(
                HOST, port, ssl=certificates.client(), limit=8192
            )
            parts, count = [], 0
            while count < len(data):
                part = await reader.read(20_000)
                assert part
                parts.append(part)
                count += len(part)
                if len(parts) % 40 == 0:
                    await asyncio.sleep(0)
            assert b"".join(parts) == data
            await close_writer(writer)

    run(main())


def test_small_messages(run, certificates):
    async def main():
        async with tls_server(echo, certificates.server()) as port:
            reader, writer = await asyncio.open_connection(HOST, port, ssl=certificates.client())
            for number in range(100):
                message = b"%d" % number
                writer.write(message)
                assert await reader.readexactly(len(message)) == message
            await close_writer(writer)

    run(main())


def test_extra_info(run, certificates):
    async def main():
        async with tls_server(echo, certificates.server()) as port:
            _, writer = await asyncio.open_connection(HOST, port, ssl=certificates.client())
            transport = writer.transport
            assert isinstance(transport, asyncio.Transport)
            assert isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
            assert isinstance(transport.get_extra_info("sslcontext"), ssl.SSLContext)
            names = transport.get_extra_info("peercert")["subjectAltName"]
            assert ("DNS", "localhost") in names
            assert transport.get_extra_info("cipher")[1].startswith("TLS")
            assert transport.get_extra_info("compression") is None
            assert transport.get_extra_info("peername") == (HOST, port)
            assert isinstance(transport.get_extra_info("socket"), asyncio.trsock.TransportSocket)
            assert transport.get_extra_info("nonsense", 5) == 5
            assert repr(transport)
            assert transport.can_write_eof() is False
            await close_writer(writer)

    run(main())


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)
def test_versions(run, certificates, version):
    async def main():
        client = certificates.client()
        client.minimum_version = client.maximum_version = version
        async with tls_server(echo, certificates.server()) as port:
            reader, writer = await asyncio.open_connection(HOST, port, ssl=client)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            assert writer.get_extra_info("ssl_object").version() == version.name.replace("_", ".")
            await close_writer(writer)

    run(main())


def test_no_common_version(run, reports, certificates):
    async def main():
        server, client = certificates.server(), certificates.client()
        server.minimum_version = ssl.TLSVersion.TLSv1_3
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        async with tls_server(silent, server) as port:
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await asyncio.open_connection(HOST, port, ssl=client)
            await asyncio.sleep(0.005)

    run(main())
    reports.messages()


def test_plain_text_on_a_tls_port(run, loop, reports, certificates):
    """The server tells, drops the client and goes on."""

    async def main():
        async with tls_server(echo, certificates.server()) as port:
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            await close_writer(writer)
            await asyncio.sleep(0.005)
            reader, writer = await asyncio.open_connection(HOST, port, ssl=certificates.client())
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await close_writer(writer)

    loop.set_debug(False)
    run(main())
    assert all("SSL" in message for message in reports.messages())


def test_tls_to_a_plain_text_port(run, certificates):
    async def handler(reader, writer):
        writer.write(b"220 smtp.example ESMTP, hello there\r\n")
        writer.close()

    async def main():
        server = await asyncio.start_server(handler, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(HOST, port, ssl=certificates.client())
        server.close()
        await spin(5)

    run(main())


@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_peer_leaves_inside_the_handshake(compare, certificates, how):
    from harness import reset

    def scenario(loop, reports):
        near, far = tcp_pair()
        near.setblocking(False)

        async def main():
            task = asyncio.ensure_future(
                loop.create_connection(
                    Recorder, sock=near, ssl=certificates.client(), server_hostname="localhost"
                )
            )
            await asyncio.sleep(0.002)
            far.recv(5000)
            if how == "close":
                far.close()
            else:
                reset(far)
            try:
                await task
            except Exception as exc:
                return type(exc).__name__

        return loop.run_until_complete(main())

    assert compare(scenario) in ("ConnectionResetError", "SSLError", "SSLEOFError")


def test_a_handshake_timeout_on_the_client(run, loop, certificates):
    async def main():
        near, far = tcp_pair()
        near.setblocking(False)
        start = loop.time()
        with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer than"):
            await loop.create_connection(
                Recorder,
                sock=near,
                ssl=certificates.client(),
                server_hostname="localhost",
                ssl_handshake_timeout=0.03,
            )
        assert 0.03 <= loop.time() - start < 1
        far.settimeout(2)
        while far.recv(5000):
            pass
        far.close()

    run(main())


def test_a_handshake_timeout_on_the_server(run, loop, reports, certificates):
    async def main():
        async with tls_server(echo, certificates.server(), ssl_handshake_timeout=0.03) as port:
            sock = socket.create_connection((HOST, port))
            sock.setblocking(False)
            assert await asyncio.wait_for(loop.sock_recv(sock, 10), 2) == b""
            sock.close()
            await spin(3)

    run(main())
    assert len(reports.messages()) <= 1


def test_a_shutdown_timeout(run, loop, certificates):
    """A peer that never answers close_notify does not hold the connection for ever."""

    async def main():
        first, second = await tls_pair(loop, certificates, ssl_shutdown_timeout=0.03)
        second[0]._ssl_protocol._transport.pause_reading() if hasattr(
            second[0], "_ssl_protocol"
        ) else None
        start = loop.time()
        first[0].close()
        await asyncio.wait_for(first[1].lost, 5)
        assert loop.time() - start < 2
        second[0].abort()
        await asyncio.wait_for(second[1].lost, 5)

    run(main())


def test_closing_tells_the_peer(run, loop, certificates):
    """close_notify arrives: the peer sees a clean end after all the data."""
    data = pattern(500_000)

    async def handler(reader, writer):
        writer.write(data)

    async def main():
        async with tls_server(handler, certificates.server()) as port:
            context = certificates.client()
            reader, writer = await asyncio.open_connection(HOST, port, ssl=context)
            assert await reader.read() == data
            await close_writer(writer)

    run(main())


@pytest.mark.zloop_only("asyncio takes what comes after a close for an error")
@pytest.mark.parametrize("paused", [False, True])
def test_closing_before_all_has_come(run, loop, certificates, paused):
    """Nobody wants the rest, and the end is as clean as any."""

    async def handler(reader, writer):
        writer.write(pattern(500_000))
        assert await reader.read() == b""

    async def main():
        async with tls_server(handler, certificates.server()) as port:
            transport, protocol = await loop.create_connection(
                Recorder, HOST, port, ssl=certificates.client()
            )
            if paused:
                transport.pause_reading()
                await spin()
            transport.close()
            assert await protocol.lost is None

    run(main())


def test_abort(run, loop, certificates):
    async def main():
        (transport, protocol), (peer, accepted) = await tls_pair(loop, certificates)
        transport.write(b"x" * 3_000_000)
        transport.abort()
        assert await protocol.lost is None
        await accepted.lost

    run(main())


def test_writing_and_pausing(run, loop, certificates):
    async def main():
        (transport, protocol), (peer, accepted) = await tls_pair(loop, certificates)
        peer.pause_reading()
        transport.set_write_buffer_limits(high=100_000)
        data = pattern(15_000_000)
        transport.write(data[:10_000_000])
        transport.write(data[10_000_000:])
        assert "pause" in protocol.names
        peer.resume_reading()
        assert await accepted.got(len(data)) == data
        await until(lambda: "resume" in protocol.names)
        transport.close()
        await protocol.lost
        await accepted.lost

    run(main())


@pytest.mark.parametrize("method", ["data_received", "eof_received"])
def test_protocol_methods_that_raise(compare, certificates, method):
    def scenario(loop, reports):
        class Raising(Recorder):
            pass

        def call(self, *args):
            raise ZeroDivisionError("boom")

        setattr(Raising, method, call)
        loop.set_debug(False)

        async def main():
            protocol = Raising()
            server = await loop.create_server(lambda: protocol, HOST, 0, ssl=certificates.server())
            address = server.sockets[0].getsockname()
            transport, client = await loop.create_connection(
                Recorder, *address, ssl=certificates.client()
            )
            transport.write(b"x")
            await asyncio.sleep(0.005)
            transport.close()
            await client.lost
            await protocol.lost
            server.close()
            await spin(5)

        loop.run_until_complete(main())
        return reports.messages()

    assert len(compare(scenario)) >= 1


def test_hosts_by_name_with_ssl_true_fail_cleanly(run, certificates):
    async def main():
        with pytest.raises(OSError):
            await asyncio.open_connection("localhost", 1, ssl=True)

    run(main())


def test_sessions_of_several_clients(run, certificates):
    async def client(port, number):
        reader, writer = await asyncio.open_connection(HOST, port, ssl=certificates.client())
        message = b"%d" % number * 1000
        writer.write(message)
        assert await reader.readexactly(len(message)) == message
        await close_writer(writer)

    async def main():
        async with tls_server(echo, certificates.server()) as port:
            await asyncio.gather(*(client(port, number) for number in range(20)))

    run(main())


def test_tls_over_unix_sockets(run, certificates, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def main():
        async def handler(reader, writer):
            writer.write(await reader.readexactly(4))
            await close_writer(writer)

        server = await asyncio.start_unix_server(handler, "s", ssl=certificates.server())
        reader, writer = await asyncio.open_unix_connection(
            "s", ssl=certificates.client(), server_hostname="localhost"
        )
        writer.write(b"unix")
        assert await reader.read() == b"unix"
        await close_writer(writer)
        server.close()
        await spin(5)

    run(main())


BAD = {
    "name without ssl": {"server_hostname": "x"},
    "handshake timeout without ssl": {"ssl_handshake_timeout": 1},
    "shutdown timeout without ssl": {"ssl_shutdown_timeout": 1},
    "negative timeout": {"ssl": True, "ssl_handshake_timeout": -1},
    "zero timeout": {"ssl": True, "ssl_shutdown_timeout": 0},
    "odd context": {"ssl": object()},
}


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("options", BAD.values(), ids=BAD)
def test_what_is_refused(compare, options):
    def scenario(loop, reports):
        with socket.create_server((HOST, 0)) as listener:
            address = listener.getsockname()
            return outcome(
                lambda: loop.run_until_complete(
                    loop.create_connection(Recorder, *address, **options)
                )
            )

    result = compare(scenario)
    assert result[0] in ("ValueError", "TypeError", "AttributeError")
