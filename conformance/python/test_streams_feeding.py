"""What reaches a `StreamReader`, and by which code: asyncio's own, until a program puts other code in its place."""

import asyncio
import contextlib
import gc
import sys

import pytest

from harness import connect, pattern, spin, tcp_pair

Reader, Protocol = asyncio.StreamReader, asyncio.StreamReaderProtocol


@contextlib.asynccontextmanager
async def fed(reader=Reader, protocol=Protocol, **options):
    """(reader, protocol, transport, peer) of a connection that has received `hello` already."""
    near, far = tcp_pair()
    loop = asyncio.get_running_loop()
    stream = reader(loop=loop, **options)
    transport, adapter = await connect(near, protocol(stream, loop=loop))
    try:
        far.sendall(b"hello")
        await received(stream, b"hello")
        yield stream, adapter, transport, far
    finally:
        transport.abort()
        far.close()
        await spin(3)


async def received(reader, data):
    assert await asyncio.wait_for(reader.readexactly(len(data)), 5) == data


def recorder(function, calls):
    def recording(*args):
        calls.append(args[-1] if isinstance(args[-1], bytes) else None)
        return function(*args)

    return recording


CLASSES = [(Protocol, "data_received"), (Reader, "feed_data"), (Reader, "_wakeup_waiter")]


@pytest.mark.parametrize(
    ("owner", "name"), CLASSES, ids=lambda value: getattr(value, "__name__", value)
)
def test_what_replaces_a_method_of_the_class_is_called(run, monkeypatch, owner, name):
    async def main():
        calls = []
        async with fed() as (reader, protocol, transport, peer):
            for _ in range(3):
                with monkeypatch.context() as patch:
                    patch.setattr(owner, name, recorder(getattr(owner, name), calls))
                    peer.sendall(b"patched")
                    await received(reader, b"patched")
                    assert calls == [None if name == "_wakeup_waiter" else b"patched"]
                peer.sendall(b"own")
                await received(reader, b"own")
                assert len(calls) == 1
                calls.clear()

    run(main())


def test_the_replaced_property_is_asked(run, monkeypatch):
    async def main():
        async with fed() as (reader, protocol, transport, peer):
            other = Reader(loop=asyncio.get_running_loop())
            with monkeypatch.context() as patch:
                patch.setattr(Protocol, "_stream_reader", property(lambda self: other))
                peer.sendall(b"for the other")
                await received(other, b"for the other")
            peer.sendall(b"for the first")
            await received(reader, b"for the first")

    run(main())


def test_attribute_access_that_is_replaced_is_asked(run, monkeypatch):
    async def main():
        asked = []

        def getattribute(self, name):
            asked.append(name)
            return object.__getattribute__(self, name)

        async with fed() as (reader, protocol, transport, peer):
            with monkeypatch.context() as patch:
                patch.setattr(Reader, "__getattribute__", getattribute, raising=False)
                peer.sendall(b"x")
                await received(reader, b"x")
                assert "feed_data" in asked

    run(main())


@pytest.mark.parametrize("name", ["data_received", "feed_data"])
def test_what_shadows_a_method_in_one_object_is_called(run, name):
    async def main():
        calls = []
        async with fed() as (reader, protocol, transport, peer), fed() as (untouched, _, _, far):
            owner = protocol if name == "data_received" else reader
            setattr(owner, name, recorder(getattr(owner, name), calls))
            peer.sendall(b"shadowed")
            far.sendall(b"elsewhere")
            await received(reader, b"shadowed")
            await received(untouched, b"elsewhere")
            assert calls == [b"shadowed"]
            delattr(owner, name)
            peer.sendall(b"own")
            await received(reader, b"own")
            assert calls == [b"shadowed"]

    run(main())


class LoudReader(Reader):
    def feed_data(self, data):
        super().feed_data(data.upper())


class LoudProtocol(Protocol):
    def data_received(self, data):
        super().data_received(data.upper())


@pytest.mark.parametrize("when", ["from the start", "later"])
@pytest.mark.parametrize("derived", [LoudReader, LoudProtocol])
def test_derived_classes(run, derived, when):
    async def main():
        async with fed() as (reader, protocol, transport, peer):
            target = reader if derived is LoudReader else protocol
            if when == "later":
                target.__class__ = derived
            elif derived is LoudReader:
                reader = derived(loop=asyncio.get_running_loop())
                transport.set_protocol(Protocol(reader, loop=asyncio.get_running_loop()))
            else:
                transport.set_protocol(derived(reader, loop=asyncio.get_running_loop()))
            peer.sendall(b"whisper")
            await received(reader, b"WHISPER")

    run(main())


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_view_of_the_buffer_fails_as_on_asyncio(compare, size):
    """A `bytearray` with a view on it cannot grow. Large messages are received in another way than small ones."""

    async def scenario(loop, reports):
        async with fed() as (reader, protocol, transport, peer):
            await grown(reader, peer, size)
            reader._buffer = bytearray(b"kept")
            with memoryview(reader._buffer):
                peer.sendall(b"x" * size)
                while not transport.is_closing():
                    await asyncio.sleep(0)
            await spin(3)
            report = reports.one()
            return report["message"], type(report["exception"]), bytes(reader._buffer)

    message, error, left = compare(
        lambda loop, reports: loop.run_until_complete(scenario(loop, reports))
    )
    assert (error, left) == (BufferError, b"kept")
    assert "data_received" in message


async def grown(reader, peer, size):
    """Let the transport learn that messages are of this size."""
    for _ in range(3):
        peer.sendall(bytes(size))
        await received(reader, bytes(size))


def test_data_after_feed_eof_fails_as_on_asyncio(compare):
    async def scenario(loop, reports):
        async with fed() as (reader, protocol, transport, peer):
            reader.feed_eof()
            peer.sendall(b"late")
            while not transport.is_closing():
                await asyncio.sleep(0)
            await spin(3)
            report = reports.one()
            return report["message"], repr(report["exception"]), bytes(reader._buffer)

    compare(lambda loop, reports: loop.run_until_complete(scenario(loop, reports)))


@pytest.mark.parametrize("ready", ["done", "failed", "cancelled"])
def test_a_waiter_that_waits_no_more(compare, ready):
    async def scenario(loop, reports):
        async with fed() as (reader, protocol, transport, peer):
            waiter = reader._waiter = loop.create_future()
            if ready == "cancelled":
                waiter.cancel()
            elif ready == "done":
                waiter.set_result(None)
            else:
                waiter.set_exception(ValueError())
                waiter.exception()
            peer.sendall(b"data")
            while not reader._buffer:
                await asyncio.sleep(0)
            await spin(3)
            said = [(r["message"], type(r["exception"])) for r in reports.contexts]
            reports.contexts.clear()
            return said, reader._waiter, transport.is_closing(), bytes(reader._buffer)

    compare(lambda loop, reports: loop.run_until_complete(scenario(loop, reports)))


def test_a_reader_that_is_cancelled_loses_nothing(run, loop):
    async def main():
        async with fed() as (reader, protocol, transport, peer):
            for turns in range(4):
                task = loop.create_task(reader.read(100))
                await spin()
                peer.sendall(b"data")
                await spin(turns)
                task.cancel()
                try:
                    assert await task == b"data"
                except asyncio.CancelledError:
                    await received(reader, b"data")

    run(main())


@pytest.mark.parametrize("extra", [0, 1])
def test_reading_stops_above_twice_the_limit(compare, extra):
    async def scenario(loop, reports):
        async with fed(limit=1000) as (reader, protocol, transport, peer):
            seen = []
            for size in (1999, extra, 1, 500):
                peer.sendall(bytes(size))
                for _ in range(20):
                    await asyncio.sleep(0.0005)
                seen.append((len(reader._buffer), transport.is_reading(), reader._paused))
            return seen, len(await reader.readexactly(2500 + extra)), transport.is_reading()

    compare(lambda loop, reports: loop.run_until_complete(scenario(loop, reports)))


@pytest.mark.parametrize("error", [NotImplementedError, ZeroDivisionError])
def test_a_transport_that_cannot_pause(compare, error):
    async def scenario(loop, reports):
        class Stubborn:
            def pause_reading(self):
                raise error

        async with fed(limit=10) as (reader, protocol, transport, peer):
            reader._transport = Stubborn()
            peer.sendall(bytes(21))
            while len(reader._buffer) < 21:
                await asyncio.sleep(0)
            await spin(3)
            said = [(r["message"], type(r["exception"])) for r in reports.contexts]
            reports.contexts.clear()
            return said, reader._transport is None, reader._paused, transport.is_closing()

    compare(lambda loop, reports: loop.run_until_complete(scenario(loop, reports)))


def test_limits_of_any_kind(compare):
    async def scenario(loop, reports):
        seen = []
        for limit in (10.5, True, 2**80):
            async with fed() as (reader, protocol, transport, peer):
                reader._limit = limit
                peer.sendall(bytes(30))
                while len(reader._buffer) < 30:
                    await asyncio.sleep(0)
                seen.append(transport.is_reading())
        return seen

    assert compare(lambda loop, reports: loop.run_until_complete(scenario(loop, reports))) == [
        False,
        False,
        True,
    ]


class Loud(bytearray):
    def extend(self, data):
        super().extend(data.upper())


@pytest.mark.parametrize("buffer", [bytearray, Loud])
def test_a_buffer_put_in_the_place_of_the_readers(compare, buffer):
    async def scenario(loop, reports):
        async with fed() as (reader, protocol, transport, peer):
            mine = reader._buffer = buffer(b"kept ")
            peer.sendall(b"data")
            while len(mine) < 9:
                await asyncio.sleep(0)
            return reader._buffer is mine, bytes(mine)

    compare(lambda loop, reports: loop.run_until_complete(scenario(loop, reports)))


def test_a_reader_that_nobody_has_any_more(compare):
    async def scenario(loop, reports):
        async with fed() as (reader, protocol, transport, peer):
            protocol._stream_reader_wr = None
            peer.sendall(b"for nobody")
            await asyncio.sleep(0.005)
            return bytes(reader._buffer), transport.is_reading()

    async def collected(loop, reports):
        near, far = tcp_pair()
        transport, protocol = await connect(near, Protocol(Reader(loop=loop), loop=loop))
        protocol._transport = None
        gc.collect()
        far.sendall(b"for nobody")
        await asyncio.sleep(0.005)
        state = transport.is_closing(), protocol._stream_reader is None
        transport.abort()
        far.close()
        await spin(3)
        return state

    for each in (scenario, collected):
        compare(lambda loop, reports, each=each: loop.run_until_complete(each(loop, reports)))


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_sizes_that_change_from_message_to_message(run, turns):
    data = pattern(1_500_000)

    async def main():
        async with fed() as (reader, protocol, transport, peer):
            start = 0
            for size in [1, 1000, 100_000, 40_000, 1, 300_000, 10, 65_536, 32_769, 200_000, 5]:
                peer.sendall(data[start : start + size])
                await spin(turns)
                await received(reader, data[start : start + size])
                start += size

    run(main())


def test_the_end_behind_the_data(run):
    async def main():
        for size in (0, 5, 100_000):
            async with fed() as (reader, protocol, transport, peer):
                await grown(reader, peer, max(size, 1))
                peer.sendall(b"x" * size)
                peer.shutdown(1)
                assert await reader.read() == b"x" * size
                assert reader.at_eof()

    run(main())


@pytest.mark.zloop_only("asyncio runs its own Python code")
def test_no_python_code_runs_for_what_is_received(run):
    async def main():
        names = []
        async with fed() as (reader, protocol, transport, peer):
            reading = asyncio.create_task(received(reader, b"data"))
            await spin()
            peer.sendall(b"data")
            sys.setprofile(lambda frame, event, arg: names.append(frame.f_code.co_name))
            try:
                await reading
            finally:
                sys.setprofile(None)
            assert "readexactly" in names
            assert not {"data_received", "feed_data", "_wakeup_waiter"} & set(names)

    run(main())
