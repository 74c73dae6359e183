"""Pipe transports: flow control, errors, what is refused, and what is logged, compared with asyncio's."""

import asyncio
import contextvars
import errno
import gc
import logging
import os
import pty
import select
import socket
import sys
import tty
import warnings

import pytest

from harness import Recorder, normal, outcome, pattern, spin, until

VARIABLE = contextvars.ContextVar("variable", default="none")
READ, WRITE = "connect_read_pipe", "connect_write_pipe"


async def ends(loop, call, protocol=None):
    """(transport, protocol, the other end's fd), the other end non-blocking"""
    near, far = os.pipe()
    mode = "rb"
    if call == WRITE:
        near, far, mode = far, near, "wb"
    os.set_blocking(far, False)
    connect = getattr(loop, call)
    transport, protocol = await connect(lambda: protocol or Recorder(), os.fdopen(near, mode, 0))
    return transport, protocol, far


async def finish(transport, protocol, far):
    transport.close()
    if far is not None:
        os.close(far)
    return await protocol.lost


def plain(text):
    """A repr or a log line without the names of classes, which are not asyncio's."""
    text = normal(text).replace("_Unix", "").replace("zloop.", "")
    return text.replace("ReadPipeTransport", "R").replace("WritePipeTransport", "W")


@pytest.mark.parametrize("call", [READ, WRITE])
def test_what_a_transport_shows(compare, call):
    def scenario(loop, reports):
        async def main():
            transport, protocol, far = await ends(loop, call)
            seen = [plain(repr(transport)), transport._closing, transport.is_closing()]
            seen += [transport.get_protocol() is protocol, transport._loop is loop]
            seen += [transport._pipe is transport.get_extra_info("pipe")]
            seen += [
                transport._fileno == transport._pipe.fileno(),
                transport.get_extra_info("x", 5),
            ]
            seen += [isinstance(transport, kind) for kind in (asyncio.ReadTransport, asyncio.WriteTransport,
                                                             asyncio.Transport, asyncio.BaseTransport)]  # fmt: skip
            if call == READ:
                transport.pause_reading()
                seen += [plain(repr(transport)), transport._paused, transport.is_reading()]
                transport.resume_reading()
            else:
                transport.write(b"x" * 1_000_000)
                seen += [plain(repr(transport)), transport.can_write_eof()]
            transport.close()
            seen += [plain(repr(transport)), transport.is_closing()]
            await finish(transport, protocol, far)
            return [*seen, plain(repr(transport)), transport._pipe, transport._loop]

        return loop.run_until_complete(main())

    assert "closed" in compare(scenario)[-3]


@pytest.mark.parametrize("call", [READ, WRITE])
def test_files_are_refused_in_asyncios_words(compare, call, tmp_path):
    def scenario(loop, reports):
        async def attempt():
            with open(tmp_path / "file", "w+") as file:
                await getattr(loop, call)(lambda: Recorder(loop), file)

        return outcome(lambda: loop.run_until_complete(attempt()))

    assert "pipes" in compare(scenario)[1]


def test_what_data_received_raises_is_reported_and_reading_goes_on(run, loop, reports):
    class Raises(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise ZeroDivisionError(data)

    async def main():
        transport, protocol, far = await ends(loop, READ, Raises())
        for word in (b"one", b"two"):
            os.write(far, word)
            await until(lambda: reports.contexts)
            assert isinstance(reports.one()["exception"], ZeroDivisionError)
            assert not transport.is_closing()
        assert protocol.data == b"onetwo"
        await finish(transport, protocol, far)

    run(main())


@pytest.mark.parametrize("early", [False, True])
def test_paused_before_and_after_the_end(run, loop, early):
    """The end of the stream waits until reading is resumed."""

    class Pauses(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            if early:
                transport.pause_reading()

    async def main():
        transport, protocol, far = await ends(loop, READ, Pauses())
        transport.pause_reading()
        os.write(far, b"data")
        os.close(far)
        await asyncio.sleep(0.005)
        assert protocol.names == ["made"]
        transport.resume_reading()
        transport.resume_reading()
        await protocol.lost
        assert protocol.names == ["made", "data", "eof", "lost"]

    run(main())


def test_closing_while_data_waits(run, loop):
    """Nothing is delivered after close(), and pausing does nothing any more."""

    async def main():
        transport, protocol, far = await ends(loop, READ)
        os.write(far, b"data")
        transport.close()
        transport.close()
        transport.pause_reading()
        transport.resume_reading()
        assert not transport.is_reading() and transport.is_closing()
        await finish(transport, protocol, far)
        assert protocol.names == ["made", "lost"]

    run(main())


def test_closing_in_connection_made(run, loop):
    class Closes(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.close()

    async def main():
        loop.set_debug(False)  # it asks the closed pipe for its fd, to log it
        transport, protocol, far = await ends(loop, READ, Closes())
        await finish(transport, protocol, far)
        assert protocol.names == ["made", "lost"]

    run(main())


def test_large_reads_come_in_large_pieces(run, loop):
    """What waits in a pipe arrives in one call."""
    if not hasattr(__import__("fcntl"), "F_SETPIPE_SZ"):
        pytest.skip("the size of a pipe cannot be set here")
    import fcntl

    async def main():
        transport, protocol, far = await ends(loop, READ)
        fcntl.fcntl(far, fcntl.F_SETPIPE_SZ, 1 << 20)
        for _ in range(3):
            protocol.events.clear()
            transport.pause_reading()
            data = pattern(200_000)
            assert os.write(far, data) == len(data)
            transport.resume_reading()
            await until(lambda: len(protocol.events) == 1)
            assert protocol.events == [("data", data)]
        await finish(transport, protocol, far)

    run(main())


def test_callbacks_run_in_the_context_of_the_last_resume(run, loop):
    seen = []

    class Looks(Recorder):
        def data_received(self, data):
            seen.append(VARIABLE.get())
            super().data_received(data)

    async def resume(transport):
        VARIABLE.set("resumed")
        transport.resume_reading()

    async def main():
        VARIABLE.set("made")
        transport, protocol, far = await ends(loop, READ, Looks())
        VARIABLE.set("later")
        os.write(far, b"1")
        await protocol.got(1)
        transport.pause_reading()
        await loop.create_task(resume(transport))
        os.write(far, b"2")
        await protocol.got(2)
        assert seen == ["made", "resumed"]
        await finish(transport, protocol, far)

    run(main())


@pytest.mark.zloop_only("on asyncio each write is a system call")
def test_writes_of_one_callback_leave_together(run, loop):
    async def main():
        transport, protocol, far = await ends(loop, WRITE)
        for index in range(200):
            transport.write(b"%03d" % index)
        assert not select.select([far], [], [], 0)[0]
        await spin()
        assert os.read(far, 10_000) == b"".join(b"%03d" % index for index in range(200))
        transport.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
        assert transport.get_write_buffer_size() == 0
        assert os.read(far, 10) == b"abc"
        await finish(transport, protocol, far)

    run(main())


def test_what_is_written_arrives_in_order_whatever_its_size(run, loop):
    """Through a pipe that is full most of the time, read in odd pieces."""
    parts = [pattern(size) for size in (1, 70_000, 3, 5, 4096, 200_000, 1, 1, 1, 65_537)] * 3
    expected = b"".join(parts)

    async def main():
        transport, protocol, far = await ends(loop, WRITE)
        found = b""
        for index, part in enumerate(parts):
            transport.write(part)
            if index % 4 == 0:
                await spin()
        while len(found) < len(expected):
            try:
                found += os.read(far, 7919)
            except BlockingIOError:
                await asyncio.sleep(0)
        assert found == expected
        assert transport.get_write_buffer_size() == 0
        assert protocol.names == ["made", "pause", "resume"]
        await finish(transport, protocol, far)

    run(main())


def test_mutable_buffers_are_copied(run, loop):
    async def main():
        transport, protocol, far = await ends(loop, WRITE)
        buffer = bytearray(b"a" * 100_000)
        transport.write(buffer)
        transport.write(memoryview(buffer)[:10])
        buffer[:] = b"b" * len(buffer)
        found = b""
        while len(found) < 100_010:
            try:
                found += os.read(far, 65536)
            except BlockingIOError:
                await asyncio.sleep(0)
        assert found == b"a" * 100_010
        await finish(transport, protocol, far)

    run(main())


def test_limits(compare):
    def scenario(loop, reports):
        async def main():
            transport, protocol, far = await ends(loop, WRITE)
            seen = [transport.get_write_buffer_limits()]
            for limits in ({"high": 100}, {"low": 7}, {"high": 5, "low": 9}, {"high": -1}, {}):
                seen.append(
                    outcome(lambda limits=limits: transport.set_write_buffer_limits(**limits))
                )
                seen.append(transport.get_write_buffer_limits())
            transport.set_write_buffer_limits(high=0)
            transport.write(b"x" * 65536)
            seen.append((transport.get_write_buffer_size(), list(protocol.names)))
            transport.write(b"yz")
            seen.append((transport.get_write_buffer_size(), list(protocol.names)))
            os.read(far, 65536)
            await until(lambda: transport.get_write_buffer_size() == 0)
            seen.append(list(protocol.names))
            await finish(transport, protocol, far)
            return seen

        return loop.run_until_complete(main())

    assert compare(scenario)[0] == (16384, 65536)


def test_what_write_refuses(compare):
    def scenario(loop, reports):
        async def main():
            transport, protocol, far = await ends(loop, WRITE)
            words = [
                outcome(lambda thing=thing: transport.write(thing))
                for thing in ("x", 5, None, [b"x"], b"", bytearray())
            ]
            await finish(transport, protocol, far)
            return words

        return loop.run_until_complete(main())

    assert compare(scenario)[0][0] == "AssertionError"


def test_writes_after_the_end_are_dropped(compare, caplog):
    def scenario(loop, reports):
        async def main():
            transport, protocol, far = await ends(loop, WRITE)
            transport.write(b"before")
            transport.write_eof()
            transport.write_eof()
            caplog.clear()
            for _ in range(8):
                transport.write(b"after")
            found = [(record.levelname, record.getMessage()) for record in caplog.records]
            found += [os.read(far, 100), transport.get_write_buffer_size(), transport._conn_lost]
            await finish(transport, protocol, far)
            return found

        return loop.run_until_complete(main())

    assert ("WARNING", "pipe closed by peer or os.write(pipe, data) raised exception.") in compare(
        scenario
    )


@pytest.mark.parametrize("unsent", [0, 1_000_000])
@pytest.mark.parametrize("how", ["abort", "close", "peer", "write"])
def test_ends(compare, how, unsent):
    """Each way to end, with and without bytes that the kernel has not taken."""

    def scenario(loop, reports):
        async def main():
            transport, protocol, far = await ends(loop, WRITE)
            if unsent:
                transport.write(b"x" * unsent)
            if how in ("peer", "write"):
                os.close(far)
                if how == "write":
                    transport.write(b"y")
                    transport.write(b"z")
                far = None
            else:
                getattr(transport, how)()
            # What is written leaves when this callback returns, so a write cannot have failed yet.
            closing = how == "write" or transport.is_closing()
            if how == "close":
                while unsent and not protocol.lost.done():
                    with_data = select.select([far], [], [], 0)[0]
                    unsent_data = os.read(far, 65536) if with_data else b""
                    await asyncio.sleep(0)
                    if with_data and not unsent_data:
                        break
            exc = await protocol.lost
            if far is not None:
                os.close(far)
            size = transport.get_write_buffer_size()
            return closing, type(exc).__name__, protocol.names, size

        return loop.run_until_complete(main())

    found = compare(scenario)
    assert found[2][-1] == "lost" and found[3] == 0


def test_abort_twice_and_after_close(run, loop):
    """connection_lost() is called once."""

    async def main():
        transport, protocol, far = await ends(loop, WRITE)
        transport.write(b"x" * 1_000_000)
        transport.close()
        transport.abort()
        await finish(transport, protocol, far)
        await spin(3)
        assert protocol.names == ["made", "pause", "lost"]

    run(main())


def test_a_socket_whose_peer_writes_is_closed(compare):
    """A writing end that turns readable counts as closed by its peer, as on asyncio."""

    def scenario(loop, reports):
        async def main():
            near, far = socket.socketpair()
            transport, protocol = await loop.connect_write_pipe(Recorder, near)
            far.send(b"data")
            exc = await protocol.lost
            far.close()
            return exc, protocol.names

        return loop.run_until_complete(main())

    assert compare(scenario)[1] == ["made", "lost"]


def test_packets(run, loop):
    """A read that does not fill its buffer need not have emptied the file."""

    async def main():
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        transport, protocol = await loop.connect_read_pipe(Recorder, near)
        for index in range(50):
            far.send(b"%d" % index)
        await until(lambda: len(protocol.events) == 51)
        assert protocol.events[1:] == [("data", b"%d" % index) for index in range(50)]
        transport.close()
        await protocol.lost
        far.close()

    run(main())


def test_two_transports_share_a_terminal(run, loop):
    """Reading and writing one terminal, as programs do that control another one."""

    async def main():
        master, slave = pty.openpty()
        tty.setraw(slave)
        file = os.fdopen(master, "r+b", 0)
        reader, incoming = await loop.connect_read_pipe(Recorder, file)
        writer, outgoing = await loop.connect_write_pipe(Recorder, file)
        data = pattern(100_000)
        writer.write(data)
        os.write(slave, b"typed")
        found = b""
        while len(found) < len(data):
            if select.select([slave], [], [], 0)[0]:
                found += os.read(slave, 65536)
            await asyncio.sleep(0)
        assert found == data
        assert await incoming.got(5) == b"typed"
        writer.close()
        await outgoing.lost
        reader.close()
        await incoming.lost
        os.close(slave)

    run(main())


def test_a_terminal_whose_other_side_is_gone(run, loop):
    """Linux answers EIO: an ordinary end, which is not reported."""

    async def main():
        master, slave = pty.openpty()
        transport, protocol = await loop.connect_read_pipe(Recorder, os.fdopen(master, "rb", 0))
        os.close(slave)
        exc = await protocol.lost
        assert exc is None or exc.errno == errno.EIO

    run(main())


@pytest.mark.parametrize("call", [READ, WRITE])
def test_the_null_device(run, loop, reports, call):
    """Written to at once; Linux refuses to wait for it, others may call it ready and at its end."""

    async def main():
        mode = "rb" if call == READ else "wb"
        file = open("/dev/null", mode, 0)  # noqa: SIM115
        transport, protocol = await getattr(loop, call)(Recorder, file)
        if call == WRITE:
            transport.write(b"x" * 1_000_000)
            assert transport.get_write_buffer_size() == 0
            transport.close()
        else:
            await until(lambda: reports.contexts or protocol.lost.done())
            assert reports.contexts or sys.platform != "linux"
        if reports.contexts:
            assert isinstance(reports.one()["exception"], PermissionError)
            transport.close()
        await protocol.lost

    run(main())


def test_unclosed_transports_warn(loop_factory, reports):
    loop = loop_factory()
    loop.set_exception_handler(reports)

    async def main():
        reader, _, far = await ends(loop, READ)
        writer, _, other = await ends(loop, WRITE)
        return far, other

    fds = loop.run_until_complete(main())
    loop.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
    texts = sorted(plain(w.message) for w in caught if w.category is ResourceWarning)
    texts = [text for text in texts if text.startswith("unclosed transport")]
    assert [text.split()[2] for text in texts] == ["<R", "<W"]
    for fd in fds:
        os.close(fd)


def test_what_is_logged_in_debug_mode(compare, caplog):
    caplog.set_level(logging.DEBUG, "asyncio")

    def scenario(loop, reports):
        async def main():
            loop.slow_callback_duration = 60
            caplog.clear()
            transport, protocol, far = await ends(loop, READ)
            transport.pause_reading()
            transport.resume_reading()
            os.close(far)
            await protocol.lost
            transport, protocol, far = await ends(loop, WRITE)
            os.close(far)
            await protocol.lost
            master, slave = pty.openpty()
            transport, protocol = await loop.connect_read_pipe(Recorder, os.fdopen(master, "rb", 0))
            os.close(slave)
            await protocol.lost
            records = [
                (r.levelname, plain(r.getMessage()), bool(r.exc_info)) for r in caplog.records
            ]
            return [record for record in records if " connected" not in record[1]]

        loop.set_debug(True)
        return loop.run_until_complete(main())

    found = compare(scenario)
    assert ("DEBUG", "<R closed fd=N closed> resumes reading", False) in found


def test_the_protocol_can_be_changed(run, loop):
    async def main():
        transport, protocol, far = await ends(loop, READ)
        other = Recorder(loop)
        transport.set_protocol(other)
        assert transport.get_protocol() is other
        os.write(far, b"data")
        assert await other.got(4) == b"data"
        await finish(transport, other, far)
        assert protocol.names == ["made"]

    run(main())


def test_nothing_keeps_a_closed_transport_alive(run, loop):
    import weakref

    async def main():
        alive = []
        for call in (READ, WRITE):
            transport, protocol, far = await ends(loop, call)
            alive.append(weakref.ref(transport))
            await finish(transport, protocol, far)
            del transport, protocol
        await spin(2)
        gc.collect()
        assert [ref() for ref in alive] == [None, None]

    run(main())


def test_failing_protocol_methods_are_reported(run, loop, reports):
    class Raises(Recorder):
        def pause_writing(self):
            raise ZeroDivisionError("pause")

        def resume_writing(self):
            raise ZeroDivisionError("resume")

    async def main():
        transport, protocol, far = await ends(loop, WRITE, Raises())
        transport.write(b"x" * 1_000_000)
        assert reports.messages() == ["protocol.pause_writing() failed"]
        while transport.get_write_buffer_size():
            with_data = select.select([far], [], [], 0)[0]
            _ = with_data and os.read(far, 65536)
            await asyncio.sleep(0)
        assert reports.messages() == ["protocol.resume_writing() failed"]
        await finish(transport, protocol, far)

    run(main())
