"""Transports that outlive their loop: what asyncio does with them after `loop.close()`."""

import asyncio
import contextlib
import gc
import os
import socket

import pytest

from harness import FULL, Recorder, outcome, pattern, run_turns, tls_pair, unix_pair

# Nobody can close them any more.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed")


def read_all(sock) -> bytes:
    """What has come, up to the end or to where the next read would wait."""
    data = b""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while more := sock.recv(1 << 20):
            data += more
    return data


def make(loop, kind, *, before=b""):
    """(transport, protocol, peer) of a loop that is closed by now."""
    near, far = unix_pair()
    near.setblocking(False)
    if kind == "stream":
        made = loop.create_connection(lambda: Recorder(loop), sock=near)
    else:
        made = loop.connect_write_pipe(lambda: Recorder(loop), near)
    transport, protocol = loop.run_until_complete(made)
    if before:
        transport.write(before)
    run_turns(loop, 2)
    loop.close()
    return transport, protocol, far


@pytest.fixture
def late(compare):
    """Compare what `body(transport, peer)` answers once the loop is closed."""

    def late(kind, body, **options):
        def scenario(loop, reports):
            transport, protocol, peer = make(loop, kind, **options)
            with peer:
                answers = body(transport, peer)
            answers += [transport.is_closing(), protocol.names]
            del transport, protocol
            gc.collect()
            return answers

        return compare(scenario)

    return late


both = pytest.mark.parametrize("kind", ["stream", "pipe"])


@both
def test_a_late_write_arrives(late, kind):
    def body(transport, peer):
        transport.write(b"late;")
        transport.write(b"later;")
        if kind == "stream":
            transport.writelines([b"and ", b"later;"])
        return [read_all(peer), transport.get_write_buffer_size()]

    assert late(kind, body)[0].startswith(b"late;later;")


@both
def test_a_late_write_that_finds_no_room(late, kind):
    """What has not left is not kept: a stream with a hole, of which `write()` tells by raising."""
    data = pattern(FULL)

    def body(transport, peer):
        answers = [outcome(lambda: transport.write(data)), transport.get_write_buffer_size()]
        answers += [outcome(lambda: transport.write(b"more")), transport.get_write_buffer_size()]
        got = read_all(peer)
        answers += [len(got) > 0, data.startswith(got)]
        return [*answers, transport.write(b"again"), read_all(peer)]

    assert late(kind, body)[0] == ("RuntimeError", "Event loop is closed")


def test_late_writelines_that_find_no_room(late):
    def body(transport, peer):
        answers = [outcome(lambda: transport.writelines([b"x" * FULL, b"y"]))]
        answers += [transport.get_write_buffer_size() > 0, len(read_all(peer)) > 0]
        return [*answers, transport.write(b"more"), read_all(peer)]

    late("stream", body)


@both
def test_a_late_write_behind_what_waited_for_room(late, kind):
    def body(transport, peer):
        answers = [transport.write(b"late"), read_all(peer).count(b"late")]
        return [*answers, transport.write(b"late"), read_all(peer)]

    late(kind, body, before=b"x" * FULL)


@both
def test_a_late_write_to_nobody(late, kind):
    def body(transport, peer):
        peer.close()
        calls = [lambda: transport.write(b"late")] * 3 + [transport.close, transport.abort]
        return [outcome(call) for call in calls]

    late(kind, body)


@both
@pytest.mark.parametrize("name", ["close", "abort", "write_eof"])
def test_late_ends(late, kind, name):
    def body(transport, peer):
        transport.write(b"last")
        answers = [outcome(getattr(transport, name)) for _ in range(3)]
        answers += [transport.is_closing(), outcome(lambda: transport.write(b"more"))]
        return [*answers, outcome(transport.close), outcome(transport.abort), read_all(peer)]

    late(kind, body)


def test_late_reading(late):
    def body(transport, peer):
        transport.pause_reading()
        return [outcome(transport.resume_reading), transport.is_reading()]

    late("stream", body)


def test_a_late_write_before_the_first_turn(compare):
    """Of a transport that the loop has never looked at."""

    def scenario(loop, reports):
        near, far = unix_pair()
        near.setblocking(False)
        transport = loop._make_socket_transport(near, asyncio.Protocol())
        loop.close()
        transport.write(b"late")
        with far:
            got = read_all(far)
        transport = None
        gc.collect()
        return got

    assert compare(scenario) == b"late"


def test_a_late_write_under_tls(loop, certificates):
    pair = tls_pair(loop, certificates)
    (client, protocol), (server, other) = loop.run_until_complete(pair)
    run_turns(loop, 2)
    peer = socket.socket(fileno=os.dup(server.get_extra_info("socket").fileno()))
    loop.close()
    with peer:
        read_all(peer)
        client.write(b"late")
        assert len(read_all(peer)) > 20


def test_a_late_datagram(compare, tmp_path):
    def scenario(loop, reports):
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far,
            contextlib.chdir(tmp_path),
        ):
            far.bind("far")
            near = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            near.connect("far")
            os.unlink("far")
            made = loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=near)
            transport, _ = loop.run_until_complete(made)
            run_turns(loop, 2)
            loop.close()
            transport.sendto(b"late")
            answers = [far.recv(100)]
            for _ in range(2):
                answers.append(
                    outcome(lambda: [transport.sendto(b"x" * 1000) for _ in range(5000)])
                )
                answers.append(transport.get_write_buffer_size())
            transport = None
            gc.collect()
            return answers

    compare(scenario)
