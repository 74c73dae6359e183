"""loop.sock_recv and its family: plain non-blocking sockets under the loop."""

import asyncio
import socket

import pytest

from harness import HOST, outcome, pattern, recv_exactly, reset, spin, tcp_pair, unix_pair


def test_send_and_receive(run, loop, pair):
    near, far = pair
    data = pattern(1_000_000)

    async def receive():
        parts, count = [], 0
        while count < len(data):
            part = await loop.sock_recv(far, 65536)
            parts.append(part)
            count += len(part)
        return b"".join(parts)

    async def main():
        receiving = loop.create_task(receive())
        assert await loop.sock_sendall(near, data) is None
        assert await receiving == data

    run(main())


def test_receiving_before_anything_is_there(run, loop, pair):
    near, far = pair

    async def main():
        receiving = loop.create_task(loop.sock_recv(near, 100))
        await asyncio.sleep(0.002)
        assert not receiving.done()
        await loop.sock_sendall(far, b"late")
        assert await receiving == b"late"

    run(main())


def test_recv_into(run, loop, pair):
    near, far = pair

    async def main():
        buffer = bytearray(10)
        await loop.sock_sendall(far, b"abc")
        assert await loop.sock_recv_into(near, buffer) == 3
        assert buffer[:3] == b"abc"
        receiving = loop.create_task(loop.sock_recv_into(near, memoryview(buffer)[5:]))
        await asyncio.sleep(0.002)
        await loop.sock_sendall(far, b"de")
        assert await receiving == 2
        assert buffer[5:7] == b"de"

    run(main())


def test_the_end_of_the_stream(run, loop, pair):
    near, far = pair
    far.shutdown(socket.SHUT_WR)
    assert run(loop.sock_recv(near, 10)) == b""


def test_errors(run, loop):
    near, far = tcp_pair()
    near.setblocking(False)
    reset(far)
    with near, pytest.raises(ConnectionResetError):
        run(loop.sock_recv(near, 10))


def test_connect_and_accept(run, loop):
    async def main():
        with socket.create_server((HOST, 0)) as listener, socket.socket() as client:
            listener.setblocking(False)
            client.setblocking(False)
            accepting = loop.create_task(loop.sock_accept(listener))
            await spin(2)
            await loop.sock_connect(client, listener.getsockname())
            sock, address = await accepting
            with sock:
                assert sock.gettimeout() == 0
                assert address == client.getsockname()
                await loop.sock_sendall(client, b"hello")
                assert await loop.sock_recv(sock, 10) == b"hello"

    run(main())


def test_connection_refused(run, loop):
    async def main():
        with socket.socket() as unused:
            unused.bind((HOST, 0))
            with socket.socket() as client:
                client.setblocking(False)
                with pytest.raises(ConnectionRefusedError):
                    await loop.sock_connect(client, unused.getsockname())

    run(main())


def test_connecting_by_name(run, loop):
    async def main():
        with socket.create_server((HOST, 0)) as listener, socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
            assert client.getpeername() == listener.getsockname()

    run(main())


@pytest.mark.parametrize("what", ["recv", "recv_into", "accept", "sendall"])
def test_cancelling_leaves_the_socket_usable(run, loop, what):
    async def main():
        near, far = tcp_pair()
        near.setblocking(False)
        far.settimeout(5)
        listener = socket.create_server((HOST, 0))
        listener.setblocking(False)
        with near, far, listener:
            if what == "sendall":
                task = loop.create_task(loop.sock_sendall(near, b"x" * 20_000_000))
            elif what == "accept":
                task = loop.create_task(loop.sock_accept(listener))
            elif what == "recv":
                task = loop.create_task(loop.sock_recv(near, 10))
            else:
                task = loop.create_task(loop.sock_recv_into(near, bytearray(10)))
            await asyncio.sleep(0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert loop.remove_reader(near) is False
            assert loop.remove_writer(near) is False
            far.send(b"still fine")
            assert await loop.sock_recv(near, 20) == b"still fine"

    run(main())


def test_datagrams(run, loop):
    async def main():
        with (
            socket.socket(type=socket.SOCK_DGRAM) as one,
            socket.socket(type=socket.SOCK_DGRAM) as two,
        ):
            for sock in (one, two):
                sock.bind((HOST, 0))
                sock.setblocking(False)
            assert await loop.sock_sendto(one, b"hello", two.getsockname()) == 5
            data, address = await loop.sock_recvfrom(two, 100)
            assert (data, address) == (b"hello", one.getsockname())
            buffer = bytearray(10)
            receiving = loop.create_task(loop.sock_recvfrom_into(two, buffer))
            await asyncio.sleep(0.002)
            await loop.sock_sendto(one, b"again", two.getsockname())
            assert await receiving == (5, one.getsockname())
            assert buffer[:5] == b"again"

    run(main())


def test_both_directions_at_once(run, loop, pair):
    near, far = pair

    async def main():
        data = pattern(3_000_000)
        receiving = loop.create_task(loop.sock_recv(near, 5))
        sending = loop.create_task(loop.sock_sendall(near, data))
        await spin(3)
        await loop.sock_sendall(far, b"hello")
        assert await receiving == b"hello"
        far.setblocking(True)
        assert await loop.run_in_executor(None, recv_exactly, far, len(data)) == data
        await sending

    run(main())


@pytest.mark.parametrize("debug", [True, False])
def test_blocking_sockets_in_debug_mode(compare, debug):
    def scenario(loop, reports):
        loop.set_debug(debug)
        near, far = unix_pair()
        with near, far:
            far.send(b"x")
            return outcome(lambda: loop.run_until_complete(loop.sock_recv(near, 5)))

    result = compare(scenario)
    assert result == (("ValueError", "the socket must be non-blocking") if debug else b"x")


def test_the_socket_of_a_transport_is_refused(compare):
    from harness import piped

    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                sock = transport.get_extra_info("socket")
                try:
                    await loop.sock_recv(sock, 5)
                except Exception as exc:
                    return type(exc).__name__, str(exc).split("<")[0]

        return loop.run_until_complete(main())

    compare(scenario)


def test_tls_sockets_are_refused(compare, certificates):
    def scenario(loop, reports):
        near, far = unix_pair()
        with (
            far,
            certificates.client().wrap_socket(
                near, server_hostname="localhost", do_handshake_on_connect=False
            ) as wrapped,
        ):
            wrapped.setblocking(False)
            return [
                outcome(lambda: loop.run_until_complete(loop.sock_recv(wrapped, 5))),
                outcome(lambda: loop.run_until_complete(loop.sock_sendall(wrapped, b"x"))),
                outcome(lambda: loop.run_until_complete(loop.sock_connect(wrapped, "x"))),
            ]

    assert compare(scenario)[0] == ("TypeError", "Socket cannot be of type SSLSocket")


def test_empty_sends_and_receives(run, loop, pair):
    near, far = pair

    async def main():
        assert await loop.sock_sendall(near, b"") is None
        await loop.sock_sendall(far, memoryview(bytearray(b"view")))
        assert await loop.sock_recv(near, 0) == b""
        assert await loop.sock_recv(near, 10) == b"view"

    run(main())
