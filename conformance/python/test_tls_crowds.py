"""Crowds of peers that do not mean well: each is answered as on asyncio, and nothing is left of any.

A peer goes as far into a session as its kind says, waits for the others, and then all of them leave, every other one by
a reset. Honest clients are served all the while. What is right is found out with a small crowd on asyncio.

ZLOOP_TEST_CROWD=1000 has so many come at once, on every backend; each test may take ten times as long then.
"""

import asyncio
import collections
import contextlib
import ctypes
import functools
import gc
import os
import resource
import socket
import ssl
import sys
from dataclasses import dataclass

import pytest

from harness import (
    HOST,
    LoopFactory,
    Recorder,
    Reports,
    managed_loop,
    pattern,
    remembering,
    scaled,
    spin,
    stats,
    until,
)

CROWD = 150
# The engines lie above the backends: on the others a smaller crowd will do.
ELSEWHERE = 40
MAIN = ("epoll", "kqueue")
# On asyncio, to find out what is right.
SAMPLE = 40

# In seconds, on a busy machine; far less on another.
PATIENCE = 300 if "ZLOOP_TEST_CROWD" in os.environ else 30
pytestmark = pytest.mark.timeout(PATIENCE + 5)

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@dataclass(frozen=True)
class Kind:
    """How far a peer goes, and what it does there."""

    name: str
    words: bytes | None = None
    """Says this instead of shaking hands."""
    cut: int = 0
    """Keeps back a part of this flight; 0 for none."""
    version: ssl.TLSVersion = TLS13
    half: bool = False
    """Sends a part of a record before it leaves."""
    closed: bool = False
    """The other side closes first."""
    stays: bool = False
    """Does not leave by itself."""

    @property
    def connects(self) -> bool:
        """Whether the handshake comes to its end."""
        return self.words is None and not self.cut and self.version is TLS13


KINDS = [
    Kind("says nothing", words=b"", stays=True),
    Kind("leaves at once", words=b""),
    Kind("speaks plainly", words=b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", stays=True),
    Kind("sends an alert", words=b"\x15\x03\x01\0\x02\x02\x28", stays=True),
    Kind("sends a huge record", words=b"\x16\x03\x01\xff\xff" + b"\0" * 5000, stays=True),
    Kind("speaks an old version", version=TLS12, stays=True),
    Kind("leaves in the first flight", cut=1),
    Kind("leaves in the second flight", cut=2, version=TLS12),
    Kind("leaves in the last flight", cut=2),
    Kind("leaves without a word"),
    Kind("leaves inside a record", half=True),
    Kind("leaves in the shutdown", closed=True),
    Kind("ignores the shutdown", closed=True, stays=True),
]


class Peer(asyncio.Protocol):
    """One of the crowd: a plain transport, and a session that the test drives."""

    def __init__(self, kind, number, count, context, *, server_side):
        self.kind, self.number, self.count = kind, number, count
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.session = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, server_hostname=name
        )
        self.flights = 0
        self.shaken = self.ready = self.gone = False

    def connection_made(self, transport):
        self.transport = transport
        if self.kind.words is None:
            self.go_on()
        else:
            transport.write(self.kind.words)
            self.ready = True

    def data_received(self, data):
        if self.kind.words is None and not self.ready:
            self.incoming.write(data)
            self.go_on()
        elif self.kind.closed and not self.kind.stays:
            self.leave()

    def go_on(self):
        # An error is what some are here for; the other side sees to the end of it.
        with contextlib.suppress(ssl.SSLError):
            self.session.do_handshake()
            self.shaken = self.ready = True
        flight = self.outgoing.read()
        self.flights += bool(flight)
        if flight and self.flights == self.kind.cut:
            # Over the whole crowd, every place of the flight.
            flight = flight[: 1 + self.number * (len(flight) - 2) // (self.count - 1)]
            self.ready = True
        self.transport.write(flight)

    def leave(self):
        if self.kind.half:
            self.session.write(b"x" * 1000)
            self.transport.write(self.outgoing.read()[: 1 + self.number % 1000])
        if self.number % 2:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.transport.abort()
        else:
            self.transport.close()

    def connection_lost(self, exc):
        self.gone = self.ready = True


def named(exc):
    """What identifies an exception, but for the moment at which a reset was noticed."""
    if isinstance(exc, ssl.SSLError):
        return type(exc).__name__, exc.reason, exc.library, exc.errno
    if isinstance(exc, ConnectionResetError | BrokenPipeError):
        return "reset"
    return (type(exc).__name__, str(exc)) if exc else None


def contexts(kind, certificates, *, serves):
    """The context under test and that of the peers."""
    server, client = certificates.server(), certificates.client()
    ours, theirs = (server, client) if serves else (client, server)
    server.num_tickets = 0  # their arrival would be one more thing to wait for
    theirs.minimum_version = theirs.maximum_version = kind.version
    if not kind.cut:
        ours.minimum_version = TLS13
    return ours, theirs


def timeouts(kind):
    """Short ones for those who keep us waiting; whoever else is late is late because this machine is busy."""
    if kind.stays and kind.closed:
        return {"ssl_shutdown_timeout": 0.3}
    return {"ssl_handshake_timeout": 1.0} if kind.stays and kind.words == b"" else {}


async def end(kind, peers, made):
    """All are where they are to be: they leave, or we do. Waits until they have gone."""
    await until(lambda: all(peer.ready for peer in peers), PATIENCE)
    if kind.connects:
        await until(lambda: all(protocol.transport for protocol in made), PATIENCE)
    for peer, protocol in zip(peers, made, strict=True):
        if kind.closed:
            protocol.transport.close()
        elif not kind.stays:
            peer.leave()
    await until(lambda: all(peer.gone for peer in peers), PATIENCE)
    await until(lambda: all(p.lost.done() for p in made if p.transport), PATIENCE)
    await spin(5)


def seen_by(protocol):
    names = [name for name in protocol.names if name != "data"]
    return (*names, named(protocol.lost.result())) if protocol.lost.done() else tuple(names)


async def meet_as_server(kind, count, certificates):
    """Serves the crowd; what came of each connection."""
    loop = asyncio.get_running_loop()
    ours, theirs = contexts(kind, certificates, serves=True)
    made, factory = remembering()
    server = await loop.create_server(factory, HOST, 0, ssl=ours, backlog=count, **timeouts(kind))
    address = server.sockets[0].getsockname()
    peers = [Peer(kind, i, count, theirs, server_side=False) for i in range(count)]
    await asyncio.gather(*(loop.create_connection(lambda p=p: p, *address) for p in peers))
    await until(lambda: len(made) == count, PATIENCE)
    crowd = made[:]
    await serve_an_honest_client(address, certificates, made)
    await end(kind, peers, crowd)
    await serve_an_honest_client(address, certificates, made)
    server.close()
    await spin(5)
    return {seen_by(protocol) for protocol in crowd}


async def accept_by_hand(kind, count, certificates):
    """Serves the crowd without a server, which would keep the exceptions to itself."""
    loop = asyncio.get_running_loop()
    ours, theirs = contexts(kind, certificates, serves=True)
    peers = [Peer(kind, i, count, theirs, server_side=False) for i in range(count)]
    made, makings = [Recorder() for _ in peers], []
    with socket.create_server((HOST, 0), backlog=count) as listener:
        address = listener.getsockname()
        for peer, protocol in zip(peers, made, strict=True):
            await loop.create_connection(lambda p=peer: p, *address)
            sock = listener.accept()[0]
            making = loop.connect_accepted_socket(
                lambda p=protocol: p, sock, ssl=ours, **timeouts(kind)
            )
            makings.append(asyncio.ensure_future(making))
    await end(kind, peers, made)
    return await outcomes(makings, made)


async def serve_an_honest_client(address, certificates, made):
    """In the middle of it all; it comes and goes as it should."""
    loop = asyncio.get_running_loop()
    options = {"ssl": certificates.client(), "server_hostname": "localhost"}
    transport, protocol = await loop.create_connection(Recorder, *address, **options)
    data = pattern(20_000)
    transport.write(data)
    await until(lambda: any(len(p.data) for p in made), PATIENCE)
    serving = next(p for p in made if len(p.data))
    assert await serving.got(len(data)) == data
    transport.close()
    await protocol.lost
    await serving.lost
    assert serving.names[-2:] == ["eof", "lost"]
    serving.data.clear()


async def meet_as_client(kind, count, certificates):
    """Connects to the crowd; what came of each connection."""
    loop = asyncio.get_running_loop()
    ours, theirs = contexts(kind, certificates, serves=False)
    peers, made = [], [Recorder() for _ in range(count)]

    def factory():
        peers.append(Peer(kind, len(peers), count, theirs, server_side=True))
        return peers[-1]

    server = await loop.create_server(factory, HOST, 0, backlog=count)
    address = server.sockets[0].getsockname()
    options = {"ssl": ours, "server_hostname": "localhost", **timeouts(kind)}
    makings = [
        asyncio.ensure_future(loop.create_connection(lambda p=p: p, *address, **options))
        for p in made
    ]
    await until(lambda: len(peers) == count, PATIENCE)
    await end(kind, peers, made)
    seen = await outcomes(makings, made)
    server.close()
    await spin(5)
    return seen


async def outcomes(makings, made):
    """The exception that making a connection came to, or else what its protocol saw."""
    results = await asyncio.gather(*makings, return_exceptions=True)
    return {
        named(result) if isinstance(result, BaseException) else seen_by(protocol)
        for protocol, result in zip(made, results, strict=True)
    }


MEET = {"server": meet_as_server, "acceptor": accept_by_hand, "client": meet_as_client}
SESSIONS = (ssl.SSLObject, ssl.MemoryBIO, asyncio.Task, asyncio.Future)


def left():
    """How many sessions, tasks and protocols there are."""
    gc.collect()
    counts = collections.Counter()
    for kind in map(type, gc.get_objects()):
        if issubclass(kind, SESSIONS) or kind.__name__ in ("TlsProtocol", "SSLProtocol"):
            counts[kind.__name__] += 1
    return counts


def meet(loop, reports, kind, side, count, certificates):
    """What the loop made of the crowd: outcomes, and what it reported."""
    loop.set_debug(False)
    before = left(), stats(loop).get("sources")
    seen = loop.run_until_complete(MEET[side](kind, count, certificates))
    told = {(context["message"], named(context.get("exception"))) for context in reports.contexts}
    reports.contexts.clear()
    assert (left(), stats(loop).get("sources")) == before, "something is left"
    return seen, told


@functools.cache
def right(kind, side, certificates):
    """What asyncio makes of it."""
    reports = Reports()
    with managed_loop(LoopFactory("asyncio"), reports) as loop:
        return meet(loop, reports, kind, side, SAMPLE, certificates)


def crowd_size(loop_factory, side):
    """How many come at once."""
    if not loop_factory.is_zloop or side == "acceptor":
        return SAMPLE
    usual = CROWD if loop_factory.backend in MAIN else ELSEWHERE
    wanted = scaled(int(os.environ.get("ZLOOP_TEST_CROWD", usual)))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = (files - 100) // 2
    if wanted > room:
        print(f"a crowd of {room}, not {wanted}: no more than {files} files may be open")
    return min(wanted, room)


@pytest.mark.parametrize("side", MEET)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_crowd(engine, loop_factory, loop, reports, certificates, kind, side):
    if kind.cut == 2 and kind.version is TLS13 and side == "client":
        pytest.skip("in TLS 1.3 a server has said all in its first flight")
    expected = right(kind, side, certificates)
    count = crowd_size(loop_factory, side)
    assert meet(loop, reports, kind, side, count, certificates) == expected


class Mallinfo(ctypes.Structure):
    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]


def allocated():
    """Bytes that C and Rust have, blocks that Python has."""
    gc.collect()
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = Mallinfo
    return ask().field7, sys.getallocatedblocks()  # uordblks


@pytest.mark.timeout(120)  # free-threaded Python takes long to look for what is left
@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library does not count its memory"
)
def test_no_memory_is_lost(engine, loop_factory, loop, reports, certificates):
    """Crowds of every kind, again and again: what each connection took is given back."""
    if loop_factory.backend not in MAIN:
        pytest.skip("each engine once: neither has anything to do with backends")
    kinds = [kind for kind in KINDS if not timeouts(kind)]
    rounds, count = 2, scaled(20)

    def all_kinds():
        for kind in kinds:
            for side in ("server", "client"):
                if kind.cut != 2 or kind.version is TLS12:
                    meet(loop, reports, kind, side, count, certificates)

    all_kinds()
    bytes_before, blocks_before = allocated()
    for _ in range(rounds):
        all_kinds()
    bytes_after, blocks_after = allocated()
    connections = rounds * count * len(kinds) * 2
    print((bytes_after - bytes_before) / connections, (blocks_after - blocks_before) / connections)
    assert bytes_after - bytes_before < 64 * connections
    assert blocks_after - blocks_before < connections / 2
