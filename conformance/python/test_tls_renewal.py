"""TLS sessions that change their keys, and sessions that are taken up again."""

import asyncio
import collections
import contextlib
import ctypes
import random
import ssl

import pytest

from harness import HOST, Recorder, close_writer, echo, scaled, spin, tls_server, until
from test_tls_records import Lender, Link

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
# From OpenSSL's headers.
KEY_UPDATE_NOT_REQUESTED, KEY_UPDATE_REQUESTED = 0, 1
OP_ALLOW_CLIENT_RENEGOTIATION = 1 << 8


@pytest.fixture(scope="module")
def openssl():
    """What Python has no words for: the library that it calls itself."""
    import _ssl

    if not hasattr(_ssl, "__file__"):
        pytest.skip("this interpreter keeps its OpenSSL to itself")
    library = ctypes.CDLL(_ssl.__file__)
    if not hasattr(library, "SSL_key_update"):
        pytest.skip("the ssl module of this interpreter hides its OpenSSL")
    library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.SSL_renegotiate.argtypes = [ctypes.c_void_p]
    library.SSL_set_options.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    return library


def native(ssl_object: ssl.SSLObject) -> int:
    """The address of its `SSL`: the second word behind the object's head, after a socket."""
    inner = ssl_object._sslobj
    return ctypes.c_void_p.from_address(
        id(inner) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
    ).value


@pytest.mark.parametrize("kind", [Recorder, Lender])
@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
def test_new_keys_at_any_time(engine, loop, certificates, openssl, kind, server_side):
    """Both sides change their keys, and ask for changes, amid messages in random pieces."""
    rng = random.Random(23)

    async def main():
        link = Link(certificates, server_side=server_side, protocol=kind(), version=TLS13)
        await link.shake_hands()
        theirs = native(link.peer.tls)
        ours = native(link.transport.get_extra_info("ssl_object"))
        received, sent, pending = bytearray(), bytearray(), bytearray()
        changes = collections.Counter()
        for number in range(scaled(1000)):
            if rng.random() < 0.2:
                side = rng.choice((theirs, ours))
                kinds = (KEY_UPDATE_REQUESTED, KEY_UPDATE_NOT_REQUESTED)
                if openssl.SSL_key_update(side, rng.choice(kinds)):
                    changes[side] += 1
                else:  # an earlier one has not left
                    openssl.ERR_clear_error()
            message = rng.randbytes(rng.choice((1, 5, 100, 5000, 16385)))
            received += message
            pending += link.peer.records(message)
            if rng.random() < 0.5:
                message = rng.randbytes(rng.choice((1, 20, 16385, 40_000)))
                sent += message
                link.transport.write(message)
            while pending and rng.random() < 0.8:
                size = rng.choice((1, 3, 5, 22, 1000, 16_000, 100_000))
                link.wire.deliver(bytes(pending[:size]))
                del pending[:size]
            if number % 10 == 0:
                await spin(2)
                pending += link.peer.feed(link.wire.take())
        await spin(2)
        link.wire.deliver(bytes(pending) + link.peer.feed(link.wire.take()))
        await until(lambda: len(link.protocol.data) >= len(received))
        assert link.protocol.data == received
        await spin(2)
        link.peer.feed(link.wire.take())
        assert link.peer.data == sent
        assert min(changes[theirs], changes[ours]) > scaled(50)
        await link.finish()

    loop.run_until_complete(main())


@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
def test_another_handshake_in_between(engine, loop, certificates, openssl, server_side):
    """TLS 1.2 lets the peer ask for a new handshake; what is written meanwhile waits for its end."""

    async def main():
        link = Link(certificates, server_side=server_side, protocol=Recorder(), version=TLS12)
        await link.shake_hands()
        session = link.transport.get_extra_info("ssl_object")
        openssl.SSL_set_options(native(session), OP_ALLOW_CLIENT_RENEGOTIATION)
        before = session.get_channel_binding("tls-unique")
        link.wire.deliver(link.peer.records(b"before"))
        assert openssl.SSL_renegotiate(native(link.peer.tls)) == 1
        sent = bytearray()

        def speak():
            with contextlib.suppress(ssl.SSLWantReadError):
                link.peer.tls.do_handshake()
            return link.peer.outgoing.read()

        to_wire = speak()
        for number in range(12):
            for at in range(0, len(to_wire), 100):
                link.wire.deliver(to_wire[at : at + 100])
            message = b"%d" % number * 30_000
            link.transport.write(message)
            sent += message
            await spin(2)
            to_wire = link.peer.feed(link.wire.take()) + speak()
        link.wire.deliver(to_wire + link.peer.records(b"after"))
        await spin(2)
        link.peer.feed(link.wire.take())
        assert link.protocol.data == b"beforeafter"
        assert link.peer.data == sent
        assert session.get_channel_binding("tls-unique") != before
        await link.finish()

    loop.run_until_complete(main())


class Reusing(ssl.SSLContext):
    """A client's context that takes up the session of an earlier connection, as users write it."""

    kept: ssl.SSLSession | None = None

    def wrap_bio(self, *args, **kwargs):
        return super().wrap_bio(*args, **kwargs, session=self.kept)


@pytest.mark.parametrize("version", [TLS12, TLS13], ids=["1.2", "1.3"])
def test_a_session_taken_up_again(engine, run, certificates, version):
    reused = []

    async def handler(reader, writer):
        reused.append(writer.get_extra_info("ssl_object").session_reused)
        await echo(reader, writer)

    async def main():
        client = Reusing(ssl.PROTOCOL_TLS_CLIENT)
        certificates.ca.configure_trust(client)
        client.minimum_version = client.maximum_version = version
        async with tls_server(handler, certificates.server()) as port:
            for _ in range(3):
                reader, writer = await asyncio.open_connection(
                    HOST, port, ssl=client, server_hostname="localhost"
                )
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                session = writer.get_extra_info("ssl_object")
                reused.append(session.session_reused)
                client.kept = session.session
                await close_writer(writer)

    run(main())
    assert reused == [False, False, True, True, True, True]
