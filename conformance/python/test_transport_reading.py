"""The stream transport reads: all that is there, in asyncio's order, and nobody else waits for long."""

import array
import asyncio
import os
import socket
import sys

import pytest

from harness import (
    BufferedRecorder,
    Recorder,
    connect,
    piped,
    reset,
    spin,
    tcp_pair,
    unix_pair,
    until,
)


@pytest.fixture
def urgent(loop):
    """Skips where the kernel's interface does not tell of urgent data."""
    if getattr(loop, "backend", None) == "kqueue":
        pytest.skip("kqueue does not report urgent data, so what is behind it waits for more")


both_recorders = pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])


@both_recorders
def test_reads_go_on_behind_urgent_data(run, urgent, kind):
    async def main():
        async with piped(kind()) as (_, protocol, peer):
            for _ in range(2):
                protocol.data.clear()
                peer.send(b"abc")
                peer.send(b"!", socket.MSG_OOB)
                peer.send(b"def")
                await until(lambda: protocol.data == b"abcdef")

    run(main())


def test_a_stream_goes_on_behind_urgent_data(run, urgent):
    async def main():
        near, peer = tcp_pair()
        reader, writer = await asyncio.open_connection(sock=near)
        await spin(2)
        peer.send(b"\xff")
        peer.send(b"\xf2", socket.MSG_OOB)
        peer.send(b"look\r\n")
        assert await asyncio.wait_for(reader.readline(), 5) == b"\xfflook\r\n"
        writer.close()
        peer.close()
        await spin(2)

    run(main())


@both_recorders
def test_reads_go_on_behind_file_descriptors(run, kind):
    """The kernel ends a read there, and nobody asks for the descriptors."""

    async def main():
        async with piped(kind(), unix_pair) as (_, protocol, peer):
            await spin(2)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))
            peer.sendmsg([b"A"], [rights])
            peer.send(b"B")
            await until(lambda: protocol.data == b"AB")

    run(main())


def test_a_stream_goes_on_behind_file_descriptors(run):
    async def main():
        near, peer = unix_pair()
        reader, writer = await asyncio.open_unix_connection(sock=near)
        await spin(2)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))
        peer.sendmsg([b"line 1\n"], [rights])
        peer.send(b"line 2\n")
        for line in b"line 1\n", b"line 2\n":
            assert await asyncio.wait_for(reader.readline(), 5) == line
        writer.close()
        peer.close()
        await spin(2)

    run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="SO_PASSCRED is Linux's")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # pytest's watchdog is a thread
def test_reads_go_on_where_the_sender_changes(run):
    async def main():
        async with piped(sockets=unix_pair) as (transport, protocol, peer):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            await spin(2)
            child = os.fork()
            if child == 0:
                peer.send(b"child")
                os._exit(0)
            os.waitpid(child, 0)
            peer.send(b"parent")
            await until(lambda: protocol.data == b"childparent")

    run(main())


class Asked(Recorder):
    """Answers every request in a callback of its own."""

    def data_received(self, data):
        super().data_received(data)
        self.loop.call_soon(self.answer)

    def answer(self):
        self.events.append(("answer",))
        self.transport.write(b"reply")


@pytest.mark.parametrize("sockets", [tcp_pair, unix_pair])
def test_an_answer_leaves_although_the_end_came_with_the_request(run, sockets):
    async def main():
        near, peer = sockets()
        peer.settimeout(10)
        peer.send(b"request")
        peer.shutdown(socket.SHUT_WR)
        _, protocol = await connect(near, Asked())
        await protocol.lost
        assert protocol.names == ["made", "data", "answer", "eof", "lost"]
        assert peer.recv(10) == b"reply"
        peer.close()

    run(main())


def test_what_a_read_schedules_comes_before_the_next_read(run, loop):
    class Scheduling(BufferedRecorder):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.loop.call_soon(self.events.append, ("soon",))

    async def main():
        near, peer = unix_pair()
        peer.send(bytes(2500))
        _, protocol = await connect(near, Scheduling(size=1000))
        await until(lambda: protocol.names.count("soon") == 3)
        assert protocol.names == ["made"] + ["updated", "soon"] * 3
        peer.close()
        await protocol.lost

    run(main())


def test_what_follows_a_resume_comes_before_the_read(run, loop):
    async def main():
        async with piped() as (transport, protocol, peer):
            transport.pause_reading()
            peer.send(b"x")
            await asyncio.sleep(0.01)
            transport.resume_reading()
            loop.call_soon(protocol.events.append, ("soon",))
            await until(lambda: "data" in protocol.names)
            assert protocol.names == ["made", "soon", "data"]

    run(main())


@pytest.mark.parametrize("toggles", [False, True])
def test_one_read_per_turn(run, loop, toggles):
    """However often a transport is paused and resumed meanwhile."""

    class Busy(BufferedRecorder):
        reads = 0

        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.reads += 1
            if toggles:
                for _ in range(2):
                    self.transport.pause_reading()
                    self.transport.resume_reading()

    async def main():
        near, peer = unix_pair()
        peer.send(bytes(6400))
        _, protocol = await connect(near, Busy(size=64))
        most = 0
        while len(protocol.data) < 6400:
            before = protocol.reads
            await spin()
            most = max(most, protocol.reads - before)
        assert most == 1
        peer.close()
        await protocol.lost

    run(main())


class Writing(Recorder):
    """Writes in every callback, then raises in one."""

    where = ""

    def data_received(self, data):
        self.say("data_received")

    def eof_received(self):
        self.say("eof_received")

    def say(self, where):
        self.transport.write(b"bye")
        if self.where == where:
            raise ZeroDivisionError


class WritingBuffered(BufferedRecorder, Writing):
    def get_buffer(self, sizehint):
        self.say("get_buffer")
        return super().get_buffer(sizehint)

    def buffer_updated(self, nbytes):
        self.say("buffer_updated")


@pytest.mark.parametrize("where", ["data_received", "eof_received", "get_buffer", "buffer_updated"])
def test_what_was_written_before_an_error_leaves(run, reports, where):
    async def main():
        kind = Writing if where in vars(Writing) else WritingBuffered
        protocol = kind()
        protocol.where = where
        async with piped(protocol) as (_, _, peer):
            if where == "eof_received":
                peer.shutdown(socket.SHUT_WR)
            else:
                peer.send(b"x")
            assert isinstance(await protocol.lost, ZeroDivisionError)
            assert peer.recv(3) == b"bye"

    run(main())
    assert isinstance(reports.one()["exception"], ZeroDivisionError)


def test_the_end_of_writing_on_a_broken_connection(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            reset(peer)
            transport.write(b"x")
            transport.write_eof()
            assert transport.is_closing()
            transport.write(b"y")
            assert isinstance(await protocol.lost, ConnectionError)

    run(main())
