"""TLS peers that talk nonsense, and ends in every state: the right exception, and nothing left behind.

What is left in descriptors, tasks and warnings is looked at after every test of the suite; sessions are counted here.
"""

import asyncio
import contextlib
import gc
import socket
import ssl
import weakref

import pytest

from harness import (
    HOST,
    Recorder,
    close_writer,
    recv_exactly,
    remembering,
    scaled,
    spin,
    tcp_pair,
    until,
)


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


JUNK = ["nothing", "plain text", "one byte", "half a hello", "a hello and junk", "an old version"]
JUNK += ["a huge record", "an alert", "zeros"]


@pytest.mark.parametrize("words", JUNK)
def test_a_client_that_says_nonsense(engine, compare, certificates, words):
    """The server's exception is asyncio's, and so is what it answers."""
    said = junk(certificates)[words]

    def scenario(loop, reports):
        near, far = tcp_pair()
        near.setblocking(False)
        far.sendall(said)
        far.shutdown(socket.SHUT_WR)

        async def main():
            with pytest.raises(OSError) as caught:
                await loop.connect_accepted_socket(Recorder, near, ssl=certificates.server())
            await spin(5)
            exc = caught.value
            return type(exc).__name__, getattr(exc, "reason", None), getattr(exc, "library", None)

        found = loop.run_until_complete(main())
        with far, contextlib.suppress(ConnectionResetError):
            far.settimeout(5)
            # Of a whole flight, the length: what is in it is made of chance.
            found += (len(recv_exactly(far, 100_000)),)
        return found

    assert compare(scenario)[0] in ("SSLError", "ConnectionResetError")


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
        made, factory = remembering(Serving)
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
