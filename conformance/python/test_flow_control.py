"""Watermarks, pause_writing and resume_writing, buffer sizes."""

import asyncio

import pytest

from harness import (
    FULL,
    Recorder,
    outcome,
    pattern,
    piped,
    recv_exactly,
    spin,
    tcp_pair,
    unix_pair,
    until,
)


@pytest.mark.parametrize(
    "limits",
    [
        {}, {"high": 0}, {"high": 1}, {"high": 100}, {"low": 100}, {"high": 100, "low": 50}, {"high": 100, "low": 100},
        {"high": 100, "low": 200}, {"high": -1}, {"low": -1}, {"high": None, "low": None}, {"high": 0, "low": 0},
        {"high": 10**12}, {"high": 1e6}, {"high": 8.0, "low": 2}, {"low": 5.0},
    ],
    ids=str,
)  # fmt: skip
def test_limits(compare, limits):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                before = transport.get_write_buffer_limits()
                result = outcome(lambda: transport.set_write_buffer_limits(**limits))
                return before, result, transport.get_write_buffer_limits()

        return loop.run_until_complete(main())

    before, _, after = compare(scenario)
    assert before == (16384, 65536)


def test_small_writes_leave_no_buffer(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            for size in (1, 10, 1000, 10_000):
                transport.write(b"x" * size)
                assert transport.get_write_buffer_size() == 0
            assert protocol.names == ["made"]

    run(main())


@pytest.mark.parametrize("sockets", [tcp_pair, unix_pair], ids=["tcp", "unix"])
def test_pause_at_the_high_mark_resume_at_the_low_one(run, loop, sockets):
    sizes = []

    class Protocol(Recorder):
        def pause_writing(self):
            sizes.append(("pause", self.transport.get_write_buffer_size()))
            super().pause_writing()

        def resume_writing(self):
            sizes.append(("resume", self.transport.get_write_buffer_size()))
            super().resume_writing()

    async def main():
        async with piped(Protocol(), sockets) as (transport, protocol, peer):
            transport.set_write_buffer_limits(high=300_000, low=100_000)
            transport.write(b"x" * FULL)
            assert protocol.names == ["made", "pause"], "pause_writing is called inside write"
            held = transport.get_write_buffer_size()
            assert 300_000 < held < FULL
            assert sizes == [("pause", held)], (
                "the bytes count already when pause_writing is called"
            )
            transport.write(b"y" * 1000)
            assert transport.get_write_buffer_size() == held + 1000
            assert protocol.names == ["made", "pause"], "pause_writing is called once"
            reading = loop.run_in_executor(None, recv_exactly, peer, FULL + 1000)
            await until(lambda: "resume" in protocol.names)
            assert sizes[1][1] <= 100_000
            assert await reading == b"x" * FULL + b"y" * 1000
            assert transport.get_write_buffer_size() == 0
            assert protocol.names == ["made", "pause", "resume"]

    run(main())


def test_exactly_the_high_mark_does_not_pause(run):
    """Only above the mark."""

    async def main():
        async with piped() as (transport, protocol, peer):
            transport.write(b"x" * FULL)
            held = transport.get_write_buffer_size()
            transport.set_write_buffer_limits(high=held + 10)
            assert protocol.names == ["made", "pause"]
            transport.abort()
            await protocol.lost
        async with piped() as (transport, protocol, peer):
            transport.set_write_buffer_limits(high=FULL * 2)
            transport.write(b"x" * FULL)
            held = transport.get_write_buffer_size()
            transport.set_write_buffer_limits(high=held + 10)
            transport.write(b"y" * 10)
            assert transport.get_write_buffer_size() == held + 10
            assert protocol.names == ["made"]
            transport.write(b"z")
            assert protocol.names == ["made", "pause"]

    run(main())


@pytest.mark.parametrize("high", [2**70, float("inf")])
def test_no_limit(run, high):
    async def main():
        async with piped() as (transport, protocol, _):
            transport.set_write_buffer_limits(high=high, low=0)
            transport.write(bytes(FULL))
            assert protocol.names == ["made"]

    run(main())


def test_lowering_the_limits_acts_at_once(compare):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                transport.set_write_buffer_limits(high=FULL * 2)
                transport.write(b"x" * FULL)
                before = list(protocol.names)
                transport.set_write_buffer_limits(high=1000)
                return before, protocol.names

        return loop.run_until_complete(main())

    assert compare(scenario)[0] == ["made"]


def test_a_high_mark_of_zero(run, loop):
    """Every unsent byte pauses; an empty buffer resumes."""

    async def main():
        async with piped() as (transport, protocol, peer):
            transport.set_write_buffer_limits(high=0)
            transport.write(b"small")
            assert protocol.names == ["made"], (
                "it was sent at once, so there is nothing to pause for"
            )
            transport.write(b"x" * FULL)
            assert protocol.names == ["made", "pause"]
            await loop.run_in_executor(None, recv_exactly, peer, FULL + 5)
            await until(lambda: "resume" in protocol.names)
            assert transport.get_write_buffer_size() == 0

    run(main())


def test_pausing_many_times(run, loop):
    """A writer that obeys pause and resume: all arrives, in order, in bounded memory."""
    data = pattern(2_000_000)

    async def main():
        peak = 0

        class Protocol(Recorder):
            def pause_writing(self):
                super().pause_writing()
                self.can_write = loop.create_future()

            def resume_writing(self):
                super().resume_writing()
                self.can_write.set_result(None)

        async with piped(Protocol()) as (transport, protocol, peer):
            protocol.can_write = loop.create_future()
            protocol.can_write.set_result(None)
            transport.set_write_buffer_limits(high=20_000, low=5_000)
            reading = loop.run_in_executor(None, recv_exactly, peer, len(data))
            for start in range(0, len(data), 50_000):
                await protocol.can_write
                transport.write(data[start : start + 50_000])
                peak = max(peak, transport.get_write_buffer_size())
            assert await reading == data
            assert peak <= 20_000 + 50_000
            pauses = [name for name in protocol.names if name in ("pause", "resume")]
            assert pauses == ["pause", "resume"] * (len(pauses) // 2)

    run(main())


@pytest.mark.parametrize("how", ["write", "writelines"])
def test_writing_inside_pause_writing(run, loop, how):
    """What is written there goes behind what caused the pause."""

    class Protocol(Recorder):
        def pause_writing(self):
            super().pause_writing()
            if how == "write":
                self.transport.write(b"tail")
            else:
                self.transport.writelines([b"ta", b"il"])

    async def main():
        async with piped(Protocol()) as (transport, protocol, peer):
            data = pattern(FULL)
            transport.write(data)
            assert await loop.run_in_executor(None, recv_exactly, peer, FULL + 4) == data + b"tail"

    run(main())


class ActsOnResume(Recorder):
    """Does something to its transport at the first resume_writing."""

    def resume_writing(self):
        super().resume_writing()
        if self.names.count("resume") == 1:
            self.act(self.transport)


async def resumed_with(loop, act, expect):
    protocol = ActsOnResume()
    protocol.act = act
    async with piped(protocol) as (transport, _, peer):
        transport.set_write_buffer_limits(high=100_000, low=50_000)
        transport.write(pattern(FULL))
        received = await loop.run_in_executor(None, recv_exactly, peer, expect)
        if transport.is_closing():
            assert await protocol.lost is None
            assert protocol.names.count("lost") == 1
    return received


@pytest.mark.parametrize("size", [4, FULL])
def test_writing_inside_resume_writing(run, loop, size):
    """Re-entering the transport while the rest of the buffer is being sent loses nothing."""
    tail = pattern(size)
    received = run(resumed_with(loop, lambda transport: transport.write(tail), FULL + size))
    assert received == pattern(FULL) + tail


def test_write_eof_inside_resume_writing(run, loop):
    assert run(resumed_with(loop, lambda transport: transport.write_eof(), FULL + 1)) == pattern(
        FULL
    )


@pytest.mark.zloop_only("asyncio stumbles over a close from inside resume_writing")
@pytest.mark.parametrize("what", ["close", "abort"])
def test_closing_inside_resume_writing(run, loop, what):
    received = run(resumed_with(loop, lambda transport: getattr(transport, what)(), FULL + 1))
    if what == "close":
        assert received == pattern(FULL)
    else:
        assert pattern(FULL).startswith(received)


@pytest.mark.parametrize("what", ["close", "abort", "write_eof"])
def test_acting_inside_pause_writing(run, loop, what):
    class Protocol(Recorder):
        def pause_writing(self):
            super().pause_writing()
            getattr(self.transport, what)()

    async def main():
        async with piped(Protocol()) as (transport, protocol, peer):
            data = pattern(FULL)
            transport.write(data)
            assert "lost" not in protocol.names
            received = await loop.run_in_executor(None, recv_exactly, peer, FULL + 1)
            if what == "abort":
                assert data.startswith(received)
            else:
                assert received == data
            if what != "write_eof":
                assert await protocol.lost is None

    run(main())


def test_resume_is_not_called_after_abort(compare):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                transport.write(b"x" * FULL)
                transport.abort()
                await protocol.lost
                await spin(3)
                return protocol.names

        return loop.run_until_complete(main())

    compare(scenario)


def test_resume_comes_before_lost_when_closing(compare):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                transport.write(b"x" * FULL)
                transport.close()
                await loop.run_in_executor(None, recv_exactly, peer, FULL + 1)
                await protocol.lost
                return protocol.names

        return loop.run_until_complete(main())

    assert compare(scenario) == ["made", "pause", "resume", "lost"]


def test_the_buffer_size_counts_every_write(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            transport.write(b"x" * FULL)
            held = transport.get_write_buffer_size()
            for number in range(1, 50):
                transport.write(b"y" * number)
            assert transport.get_write_buffer_size() == held + sum(range(1, 50))


def test_many_small_writes_into_a_full_socket_keep_order(run, loop):
    async def main():
        async with piped() as (transport, protocol, peer):
            expected = [b"x" * FULL]
            transport.write(expected[0])
            for number in range(3000):
                piece = b"%d;" % number
                expected.append(piece)
                transport.write(piece)
            whole = b"".join(expected)
            assert await loop.run_in_executor(None, recv_exactly, peer, len(whole)) == whole

    run(main())


def test_more_pieces_than_one_gathered_send_takes(run, loop):
    """More than IOV_MAX pieces at once."""

    async def main():
        async with piped() as (transport, protocol, peer):
            pieces = [b"%d;" % number for number in range(5000)]
            transport.writelines(pieces)
            whole = b"".join(pieces)
            assert await loop.run_in_executor(None, recv_exactly, peer, len(whole)) == whole
            for piece in pieces:
                transport.write(piece)
            assert await loop.run_in_executor(None, recv_exactly, peer, len(whole)) == whole

    run(main())


def test_writelines_larger_than_the_socket_buffer(run, loop):
    async def main():
        async with piped() as (transport, protocol, peer):
            pieces = [pattern(700_001) for _ in range(10)]
            transport.writelines(pieces)
            whole = b"".join(pieces)
            assert await loop.run_in_executor(None, recv_exactly, peer, len(whole)) == whole

    run(main())


def test_reading_goes_on_while_writing_is_blocked(run):
    async def main():
        async with piped() as (transport, protocol, peer):
            transport.write(b"x" * FULL)
            peer.send(b"hello")
            assert await protocol.got(5) == b"hello"

    run(main())


def test_pausing_reading_does_not_stop_writing(run, loop):
    async def main():
        async with piped() as (transport, protocol, peer):
            transport.pause_reading()
            data = pattern(FULL)
            transport.write(data)
            assert await loop.run_in_executor(None, recv_exactly, peer, FULL) == data

    run(main())


def test_a_big_write_from_a_protocol_that_pauses_reading(run, loop):
    """Back-pressure both ways, as a proxy does it."""
    data = pattern(4_000_000)

    class Proxy(Recorder):
        def data_received(self, chunk):
            self.transport.write(chunk)

        def pause_writing(self):
            self.transport.pause_reading()

        def resume_writing(self):
            self.transport.resume_reading()

    async def main():
        async with piped(Proxy()) as (transport, protocol, peer):
            sending = loop.run_in_executor(None, peer.sendall, data)
            assert await loop.run_in_executor(None, recv_exactly, peer, len(data)) == data
            await sending
            await asyncio.sleep(0)

    run(main())


@pytest.mark.zloop_only("asyncio of Python 3.12 and 3.13 forgets to look at the mark in writelines")
def test_writelines_pauses(run):
    async def main():
        async with piped() as (transport, protocol, _):
            transport.writelines([pattern(FULL), b"more"])
            assert protocol.names == ["made", "pause"]

    run(main())
