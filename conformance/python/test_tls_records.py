"""TLS records, however they are cut: every test runs on both of zloop's engines and on asyncio."""

import asyncio
import random
import ssl

import pytest

from harness import (
    BufferedRecorder,
    Recorder,
    connect,
    deliver,
    pattern,
    scaled,
    spin,
    unix_pair,
    until,
)


class Lender(BufferedRecorder):
    """Lends its buffer as asyncio's TLS needs it: it takes slices, which of a bytearray are copies."""

    def get_buffer(self, sizehint):
        return memoryview(super().get_buffer(sizehint))


class Wire(asyncio.Transport):
    """A transport below a TLS session whose bytes the test carries itself."""

    _start_tls_compatible = True

    def __init__(self):
        super().__init__()
        self.out = bytearray()
        self.protocol = None
        self.closed = self.aborted = False
        self.paused = False

    def write(self, data):
        self.out += data

    def set_protocol(self, protocol):
        self.protocol = protocol

    def get_protocol(self):
        return self.protocol

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False

    def is_closing(self):
        return self.closed

    def close(self):
        self.end(None)

    def _force_close(self, exc):
        self.aborted = True
        self.end(exc)

    def abort(self):
        self._force_close(None)

    def end(self, exc):
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, exc)

    def take(self) -> bytes:
        data = bytes(self.out)
        self.out.clear()
        return data

    def deliver(self, data) -> None:
        """Bytes from the other side."""
        deliver(self.protocol, data)


class Peer:
    """The other side: an SSLObject that the test drives."""

    def __init__(self, context, *, server_side):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, server_hostname=name
        )
        self.connected = False
        self.data = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Takes bytes, and answers what it has to say."""
        self.incoming.write(data)
        try:
            if not self.connected:
                self.tls.do_handshake()
                self.connected = True
            while part := self.tls.read(1 << 16):
                self.data += part
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def records(self, *messages: bytes) -> bytes:
        for message in messages:
            self.tls.write(message)
        return self.outgoing.read()


class Link:
    """A session under test over a wire, and its peer."""

    def __init__(self, certificates, *, server_side, protocol, version=None):
        ours = certificates.server() if server_side else certificates.client()
        theirs = certificates.client() if server_side else certificates.server()
        if version:
            theirs.minimum_version = theirs.maximum_version = version
        self.wire, self.protocol = Wire(), protocol
        self.peer = Peer(theirs, server_side=not server_side)
        loop = asyncio.get_running_loop()
        name = None if server_side else "localhost"
        self.starting = asyncio.ensure_future(
            loop.start_tls(self.wire, protocol, ours, server_side=server_side, server_hostname=name)
        )

    async def shake_hands(self, cut=lambda data: [data]):
        """Carry the handshake, with what each side says cut by `cut`."""
        await spin(3)
        to_wire = self.peer.feed(b"")
        while not (self.starting.done() and self.peer.connected):
            for part in cut(to_wire):
                self.wire.deliver(part)
                await spin()
            to_wire = b"".join(self.peer.feed(part) for part in cut(self.wire.take()))
            await spin()
        self.transport = await self.starting
        if to_wire:  # session tickets
            self.wire.deliver(to_wire)

    async def finish(self):
        self.transport.abort()
        await self.protocol.lost


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(params=VERSIONS, ids=["1.2", "1.3"])
def version(request):
    return request.param


def test_the_engine_is_the_one_asked_for(engine, loop, certificates):
    async def main():
        link = Link(certificates, server_side=True, protocol=Recorder())
        await link.shake_hands()
        if hasattr(loop, "tls"):
            assert loop.tls == engine
            assert link.transport._ssl_protocol._engine == engine
        await link.finish()

    loop.run_until_complete(main())


@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
def test_a_handshake_byte_by_byte(engine, loop, certificates, version, server_side):
    async def main():
        link = Link(certificates, server_side=server_side, protocol=Recorder(), version=version)
        await link.shake_hands(lambda data: [data[i : i + 1] for i in range(len(data))])
        link.wire.deliver(link.peer.records(b"hello"))
        assert await link.protocol.got(5) == b"hello"
        await link.finish()

    loop.run_until_complete(main())


@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
def test_every_split_of_a_handshake(engine, loop, certificates, server_side):
    """Each flight in two parts, cut at every place in turn."""

    async def main():
        place, longest = 1, 2
        while place < longest:

            def cut(data, place=place):
                nonlocal longest
                longest = max(longest, len(data))
                return [part for part in (data[:place], data[place:]) if part]

            link = Link(certificates, server_side=server_side, protocol=Recorder())
            await link.shake_hands(cut)
            await link.finish()
            place += 1 if place < 64 else scaled(230)

    loop.run_until_complete(main())


@pytest.mark.parametrize("kind", [Recorder, Lender])
def test_messages_in_random_pieces(engine, loop, certificates, version, kind):
    """What is cut, joined and paused anywhere arrives whole and in order."""
    rng = random.Random(7)

    async def main():
        link = Link(certificates, server_side=True, protocol=kind(), version=version)
        await link.shake_hands()
        sent, pending = bytearray(), bytearray()
        for number in range(scaled(1000)):
            message = rng.randbytes(rng.choice((1, 5, 100, 5000, 16384, 16385, 40_000)))
            sent += message
            pending += link.peer.records(message)
            while pending and rng.random() < 0.8:
                size = rng.choice((1, 3, 5, 22, 1000, 16_000, 100_000))
                link.wire.deliver(bytes(pending[:size]))
                del pending[:size]
            if rng.random() < 0.05:
                link.transport.pause_reading()
            if rng.random() < 0.2:
                link.transport.resume_reading()
                await spin()
            if number % 100 == 0:
                await spin(2)
        link.transport.resume_reading()
        await spin(2)
        link.wire.deliver(bytes(pending))
        await until(lambda: len(link.protocol.data) >= len(sent))
        assert link.protocol.data == sent
        await link.finish()

    loop.run_until_complete(main())


def test_writes_of_every_size(engine, loop, certificates, version):
    """What is written arrives in order, whatever its sizes and however many writes share a callback."""
    rng = random.Random(11)

    async def main():
        link = Link(certificates, server_side=True, protocol=Recorder(), version=version)
        await link.shake_hands()
        sent = bytearray()
        for _ in range(scaled(400)):
            for _ in range(rng.choice((1, 1, 2, 5))):
                message = rng.randbytes(rng.choice((1, 20, 1000, 16384, 16385, 70_000)))
                sent += message
                kind = rng.choice((bytes, bytearray, memoryview))
                if rng.random() < 0.3:
                    link.transport.writelines([kind(message[:7]), kind(message[7:])])
                else:
                    link.transport.write(kind(message))
            await spin()
            link.peer.feed(link.wire.take())
        link.peer.feed(link.wire.take())
        assert link.peer.data == sent
        await link.finish()

    loop.run_until_complete(main())


def test_a_buffer_may_change_after_write(engine, loop, certificates):
    async def main():
        link = Link(certificates, server_side=True, protocol=Recorder())
        await link.shake_hands()
        data = bytearray(b"before")
        link.transport.write(data)
        data[:] = b"change"
        await spin()
        link.peer.feed(link.wire.take())
        assert link.peer.data == b"before"
        await link.finish()

    loop.run_until_complete(main())


def test_both_ways_at_once(engine, loop, certificates):
    data = pattern(3_000_000)

    async def main():
        link = Link(certificates, server_side=True, protocol=Recorder())
        await link.shake_hands()
        for start in range(0, len(data), 50_000):
            link.transport.write(data[start : start + 50_000])
            await spin()
            link.wire.deliver(link.peer.feed(link.wire.take()) + link.peer.records(b"."))
        assert link.peer.data == data
        assert link.protocol.data == b"." * 60
        await link.finish()

    loop.run_until_complete(main())


def test_a_damaged_record(engine, loop, certificates, version):
    """What came before it is delivered; the error is Python's."""

    async def main():
        link = Link(certificates, server_side=True, protocol=Recorder(), version=version)
        await link.shake_hands()
        link.wire.deliver(link.peer.records(b"good"))
        bad = bytearray(link.peer.records(b"damaged"))
        bad[-1] ^= 1
        link.wire.deliver(bytes(bad))
        exc = await link.protocol.lost
        assert link.protocol.data == b"good"
        return type(exc), exc.reason, exc.library, exc.errno

    kind, reason, *rest = loop.run_until_complete(main())
    assert (kind, *rest) == (ssl.SSLError, "SSL", ssl.SSL_ERROR_SSL)
    # The latter in newer versions of OpenSSL.
    assert reason in ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE")


def test_an_end_behind_data_in_one_piece(engine, loop, certificates, version):
    async def main():
        link = Link(certificates, server_side=True, protocol=Recorder(), version=version)
        await link.shake_hands()
        data = link.peer.records(b"the last")
        with pytest.raises(ssl.SSLWantReadError):
            link.peer.tls.unwrap()
        link.wire.deliver(data + link.peer.outgoing.read())
        assert await link.protocol.lost is None
        assert link.protocol.names == ["data", "eof", "lost"]
        link.peer.incoming.write(link.wire.take())
        link.peer.tls.unwrap()  # our end has come

    loop.run_until_complete(main())


def test_the_object_still_answers_after_the_end(engine, loop, certificates):
    """Who keeps the SSLObject, keeps something that works."""

    async def main():
        link = Link(certificates, server_side=False, protocol=Recorder())
        await link.shake_hands()
        kept = link.transport.get_extra_info("ssl_object")
        await link.finish()
        link.transport.close()
        del link
        return kept

    kept = loop.run_until_complete(main())
    assert kept.version() == "TLSv1.3"
    assert kept.cipher() and kept.getpeercert()
    with pytest.raises(ssl.SSLError):
        kept.read(10)
    with pytest.raises(ssl.SSLWantReadError):
        kept.unwrap()


def test_the_object_read_by_the_program(engine, loop, certificates):
    """A program that reads the SSLObject itself gets what has come, and nobody gets it twice."""

    async def main():
        link = Link(certificates, server_side=True, protocol=Recorder())
        await link.shake_hands()
        link.transport.pause_reading()
        link.wire.deliver(link.peer.records(b"first", b"second"))
        taken = link.transport.get_extra_info("ssl_object").read(100)
        link.transport.resume_reading()
        await spin(2)
        assert (taken, link.protocol.data) == (b"first", b"second")
        await link.finish()

    loop.run_until_complete(main())


def test_an_object_class_of_the_program(engine, run, certificates):
    """Its methods are called, and its data is what it says."""

    class Shouting(ssl.SSLObject):
        def read(self, *args):
            return super().read(*args).upper()

    async def main():
        context = certificates.server()
        context.sslobject_class = Shouting
        near, far = unix_pair()
        protocol = Recorder()
        loop = asyncio.get_running_loop()
        near.setblocking(False)
        serving = loop.connect_accepted_socket(lambda: protocol, near, ssl=context)
        client = asyncio.ensure_future(
            connect(far, ssl=certificates.client(), server_hostname="localhost")
        )
        await serving
        transport, peer = await client
        transport.write(b"hello")
        assert await protocol.got(5) == b"HELLO"
        transport.abort()
        await peer.lost
        await protocol.lost

    run(main())


def test_records_seen_by_a_callback(engine, run, certificates):
    """A context that watches every record goes on doing so, on an engine that lets it."""
    seen = []

    def watch(conn, direction, version, content_type, msg_type, data):
        seen.append(direction)

    async def watched():
        context = certificates.server()
        context._msg_callback = watch
        wire, protocol = Wire(), Recorder()
        peer = Peer(certificates.client(), server_side=False)
        loop = asyncio.get_running_loop()
        starting = asyncio.ensure_future(loop.start_tls(wire, protocol, context, server_side=True))
        await spin(3)
        while not starting.done():
            wire.deliver(peer.feed(wire.take()))
            await spin()
        transport = await starting
        del seen[:]
        peer.feed(wire.take())
        wire.deliver(peer.records(b"hello"))
        assert await protocol.got(5) == b"hello"
        assert "read" in seen
        transport.abort()
        await protocol.lost

    run(watched())
