"""loop.sock_sendfile."""

import socket

from harness import (
    FILE_SIZE,
    outcome,
    pattern,
    piped,
    recv_exactly,
    tcp_pair,
    unix_pair,
)


def test_sock_sendfile(run, loop, file):
    async def main():
        near, far = unix_pair()
        near.setblocking(False)
        with near, far:
            reading = loop.run_in_executor(None, recv_exactly, far, FILE_SIZE - 500)
            assert await loop.sock_sendfile(near, file, 500) == FILE_SIZE - 500
            assert await reading == pattern(FILE_SIZE)[500:]

    run(main())


def test_sock_sendfile_refuses(compare, tmp_path):
    (tmp_path / "file").write_bytes(b"x")

    def scenario(loop, reports):
        found = []
        with open(tmp_path / "file", "rb") as file, socket.socket() as blocking:
            found.append(
                outcome(lambda: loop.run_until_complete(loop.sock_sendfile(blocking, file)))
            )
            with socket.socket(type=socket.SOCK_DGRAM) as datagram:
                datagram.setblocking(False)
                found.append(
                    outcome(lambda: loop.run_until_complete(loop.sock_sendfile(datagram, file)))
                )
        return found

    loop_result = compare(scenario)
    assert loop_result[1][0] == "ValueError"


def test_sock_sendfile_waits_its_turn(compare, tmp_path):
    """On a socket that a transport owns, nobody waits; one in use by a reader is no hindrance."""
    (tmp_path / "file").write_bytes(pattern(FILE_SIZE))

    def scenario(loop, reports):
        async def main():
            with open(tmp_path / "file", "rb") as file:
                near, far = tcp_pair()
                near.setblocking(False)
                with near, far:
                    receiving = loop.create_task(loop.sock_recv(near, 10))
                    reading = loop.run_in_executor(None, recv_exactly, far, FILE_SIZE)
                    sent = await loop.sock_sendfile(near, file)
                    got = await reading
                    far.send(b"x")
                    found = [sent, got == pattern(FILE_SIZE), await receiving]
                async with piped() as (transport, protocol, peer):
                    try:
                        await loop.sock_sendfile(transport._sock, file)
                    except RuntimeError as exc:
                        found.append("is used by transport" in str(exc))
            return found

        return loop.run_until_complete(main())

    found = compare(scenario)
    assert found == [FILE_SIZE, True, b"x", True]


def test_a_socket_of_a_class_of_its_own(run, loop, file):
    class Socket(socket.socket):
        pass

    async def main():
        near, far = tcp_pair()
        with Socket(fileno=near.detach()) as near, far:
            near.setblocking(False)
            reading = loop.run_in_executor(None, recv_exactly, far, 1_000_000)
            assert await loop.sock_sendfile(near, file, 7, 1_000_000) == 1_000_000
            assert await reading == pattern(FILE_SIZE)[7:][:1_000_000]

    run(main())
