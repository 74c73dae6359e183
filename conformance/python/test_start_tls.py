"""start_tls: upgrading a connection that has been talking already."""

import asyncio
import contextlib
import inspect
import ssl

import pytest

from harness import (
    HOST,
    BufferedRecorder,
    Recorder,
    outcome,
    pattern,
    piped,
    spin,
    tcp_pair,
    until,
)

pytestmark = pytest.mark.usefixtures("engine")


async def both_sides(loop, left, right):
    """Two transports that are connected with each other."""
    near, far = tcp_pair()
    near.setblocking(False)
    far.setblocking(False)
    one, _ = await loop.create_connection(lambda: left, sock=near)
    two, _ = await loop.connect_accepted_socket(lambda: right, far)
    return one, two


@pytest.mark.parametrize("buffered", [False, True], ids=["plain", "buffered"])
def test_upgrade(run, loop, certificates, buffered):
    kind = BufferedRecorder if buffered else Recorder

    async def main():
        left, right = kind(), kind()
        one, two = await both_sides(loop, left, right)
        one.write(b"STARTTLS")
        await right.got(8)
        two.write(b"OK")
        await left.got(2)
        new_left, new_right = kind(), kind()
        secure_one, secure_two = await asyncio.gather(
            loop.start_tls(one, new_left, certificates.client(), server_hostname="localhost"),
            loop.start_tls(two, new_right, certificates.server(), server_side=True),
        )
        assert isinstance(secure_one.get_extra_info("ssl_object"), ssl.SSLObject)
        assert secure_one.get_extra_info("peername") == one.get_extra_info("peername")
        data = pattern(1_000_000)
        secure_one.write(data)
        assert await new_right.got(len(data)) == data
        secure_two.write(b"answer")
        assert await new_left.got(6) == b"answer"
        secure_one.close()
        await new_left.lost
        await new_right.lost
        assert left.names[0] == "made" and "lost" not in left.names

    run(main())


def test_stream_writer_start_tls(run, certificates):
    async def handler(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"OK\n")
        await writer.drain()
        await writer.start_tls(certificates.server())
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        finished.set_result(None)

    async def main():
        nonlocal finished
        finished = asyncio.get_running_loop().create_future()
        server = await asyncio.start_server(handler, HOST, 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"OK\n"
        await writer.start_tls(certificates.client(), server_hostname="localhost")
        assert writer.get_extra_info("ssl_object") is not None
        for word in (b"one\n", b"two\n"):
            writer.write(word)
            assert await reader.readline() == word.upper()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        await finished
        server.close()
        await spin(5)

    finished = None
    run(main())


def test_the_client_hello_that_came_along(run, loop, loop_factory, certificates):
    """The peer sends its last plain line and the start of the handshake in one piece.

    Older versions of asyncio lose the second part; zloop keeps it on all of them.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer_tls = certificates.client().wrap_bio(incoming, outgoing, server_hostname="localhost")

    def handshake(peer):
        for _ in range(20):
            try:
                peer_tls.do_handshake()
                peer.sendall(outgoing.read())
                return
            except ssl.SSLWantReadError:
                peer.sendall(outgoing.read())
                data = peer.recv(65536)
                if not data:
                    raise ConnectionError("no answer") from None
                incoming.write(data)

    async def main():
        near, far = tcp_pair()
        near.setblocking(False)
        far.settimeout(0.5)
        reader, writer = await asyncio.open_connection(sock=near)
        with pytest.raises(ssl.SSLWantReadError):
            peer_tls.do_handshake()
        far.sendall(b"STARTTLS\n" + outgoing.read())
        assert await reader.readline() == b"STARTTLS\n"
        answering = loop.run_in_executor(None, lambda: outcome(lambda: handshake(far)))
        upgraded = loop.create_task(
            loop.start_tls(
                writer.transport, writer.transport.get_protocol(), certificates.server(),
                server_side=True, ssl_handshake_timeout=0.2,
            )
        )  # fmt: skip
        await asyncio.wait([upgraded])
        result = await answering
        if upgraded.exception() is None:
            upgraded.result().abort()
        else:
            writer.close()
        far.close()
        await asyncio.sleep(0.002)
        return upgraded.exception(), result

    kept = loop_factory.is_zloop or "_stream_reader" in inspect.getsource(loop.start_tls)
    assert (run(main()) == (None, None)) is kept


def test_bytes_that_arrive_while_paused(run, loop, certificates):
    """A server that pauses, upgrades and resumes sees the whole handshake."""

    async def main():
        left, right = Recorder(), Recorder()
        one, two = await both_sides(loop, left, right)
        two.pause_reading()
        new_left, new_right = Recorder(), Recorder()
        upgrading = asyncio.ensure_future(
            loop.start_tls(one, new_left, certificates.client(), server_hostname="localhost")
        )
        await asyncio.sleep(0.005)
        assert right.names == ["made"]
        # start_tls resumes reading by itself.
        secure_two = await loop.start_tls(two, new_right, certificates.server(), server_side=True)
        secure_one = await upgrading
        secure_one.write(b"hello")
        assert await new_right.got(5) == b"hello"
        secure_two.close()
        await new_right.lost
        await new_left.lost

    run(main())


def test_a_failed_handshake(run, loop, reports, certificates):
    async def main():
        left, right = Recorder(), Recorder()
        one, two = await both_sides(loop, left, right)
        results = await asyncio.gather(
            loop.start_tls(
                one, Recorder(), ssl.create_default_context(), server_hostname="localhost"
            ),
            loop.start_tls(two, Recorder(), certificates.server(), server_side=True),
            return_exceptions=True,
        )
        assert isinstance(results[0], ssl.SSLCertVerificationError)
        for result in results:
            if isinstance(result, asyncio.Transport):
                result.abort()
        await asyncio.sleep(0.002)

    run(main())
    reports.messages()


def test_a_handshake_timeout(run, loop, certificates):
    async def main():
        async with piped() as (transport, protocol, peer):
            start = loop.time()
            with pytest.raises(ConnectionAbortedError):
                await loop.start_tls(
                    transport, Recorder(), certificates.client(), server_hostname="localhost",
                    ssl_handshake_timeout=0.03,
                )  # fmt: skip
            assert loop.time() - start >= 0.03
            protocol.lost.cancel()  # the old protocol is out of the game
            await spin(3)

    run(main())


def test_cancelling_the_upgrade(run, loop, certificates):
    async def main():
        async with piped() as (transport, protocol, peer):
            task = loop.create_task(
                loop.start_tls(
                    transport, Recorder(), certificates.client(), server_hostname="localhost"
                )
            )
            await asyncio.sleep(0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert transport.is_closing()
            protocol.lost.cancel()
            await spin(3)

    run(main())


def test_tls_inside_tls(run, loop, certificates):
    async def main():
        left, right = Recorder(), Recorder()
        one, two = await both_sides(loop, left, right)
        protocols = [(Recorder(), Recorder()) for _ in range(2)]
        for new_left, new_right in protocols:
            one, two = await asyncio.gather(
                loop.start_tls(one, new_left, certificates.client(), server_hostname="localhost"),
                loop.start_tls(two, new_right, certificates.server(), server_side=True),
            )
        data = pattern(200_000)
        one.write(data)
        assert await protocols[1][1].got(len(data)) == data
        one.close()
        await protocols[1][0].lost
        await until(lambda: two.is_closing())
        two.abort()
        await spin(10)

    run(main())


@pytest.mark.parametrize("what", ["no context", "no transport"])
def test_what_is_refused(compare, certificates, what):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                if what == "no context":
                    call = loop.start_tls(transport, protocol, None)
                else:
                    call = loop.start_tls(asyncio.Transport(), protocol, certificates.client())
                try:
                    await call
                except Exception as exc:
                    return type(exc).__name__, str(exc).split("<")[0]

        return loop.run_until_complete(main())

    assert compare(scenario)[0] == "TypeError"
