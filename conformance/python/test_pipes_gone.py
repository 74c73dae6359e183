"""Write transports whose file the program closes: the number of its fd may be another file's, which is left alone."""

import asyncio
import contextlib
import errno
import os
import socket

import pytest

from harness import FULL, Recorder, errno_of, spin, taken, until

pytestmark = pytest.mark.thread_unsafe(reason="others could get the number of a closed file")


def untouched(other) -> bool:
    """Whether a stranger's peer has got nothing."""
    with contextlib.suppress(BlockingIOError):
        return other.recv(100) == b"not a byte"
    return True


def open_file(kind, number):
    """The file object of a pipe's writing end."""
    if kind == "socket":
        return socket.socket(fileno=number)
    return os.fdopen(number, "wb", 0 if kind == "raw" else -1)


@contextlib.asynccontextmanager
async def writing(kind="raw"):
    """(transport, protocol, file, fd): a write transport, the file it was made of, and the other end."""
    if kind == "socket":
        near, far = socket.socketpair()
        ends = far.detach(), near.detach()
    else:
        ends = os.pipe()
    file = open_file(kind, ends[1])
    transport, protocol = await asyncio.get_running_loop().connect_write_pipe(Recorder, file)
    await spin(2)
    try:
        yield transport, protocol, file, ends[0]
    finally:
        # asyncio's abort() stands neither being called twice nor a transport without a file.
        if not protocol.lost.done() and transport._pipe is not None:
            transport.abort()
        await spin(3)
        os.close(ends[0])


def read_all(number) -> bytes:
    os.set_blocking(number, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(number, 100)
    return b"nothing"


@pytest.mark.parametrize("kind", ["raw", "buffered", "socket"])
def test_what_was_written_before_the_file_was_closed(run, loop_factory, kind):
    """asyncio has written it by then. Ours says that it could not."""

    async def main():
        async with writing(kind) as (transport, protocol, file, far):
            number = file.fileno()
            transport.write(b"secret")
            file.close()
            with taken(number) as other:
                await spin(3)
                assert untouched(other)
                if not loop_factory.is_zloop:
                    assert read_all(far) == b"secret"
                    return
                assert read_all(far) == b""
                assert errno_of(await protocol.lost)[:2] == (OSError, errno.EBADF)
                transport.write(b"dropped")
                await spin(2)
                assert untouched(other)

    run(main())


def test_what_waits_for_room_when_the_file_is_closed(run, loop_factory):
    """asyncio's transport can neither write nor be closed then."""

    async def main():
        async with writing() as (transport, protocol, file, far):
            number = file.fileno()
            transport.write(b"x" * FULL)
            if not loop_factory.is_zloop:
                return
            file.close()
            with taken(number) as other:
                transport.write(b"more")
                await spin(3)
                assert untouched(other)
                transport.abort()
                await protocol.lost

    run(main())


@pytest.mark.parametrize("way", ["abort", "limits", "close", "size"])
def test_whoever_has_it_written_at_once(run, loop_factory, way):
    async def main():
        async with writing() as (transport, protocol, file, far):
            number = file.fileno()
            transport.write(b"secret")
            file.close()
            with taken(number) as other:
                if way == "abort":
                    transport.abort()
                elif way == "close":
                    transport.close()
                elif way == "limits":
                    transport.set_write_buffer_limits(10)
                else:
                    assert transport.get_write_buffer_size() == 0
                await spin(3)
                assert untouched(other)
                assert read_all(far) == (b"" if loop_factory.is_zloop else b"secret")

    run(main())


def test_the_watch_of_who_has_the_number_by_now_stays(run, loop):
    async def main():
        async with writing() as (transport, protocol, file, far):
            number, seen = file.fileno(), []
            transport.write(b"secret")
            file.close()
            with taken(number) as other:
                loop.remove_reader(number)
                loop.add_reader(number, lambda: seen.append(os.read(number, 10)))
                await spin(3)
                other.send(b"hello")
                await until(lambda: seen)
                assert seen == [b"hello"]
                loop.remove_reader(number)

    run(main())


def test_a_transport_that_is_told_to_forget_its_file(run, loop):
    async def main():
        async with writing() as (transport, protocol, file, far):
            transport.write(b"before")
            transport._pipe = None
            assert read_all(far) == b"before"
            loop.remove_reader(file.fileno())
            file.close()

    run(main())
