"""Peers that do not mean well, many at once: the right exception, and nothing left behind.

What is left in descriptors, tasks and warnings is looked at after every test of the suite; sessions are counted here.
"""

import asyncio
import contextlib
import gc
import socket
import ssl
import weakref

import pytest

from harness import HOST, Recorder, close_writer, echo, reset, scaled, spin, tls_server, until

CROWD = 100


@pytest.fixture(params=["direct", "portable"])
def engine(request, loop_factory, monkeypatch):
    """Has loops that are made from here on use this engine."""
    if request.param == "portable":
        if not loop_factory.is_zloop:
            pytest.skip("asyncio has one engine")
        monkeypatch.setenv("ZLOOP_TLS", "portable")
    return request.param


def hello(certificates) -> bytes:
    """The first bytes of a client."""
    outgoing = ssl.MemoryBIO()
    session = certificates.client().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def junk(certificates) -> dict[str, bytes]:
    first = hello(certificates)
    return {
        "nothing": b"",
        "plain text": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "one byte": first[:1],
        "half a hello": first[: len(first) // 2],
        "a hello and junk": first + b"\x17\x03\x03\x00\x20" + b"?" * 32,
        "an old version": b"\x80\x2e\x01\x00\x02" + b"\0" * 41,
        "a huge record": b"\x16\x03\x01\xff\xff" + b"\0" * 70_000,
        "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
        "zeros": b"\0" * 1000,
    }


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_crowd_at_a_server(engine, loop, reports, certificates, leave):
    """Each says something wrong and leaves; honest clients are served all the while."""
    loop.set_debug(False)

    async def honest(port):
        reader, writer = await asyncio.open_connection(HOST, port, ssl=certificates.client())
        writer.write(b"x" * 5000)
        assert await reader.readexactly(5000) == b"x" * 5000
        await close_writer(writer)

    async def main():
        loop = asyncio.get_running_loop()
        async with tls_server(echo, certificates.server()) as port:
            crowd = []
            for number, words in enumerate(list(junk(certificates).values()) * (CROWD // 9)):
                sock = socket.socket()
                sock.setblocking(False)
                await loop.sock_connect(sock, (HOST, port))
                with contextlib.suppress(OSError):
                    await loop.sock_sendall(sock, words)
                crowd.append(sock)
                if number % 20 == 0:
                    await honest(port)
            for sock in crowd:
                sock.close() if leave == "close" else reset(sock)
            await honest(port)
            await asyncio.sleep(0.02)

    loop.run_until_complete(main())
    reports.messages()


@pytest.mark.parametrize("words", ["plain text", "an alert", "a huge record", "zeros"])
def test_a_server_that_answers_nonsense(engine, compare, certificates, words):
    """The client's exception is asyncio's."""
    answer = junk(certificates)[words]

    def scenario(loop, reports):
        async def main():
            async def serve(reader, writer):
                writer.write(answer)
                with contextlib.suppress(OSError):
                    await reader.read()
                await close_writer(writer)

            server = await asyncio.start_server(serve, HOST, 0)
            port = server.sockets[0].getsockname()[1]
            try:
                await asyncio.open_connection(
                    HOST, port, ssl=certificates.client(), server_hostname="localhost"
                )
            except OSError as exc:
                found = (
                    type(exc).__name__,
                    getattr(exc, "reason", None),
                    getattr(exc, "library", None),
                    exc.errno,
                )
            server.close()
            await asyncio.sleep(0.01)
            return found

        return loop.run_until_complete(main())

    assert compare(scenario)[0] in ("SSLError", "ConnectionResetError")


def test_a_crowd_that_never_answers(engine, loop, certificates):
    """All of them are given up after the timeout."""

    async def main():
        loop = asyncio.get_running_loop()
        silent = socket.create_server((HOST, 0), backlog=CROWD)
        address = silent.getsockname()

        async def client():
            with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer"):
                await loop.create_connection(
                    Recorder,
                    *address,
                    ssl=certificates.client(),
                    server_hostname="localhost",
                    ssl_handshake_timeout=0.3,
                )

        await asyncio.gather(*(client() for _ in range(scaled(CROWD))))
        silent.close()

    loop.run_until_complete(main())


@pytest.mark.parametrize("state", ["handshake", "connected", "writing", "closing"])
@pytest.mark.parametrize("how", ["close", "abort", "vanish", "reset"])
def test_an_end_in_every_state(engine, loop, reports, certificates, state, how):
    """Whoever ends a connection, and whenever: one connection_lost for each connection_made."""
    loop.set_debug(False)
    sessions = weakref.WeakSet()

    class Serving(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            sessions.add(transport.get_extra_info("ssl_object"))

    async def connection(address):
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        protocol = Recorder()
        making = asyncio.ensure_future(
            loop.create_connection(
                lambda: protocol, sock=sock, ssl=certificates.client(), server_hostname="localhost",
                ssl_shutdown_timeout=0.5,
            )
        )  # fmt: skip
        if state == "handshake":
            await spin(2)
            making.cancel() if how in ("close", "abort") else sock.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                transport, _ = await making
                transport.abort()
            return
        transport, _ = await making
        sessions.add(transport.get_extra_info("ssl_object"))
        if state == "writing":
            transport.write(b"x" * 3_000_000)
        elif state == "closing":
            transport.write(b"x" * 300_000)
            transport.close()
        if how == "close":
            transport.close()
        elif how == "abort":
            transport.abort()
        else:
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            sock.shutdown(socket.SHUT_RDWR)
        await asyncio.wait_for(protocol.lost, 10)
        assert protocol.names.count("lost") == 1 and protocol.names[-1] == "lost"

    async def main():
        made = []

        def factory():
            made.append(Serving())
            return made[-1]

        server = await loop.create_server(
            factory, HOST, 0, ssl=certificates.server(), ssl_shutdown_timeout=0.5
        )
        address = server.sockets[0].getsockname()
        await asyncio.gather(*(connection(address) for _ in range(scaled(20))))
        await until(lambda: all(p.lost.done() for p in made if p.transport), 10)
        server.close()
        await asyncio.sleep(0.02)

    loop.run_until_complete(main())
    gc.collect()
    assert not sessions, "sessions are left"
    reports.messages()
