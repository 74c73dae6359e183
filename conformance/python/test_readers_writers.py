"""add_reader and add_writer: level-triggered watching of files, and its corner cases."""

import asyncio
import os
import socket

import pytest

from harness import (
    connect,
    outcome,
    piped,
    read_noting,
    run_turns,
    spin,
    tcp_pair,
    unix_pair,
    until,
)


@pytest.fixture
def pair():
    near, far = unix_pair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


def test_level_triggered(loop, run, pair):
    """A partial read leaves the rest ready: the callback comes again."""
    near, far = pair
    seen = []

    def readable():
        seen.append(near.recv(2))
        if len(seen) == 3:
            loop.remove_reader(near)

    async def main():
        loop.add_reader(near, readable)
        far.send(b"abcdef")
        await until(lambda: len(seen) == 3)
        await spin(3)

    run(main())
    assert seen == [b"ab", b"cd", b"ef"]


def test_data_there_before_registration(loop, run, pair):
    near, far = pair
    far.send(b"early")
    future = loop.create_future()
    loop.add_reader(near, lambda: future.done() or future.set_result(near.recv(10)))
    assert run(future) == b"early"
    assert loop.remove_reader(near) is True


def test_a_callback_that_does_not_read_is_called_every_turn(loop, pair):
    near, far = pair
    far.send(b"x")
    count = []
    loop.add_reader(near, count.append, 1)
    run_turns(loop, 12)
    loop.remove_reader(near)
    assert 8 <= len(count) <= 16


@pytest.mark.parametrize("others_come_and_go", [True, False])
def test_one_turn_calls_once_and_not_for_what_was_read(loop, run, pair, others_come_and_go):
    """Whatever happens between two waits: a callback that reads from a blocking file finds something to read."""
    near, far = pair
    calls = []

    def come(data, is_read):
        far.send(data)
        if others_come_and_go:
            loop.remove_reader(other)
        if is_read:
            assert near.recv(10) == data

    async def main():
        loop.add_reader(near, read_noting, near, calls)
        for round in range(6):
            loop.add_reader(other, int)
            await asyncio.sleep(0.001)
            loop.call_soon(come, b"%d" % round, round % 2 == 0)
            await asyncio.sleep(0.001)

    other, end = unix_pair()
    with other, end:
        run(main())
        loop.remove_reader(other)
        loop.remove_reader(near)
    assert calls == [b"1", b"3", b"5"]


def test_room_comes_when_the_data_is_read_already(loop, run, pair):
    """Of two directions of one file, only the one that is ready now is called."""
    near, far = pair
    calls = set()

    def come():
        far.send(b"x")
        assert near.recv(10) == b"x"
        for _ in range(1000):
            try:
                far.recv(1 << 20)
            except BlockingIOError:
                break

    async def main():
        loop.add_reader(near, calls.add, "read")
        loop.add_writer(near, calls.add, "write")
        for _ in range(3):
            with pytest.raises(BlockingIOError):
                while True:
                    near.send(b"x" * 65536)
            await asyncio.sleep(0.001)
            calls.clear()
            loop.call_soon(come)
            await asyncio.sleep(0.001)
            assert calls == {"write"}
        loop.remove_reader(near)
        loop.remove_writer(near)

    run(main())


def test_writers(loop, run, pair):
    near, far = pair
    count = []
    loop.add_writer(near, count.append, 1)
    run_turns(loop, 5)
    assert loop.remove_writer(near) is True
    before = len(count)
    assert before >= 3
    run_turns(loop, 5)
    assert len(count) == before


def test_a_full_buffer_is_not_writable(loop, run, pair):
    near, far = pair
    filled = 0
    with pytest.raises(BlockingIOError):
        while True:
            filled += near.send(b"x" * 65536)
    count = []
    loop.add_writer(near, count.append, 1)
    run_turns(loop, 5)
    assert count == []

    async def main():
        left = filled
        while left:
            left -= len(far.recv(1 << 20))
        await until(lambda: count)

    run(main())
    loop.remove_writer(near)


def test_both_directions_of_one_file(loop, run, pair):
    near, far = pair
    seen = set()

    def note(name):
        seen.add(name)

    async def main():
        loop.add_reader(near, note, "read")
        loop.add_writer(near, note, "write")
        await until(lambda: "write" in seen)
        assert "read" not in seen
        far.send(b"x")
        await until(lambda: "read" in seen)
        # Taking one away leaves the other.
        assert loop.remove_writer(near)
        seen.clear()
        await until(lambda: "read" in seen)
        assert seen == {"read"}
        near.recv(10)
        loop.add_writer(near, note, "write")
        assert loop.remove_reader(near)
        seen.clear()
        far.send(b"x")
        await until(lambda: "write" in seen)
        await spin(3)
        assert seen == {"write"}
        assert loop.remove_writer(near)

    run(main())


def test_return_values(loop, pair):
    near, _ = pair
    assert loop.add_reader(near, print) is None
    assert loop.add_writer(near, print) is None
    assert loop.remove_reader(near) is True
    assert loop.remove_reader(near) is False
    assert loop.remove_writer(near) is True
    assert loop.remove_writer(near) is False
    assert loop.remove_reader(999) is False


def test_numbers_and_objects_name_the_same_file(loop, run, pair):
    near, far = pair
    seen = []
    loop.add_reader(near.fileno(), seen.append, "number")
    assert loop.remove_reader(near) is True

    class HasFileno:
        def fileno(self):
            return near.fileno()

    loop.add_reader(HasFileno(), seen.append, "object")
    far.send(b"x")
    run_turns(loop, 3)
    assert set(seen) == {"object"}
    assert loop.remove_reader(near.fileno()) is True


def test_replacing(loop, run, pair):
    near, far = pair
    seen = []
    loop.add_reader(near, seen.append, "old")
    loop.add_reader(near, seen.append, "new")
    far.send(b"x")
    run_turns(loop, 3)
    assert loop.remove_reader(near) is True
    assert set(seen) == {"new"}


def test_replacing_inside_the_callback(loop, run, pair):
    near, far = pair
    seen = []

    def first():
        seen.append("first")
        loop.add_reader(near, second)

    def second():
        seen.append("second")
        loop.remove_reader(near)

    loop.add_reader(near, first)
    far.send(b"x")
    run_turns(loop, 6)
    assert seen == ["first", "second"]


def test_removing_inside_the_callback(loop, pair):
    near, far = pair
    seen = []

    def once():
        seen.append(loop.remove_reader(near))

    loop.add_reader(near, once)
    far.send(b"x")
    run_turns(loop, 5)
    assert seen == [True]


def test_removing_the_other_direction_inside_the_callback(loop, pair):
    """Readable and writable in one event: the reader takes the writer away before it runs."""
    near, far = pair
    seen = []

    def reader():
        seen.append("read")
        loop.remove_writer(near)
        loop.remove_reader(near)

    far.send(b"x")
    loop.add_reader(near, reader)
    loop.add_writer(near, seen.append, "write")
    run_turns(loop, 5)
    assert seen == ["read"]


def test_a_removed_reader_is_not_called_even_if_its_event_is_queued(loop, pair):
    near, far = pair
    far.send(b"x")
    loop.add_reader(near, pytest.fail, "removed")
    loop.call_soon(lambda: loop.remove_reader(near))
    # The first turn polls after the removal was queued, so neither order may call it.
    run_turns(loop, 3)


def test_removing_and_adding_again(loop, run, pair):
    near, far = pair
    seen = []
    for number in range(20):
        loop.add_reader(near, seen.append, number)
        if number % 2:
            run_turns(loop)
        loop.remove_reader(near)
    far.send(b"x")
    loop.add_reader(near, seen.append, "last")
    run_turns(loop, 3)
    loop.remove_reader(near)
    assert set(seen) == {"last"}


def test_end_of_stream_is_readable(loop, run):
    near, far = unix_pair()
    near.setblocking(False)
    future = loop.create_future()
    loop.add_reader(near, lambda: future.done() or future.set_result(near.recv(10)))
    far.close()
    assert run(future) == b""
    loop.remove_reader(near)
    near.close()


def test_a_hang_up_wakes_a_writer(loop, run):
    """A pipe whose reading end went away is 'writable': the write tells the rest."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(write_end, b"x" * 65536)
    future = loop.create_future()
    loop.add_writer(write_end, lambda: future.done() or future.set_result(None))
    loop.call_later(0.002, os.close, read_end)
    run(future)
    loop.remove_writer(write_end)
    with pytest.raises(BrokenPipeError):
        os.write(write_end, b"x")
    os.close(write_end)


def test_pipes_and_eventfds(loop, run):
    read_end, write_end = os.pipe()
    future = loop.create_future()
    loop.add_reader(read_end, lambda: future.set_result(os.read(read_end, 10)))
    os.write(write_end, b"pipe")
    assert run(future) == b"pipe"
    loop.remove_reader(read_end)
    os.close(read_end)
    os.close(write_end)
    if not hasattr(os, "eventfd"):
        return
    fd = os.eventfd(0)
    future = loop.create_future()
    loop.add_reader(fd, lambda: future.set_result(os.eventfd_read(fd)))
    os.eventfd_write(fd, 3)
    assert run(future) == 3
    loop.remove_reader(fd)
    os.close(fd)


def test_a_connecting_socket_becomes_writable(loop, run):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.connect(listener.getsockname())
        future = loop.create_future()
        loop.add_writer(client, lambda: future.done() or future.set_result(None))
        run(future)
        loop.remove_writer(client)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_fd_reuse_after_close(loop, run):
    """The number is taken by another file at once; nothing of the old one may stick."""
    for _ in range(5):
        near, far = unix_pair()
        old = near.fileno()
        loop.add_reader(near, pytest.fail, "the old file's reader was called")
        run_turns(loop)
        assert loop.remove_reader(near)
        near.close()
        far.close()
        near, far = unix_pair()
        assert old in (near.fileno(), far.fileno())
        near, far = (near, far) if near.fileno() == old else (far, near)
        future = loop.create_future()
        loop.add_reader(near, lambda f=future: f.done() or f.set_result(None))
        far.send(b"x")
        run(future)
        loop.remove_reader(near)
        near.close()
        far.close()


def test_fd_reuse_without_removal(compare):
    """The user closed the file first, which is wrong: the number can still be used again."""

    def scenario(loop, reports):
        near, far = unix_pair()
        number = near.fileno()
        seen = []
        loop.add_reader(near, seen.append, "old")
        run_turns(loop)
        near.close()
        far.close()
        near, far = unix_pair()
        mine, other = (near, far) if near.fileno() == number else (far, near)
        assert mine.fileno() == number
        loop.remove_reader(number)
        loop.add_reader(mine, seen.append, "new")
        other.send(b"x")
        run_turns(loop, 3)
        result = set(seen), loop.remove_reader(mine)
        near.close()
        far.close()
        return result

    assert compare(scenario) == ({"new"}, True)


@pytest.mark.parametrize("calls", [("reader",), ("writer",), ("reader", "writer")], ids="+".join)
def test_removing_after_the_file_was_closed(compare, calls):
    """Wrong order, as users get it wrong: told the same way as by asyncio."""

    def scenario(loop, reports):
        near, far = unix_pair()
        number = near.fileno()
        for call in calls:
            getattr(loop, f"add_{call}")(number, print)
        near.close()
        far.close()
        results = [
            outcome(lambda call=call: getattr(loop, f"remove_{call}")(number)) for call in calls
        ]
        run_turns(loop, 2)
        return results

    results = compare(scenario)
    assert len(calls) == 2 or results == [True]


def test_closing_the_loop_forgets_the_files(loop_factory, pair):
    near, far = pair
    loop = loop_factory()
    loop.add_reader(near, pytest.fail)
    loop.add_writer(near, pytest.fail)
    loop.close()
    far.send(b"x")
    assert near.recv(10) == b"x"
    second = loop_factory()
    future = second.create_future()
    second.add_writer(near, lambda: future.done() or future.set_result(1))
    assert second.run_until_complete(future) == 1
    second.remove_writer(near)
    second.close()


def test_duplicated_files_are_watched_apart(loop, run, pair):
    near, far = pair
    with near.dup() as twin:
        seen = set()
        loop.add_reader(near, seen.add, "one")
        loop.add_reader(twin, seen.add, "two")
        far.send(b"x")
        run_turns(loop, 4)
        assert seen == {"one", "two"}
        loop.remove_reader(near)
        seen.clear()
        run_turns(loop, 4)
        assert seen == {"two"}
        loop.remove_reader(twin)


def test_after_a_transport_closed_its_number_is_free(loop, run):
    async def main():
        near, far = tcp_pair()
        number = near.fileno()
        transport, protocol = await connect(near)
        transport.close()
        await protocol.lost
        far.close()
        near, far = unix_pair()
        mine = near if near.fileno() == number else far
        loop.add_reader(mine, print)
        assert loop.remove_reader(mine)
        near.close()
        far.close()

    run(main())


def test_while_a_transport_is_closing_its_number_is_not_shared(loop, run):
    """add_reader on a new socket that reuses the number of a transport of long ago works."""

    async def main():
        for _ in range(20):
            near, far = tcp_pair()
            transport, protocol = await connect(near)
            far.close()
            await protocol.lost
            one, two = unix_pair()
            future = loop.create_future()
            for sock in (one, two):
                loop.add_writer(sock, lambda f=future: f.done() or f.set_result(None))
            await future
            for sock in (one, two):
                assert loop.remove_writer(sock)
                sock.close()

    run(main())


def test_a_raising_reader_stays_registered(loop, reports, pair):
    near, far = pair
    far.send(b"x")
    loop.add_reader(near, lambda: 1 // 0)
    run_turns(loop, 4)
    assert loop.remove_reader(near) is True
    assert len(reports.messages()) >= 2


def test_arguments_reach_the_callback(loop, run, pair):
    near, far = pair
    future = loop.create_future()
    loop.add_writer(near, lambda *args: future.done() or future.set_result(args), 1, "two", None)
    assert run(future) == (1, "two", None)
    loop.remove_writer(near)


def test_watching_from_a_loop_that_sleeps(loop, run, pair):
    """A file registered by a threadsafe callback wakes the loop like any other."""
    import threading

    near, far = pair
    future = loop.create_future()

    def register():
        loop.add_reader(near, lambda: future.done() or future.set_result(near.recv(5)))

    def work():
        loop.call_soon_threadsafe(register)
        far.send(b"hello")

    timer = threading.Timer(0.01, work)
    timer.start()
    assert run(future) == b"hello"
    loop.remove_reader(near)
    timer.join()


def test_the_loop_keeps_the_callback_alive_only_while_registered(loop, pair):
    import gc
    import weakref

    class Callback:
        def __call__(self):
            pass

    callback = Callback()
    alive = weakref.ref(callback)
    loop.add_reader(pair[0], callback)
    loop.add_writer(pair[0], callback)
    del callback
    gc.collect()
    assert alive() is not None
    loop.remove_reader(pair[0])
    loop.remove_writer(pair[0])
    gc.collect()
    assert alive() is None


def test_many_files_at_once(loop, run):
    pairs = [unix_pair() for _ in range(100)]
    seen = []

    def readable(index):
        seen.append((index, pairs[index][0].recv(10)))
        loop.remove_reader(pairs[index][0])

    async def main():
        for index, (near, _) in enumerate(pairs):
            loop.add_reader(near, readable, index)
        for index in reversed(range(100)):
            pairs[index][1].send(b"%d" % index)
        await until(lambda: len(seen) == 100)

    run(main())
    assert sorted(seen) == [(index, b"%d" % index) for index in range(100)]
    for near, far in pairs:
        near.close()
        far.close()


def test_readers_beside_transports(loop, run, pair):
    near, far = pair

    async def main():
        async with piped() as (transport, protocol, peer):
            future = loop.create_future()
            loop.add_reader(near, lambda: future.done() or future.set_result(near.recv(5)))
            peer.send(b"transport")
            far.send(b"file")
            assert await protocol.got(9) == b"transport"
            assert await future == b"file"
            loop.remove_reader(near)

    run(main())
