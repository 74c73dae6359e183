"""TLS sessions that end with something still to say: what was written arrives, whatever ends them."""

import asyncio
import contextlib
import gc
import ssl
import sys
import types

import pytest

from harness import Recorder, loop_objects, pattern, serving, spin, tcp_pair, until
from test_tls_records import Lender, Link, Peer


def read_all(link) -> bytes:
    """What the peer has been sent until now."""
    with contextlib.suppress(ssl.SSLZeroReturnError):
        link.peer.feed(link.wire.take())
    return bytes(link.peer.data)


@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
def test_an_end_while_reading_is_paused(engine, loop, certificates, size):
    """The peer ends the stream below and goes on reading: it gets all, as fast as the transport below takes it."""

    async def main():
        link = Link(certificates, server_side=True, protocol=Recorder())
        await link.shake_hands()
        below = link.wire.protocol
        link.transport.pause_reading()
        below.pause_writing()
        link.transport.write(pattern(size))
        await spin()
        assert below.eof_received() is True
        assert read_all(link) == b""
        below.resume_writing()
        assert link.transport.get_write_buffer_size() == 0
        assert read_all(link) == pattern(size)
        full = size >= link.transport.get_write_buffer_limits()[1]
        assert link.protocol.names == (["pause", "resume"] if full else [])
        link.transport.resume_reading()
        assert await link.protocol.lost is None

    loop.run_until_complete(main())


def test_an_abort_after_an_end_while_reading_is_paused(engine, loop, certificates):
    async def main():
        link = Link(certificates, server_side=True, protocol=Recorder())
        await link.shake_hands()
        below = link.wire.protocol
        link.transport.pause_reading()
        link.transport.write(b"bye")
        below.eof_received()
        link.transport.abort()
        assert read_all(link) == b"bye"
        await link.protocol.lost

    loop.run_until_complete(main())


class Raising:
    """Says good-bye in one of its methods, and raises or aborts there."""

    method = how = None

    def say(self, method):
        if method == self.method:
            self.transport.write(b"bye")
            if self.how == "raise":
                raise ZeroDivisionError("boom")
            self.transport.abort()

    def connection_made(self, transport):
        super().connection_made(transport)
        self.say("connection_made")

    def data_received(self, data):
        super().data_received(data)
        self.say("data_received")

    def get_buffer(self, sizehint):
        self.say("get_buffer")
        return super().get_buffer(sizehint)

    def buffer_updated(self, nbytes):
        super().buffer_updated(nbytes)
        self.say("buffer_updated")

    def eof_received(self):
        super().eof_received()
        self.say("eof_received")


class RaisingRecorder(Raising, Recorder):
    pass


class RaisingLender(Raising, Lender):
    data_received = None


KINDS = {
    "connection_made": RaisingRecorder,
    "data_received": RaisingRecorder,
    "get_buffer": RaisingLender,
    "buffer_updated": RaisingLender,
    "eof_received": RaisingRecorder,
}


def last_words(method, how):
    protocol = KINDS[method]()
    protocol.method, protocol.how = method, how
    return protocol


def provoke(peer, method) -> bytes:
    """What the peer says to have a method called."""
    if method != "eof_received":
        return peer.records(b"hello")
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    return peer.outgoing.read()


@pytest.mark.parametrize("how", ["raise", "abort"])
@pytest.mark.parametrize("method", KINDS)
def test_last_words(engine, compare, certificates, method, how):
    """What a protocol wrote before it ended the connection, or an exception of its own did, arrives."""

    async def converse(loop, sock):
        peer = Peer(certificates.client(), server_side=False)
        await loop.sock_sendall(sock, peer.feed(b""))
        while not peer.connected:
            await loop.sock_sendall(sock, peer.feed(await loop.sock_recv(sock, 65536)))
        # The others are called when the handshake ends.
        if method not in ("connection_made", "get_buffer"):
            await loop.sock_sendall(sock, provoke(peer, method))
        while data := await loop.sock_recv(sock, 65536):
            with contextlib.suppress(ssl.SSLZeroReturnError):
                peer.feed(data)
        return bytes(peer.data)

    def scenario(loop, reports):
        async def main():
            near, far = tcp_pair()
            near.setblocking(False)
            far.setblocking(False)
            protocol = last_words(method, how)
            serving = loop.connect_accepted_socket(lambda: protocol, far, ssl=certificates.server())
            with near:
                found = await asyncio.gather(
                    converse(loop, near), serving, protocol.lost, return_exceptions=True
                )
            return found[0]

        loop.set_debug(False)
        return loop.run_until_complete(main()), reports.messages()

    assert compare(scenario)[0] == b"bye"


@pytest.mark.parametrize("how", ["raise", "abort"])
@pytest.mark.parametrize("method", [name for name in KINDS if name != "connection_made"])
def test_last_words_over_any_transport(engine, compare, certificates, method, how):
    def scenario(loop, reports):
        async def main():
            link = Link(certificates, server_side=True, protocol=Recorder())
            await link.shake_hands()
            protocol = last_words(method, how)
            protocol.transport = link.transport
            link.transport.set_protocol(protocol)
            link.wire.deliver(provoke(link.peer, method))
            await protocol.lost
            return read_all(link), link.wire.aborted

        loop.set_debug(False)
        return loop.run_until_complete(main()), reports.messages()

    assert compare(scenario)[0] == (b"bye", True)


@pytest.mark.parametrize("size", [0, 10, 450_000])
def test_a_request_for_a_certificate_before_the_end(engine, loop, certificates, size):
    """It leaves before the end does, and both sides end in order."""
    server, client = certificates.server(), certificates.client()
    certificates.ca.configure_trust(server)
    server.verify_mode = ssl.CERT_OPTIONAL
    server.post_handshake_auth = client.post_handshake_auth = True
    contexts = types.SimpleNamespace(server=lambda: server, client=lambda: client)

    async def main():
        link = Link(contexts, server_side=True, protocol=Recorder())
        await link.shake_hands()
        link.transport.write(pattern(size))
        await spin()
        link.transport.get_extra_info("ssl_object").verify_client_post_handshake()
        link.transport.close()
        answer = link.peer.feed(link.wire.take())
        link.peer.tls.unwrap()
        link.wire.deliver(answer + link.peer.outgoing.read())
        assert await link.protocol.lost is None
        assert link.peer.data == pattern(size)
        assert not link.wire.aborted

    loop.run_until_complete(main())


def test_a_session_that_ends_within_its_handshake(engine, loop, reports, certificates):
    """An object of the program's that ends the connection when the handshake is done: it has failed then."""
    context = certificates.server()
    below = None

    class Ending(ssl.SSLObject):
        def do_handshake(self):
            super().do_handshake()
            below.connection_lost(None)

    context.sslobject_class = Ending

    async def main():
        nonlocal below
        contexts = types.SimpleNamespace(server=lambda: context, client=certificates.client)
        link = Link(contexts, server_side=True, protocol=Recorder())
        await spin(3)
        below = link.wire.protocol
        link.wire.deliver(link.peer.feed(b""))
        link.wire.deliver(link.peer.feed(link.wire.take()))
        await until(link.starting.done)
        link.starting.cancelled() or link.starting.exception()

    loop.set_debug(False)
    loop.run_until_complete(main())
    assert reports.messages() == ["SSL handshake failed"]


@pytest.mark.parametrize("first", ["us", "peer"])
def test_a_peer_that_ends_the_session_and_reads_no_more(
    engine, run, loop_factory, certificates, first
):
    """What the transport below still holds does not keep it open for ever."""
    if not loop_factory.is_zloop and sys.version_info < (3, 14, 10):
        pytest.skip("asyncio waits without a limit before Python 3.14.10")

    async def main():
        loop, (near, far) = asyncio.get_running_loop(), tcp_pair()
        near.setblocking(False)
        far.setblocking(False)
        protocol, peer = Recorder(), Peer(certificates.client(), server_side=False)
        making = asyncio.ensure_future(
            loop.connect_accepted_socket(
                lambda: protocol, near, ssl=certificates.server(), ssl_shutdown_timeout=0.2
            )
        )
        await loop.sock_sendall(far, peer.feed(b""))
        while not peer.connected:
            await loop.sock_sendall(far, peer.feed(await loop.sock_recv(far, 1 << 16)))
        transport, _ = await making
        transport.write(bytes(20_000_000))
        if first == "us":
            transport.close()
        else:
            with contextlib.suppress(ssl.SSLWantReadError):
                peer.tls.unwrap()
            await loop.sock_sendall(far, peer.outgoing.read())
        assert isinstance(await asyncio.wait_for(protocol.lost, 5), TimeoutError)
        far.close()

    run(main())


@pytest.mark.parametrize("how", ["create_connection", "start_tls"])
def test_a_refused_certificate_leaves_no_cycle(run, loop_factory, certificates, how):
    """The transport goes with the last reference to the error, not with the next collection."""
    if not loop_factory.is_zloop and sys.version_info < (3, 14, 10):
        pytest.skip("asyncio leaves cycles before Python 3.14.10")
    if sys.version_info < (3, 13):
        pytest.skip("the coroutine that accepts, asyncio's own, leaves one before Python 3.13")

    async def refused(loop, address):
        # A protocol that keeps the error would make a cycle itself.
        stranger, kind = ssl.create_default_context(), asyncio.Protocol
        with contextlib.suppress(ssl.SSLCertVerificationError):
            if how == "create_connection":
                await loop.create_connection(kind, *address, ssl=stranger, server_hostname="x")
            transport, protocol = await loop.create_connection(kind, *address)
            await loop.start_tls(transport, protocol, stranger, server_hostname="x")

    async def main():
        loop = asyncio.get_running_loop()
        async with serving(asyncio.Protocol, ssl=certificates.server()) as (_, address):
            await refused(loop, address)
            gc.collect()
            before = loop_objects()
            gc.disable()
            try:
                await refused(loop, address)
                await until(lambda: not loop_objects() - before)
            finally:
                gc.enable()

    run(main())
