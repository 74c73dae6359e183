"""contextvars: which context a callback, task or protocol method runs in."""

import asyncio
import contextvars
import signal
import sys

import pytest

from harness import Recorder, normal, outcome, reset, run_turns, spin, tcp_pair, unix_pair, until

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


@pytest.fixture(autouse=True)
def _own_context():
    token = VARIABLE.set("test")
    yield
    VARIABLE.reset(token)


MAKERS = {
    "soon": lambda loop, *a, **k: loop.call_soon(*a, **k),
    "threadsafe": lambda loop, *a, **k: loop.call_soon_threadsafe(*a, **k),
    "later": lambda loop, *a, **k: loop.call_later(0.001, *a, **k),
    "at": lambda loop, *a, **k: loop.call_at(loop.time() - 1, *a, **k),
}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@every_maker
def test_a_callback_gets_a_copy_of_the_current_context(loop, make):
    seen = []

    def callback():
        seen.append(VARIABLE.get())
        VARIABLE.set("changed by the callback")

    make(loop, callback)
    VARIABLE.set("changed after scheduling")
    loop.call_later(0.003, loop.stop)
    loop.run_forever()
    assert seen == ["test"]
    assert VARIABLE.get() == "changed after scheduling"


@every_maker
def test_an_explicit_context_is_used_itself(loop, make):
    context = contextvars.copy_context()
    context.run(VARIABLE.set, "explicit")
    seen = []

    def callback():
        seen.append(VARIABLE.get())
        VARIABLE.set("kept in it")

    make(loop, callback, context=context)
    loop.call_later(0.003, loop.stop)
    loop.run_forever()
    assert seen == ["explicit"]
    assert context[VARIABLE] == "kept in it"


@every_maker
def test_context_none_means_a_copy(loop, make):
    seen = []
    make(loop, lambda: seen.append(VARIABLE.get()), context=None)
    loop.call_later(0.003, loop.stop)
    loop.run_forever()
    assert seen == ["test"]


def test_callbacks_of_one_scope_do_not_share_their_context(loop):
    seen = []

    def callback(name):
        seen.append(VARIABLE.get())
        VARIABLE.set(name)

    for name in ("one", "two"):
        loop.call_soon(callback, name)
    run_turns(loop)
    assert seen == ["test", "test"]


def test_one_context_twice_in_one_turn(loop):
    context = contextvars.Context()
    seen = []
    for name in ("one", "two"):
        loop.call_soon(
            lambda name=name: (seen.append(VARIABLE.get()), VARIABLE.set(name)), context=context
        )
    run_turns(loop)
    assert seen == ["unset", "one"]


def test_a_context_that_is_entered_already(compare, error_log):
    """It cannot be entered twice; how that is told is asyncio's business."""

    def scenario(loop, reports):
        context = contextvars.copy_context()
        seen = []

        def run():
            loop.call_soon(seen.append, "cannot run", context=context)
            loop.call_soon(loop.stop, context=contextvars.Context())
            loop.run_forever()

        told = outcome(lambda: context.run(run))
        messages = [normal(message) for message in reports.messages()]
        logged = [text.splitlines()[0] for text in error_log.take()]
        return seen, told, messages, logged

    seen, told, messages, logged = compare(scenario)
    assert seen == [] and (told or messages or logged)


def test_tasks(loop):
    async def main():
        VARIABLE.set("outer")
        seen = []

        async def inner():
            seen.append(VARIABLE.get())
            VARIABLE.set("inner")
            await asyncio.sleep(0)
            seen.append(VARIABLE.get())
            await asyncio.sleep(0.001)
            seen.append(VARIABLE.get())

        await loop.create_task(inner())
        context = contextvars.Context()
        await loop.create_task(inner(), context=context)
        return seen, VARIABLE.get(), context[VARIABLE]

    seen, outer, inner = loop.run_until_complete(main())
    assert seen == ["outer", "inner", "inner", "unset", "inner", "inner"]
    assert (outer, inner) == ("outer", "inner")


def test_future_callbacks(loop):
    seen = []
    context = contextvars.Context()
    context.run(VARIABLE.set, "explicit")
    future = loop.create_future()
    future.add_done_callback(lambda f: seen.append(VARIABLE.get()))
    future.add_done_callback(lambda f: seen.append(VARIABLE.get()), context=context)
    VARIABLE.set("later")
    future.set_result(None)
    run_turns(loop)
    assert seen == ["test", "explicit"]


def test_readers_and_writers(loop):
    near, far = unix_pair()
    seen = []

    def note(name, remove):
        seen.append((name, VARIABLE.get()))
        VARIABLE.set("changed")
        if len(seen) > 3:
            loop.stop()

    with near, far:
        far.send(b"x")
        loop.add_reader(near, note, "read", None)
        VARIABLE.set("second")
        loop.add_writer(near, note, "write", None)
        VARIABLE.set("later")
        loop.run_forever()
        loop.remove_reader(near)
        loop.remove_writer(near)
    assert seen[:2] == [("read", "test"), ("write", "second")]
    # The context belongs to the registration: what a callback changed is seen by its next call.
    assert seen[2:] == [("read", "changed"), ("write", "changed")]


@pytest.mark.thread_unsafe(reason="signal handlers are the main thread's")
def test_signal_handlers(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: (seen.append(VARIABLE.get()), loop.stop()))
    VARIABLE.set("later")
    loop.call_soon(signal.raise_signal, signal.SIGUSR1)
    loop.run_forever()
    loop.remove_signal_handler(signal.SIGUSR1)
    assert seen == ["test"]


def test_run_in_executor_does_not_take_the_context_but_to_thread_does(loop):
    async def main():
        VARIABLE.set("main")
        return [
            await loop.run_in_executor(None, VARIABLE.get),
            await asyncio.to_thread(VARIABLE.get),
        ]

    first, second = loop.run_until_complete(main())
    assert second == "main"


class ContextRecorder(Recorder):
    def __init__(self, loop=None):
        super().__init__(loop)
        self.contexts = []

    def note(self, name):
        self.contexts.append((name, VARIABLE.get()))
        VARIABLE.set(f"{VARIABLE.get()}+{name}")

    def connection_made(self, transport):
        self.note("made")
        super().connection_made(transport)

    def data_received(self, data):
        self.note("data")
        super().data_received(data)

    def eof_received(self):
        self.note("eof")
        return super().eof_received()

    def connection_lost(self, exc):
        self.note("lost")
        super().connection_lost(exc)


@pytest.mark.parametrize("end", ["eof", "reset"])
def test_protocol_callbacks_run_in_the_context_of_creation(compare, end):
    def scenario(loop, reports):
        protocol = ContextRecorder(loop)
        near, far = tcp_pair()
        near.setblocking(False)

        async def create():
            VARIABLE.set("creator")
            await loop.create_connection(lambda: protocol, sock=near)

        async def main():
            await loop.create_task(create())
            VARIABLE.set("somewhere else")
            far.send(b"x")
            await protocol.got(1)
            far.send(b"y")
            await protocol.got(2)
            if end == "eof":
                far.close()
            else:
                reset(far)
            await protocol.lost

        loop.run_until_complete(main())
        return protocol.contexts

    seen = compare(scenario)
    assert all(value.startswith("creator") for _, value in seen), seen
    assert [name for name, _ in seen][:3] == ["made", "data", "data"]


def test_server_side_callbacks_run_in_the_context_of_the_server(compare):
    def scenario(loop, reports):
        protocol = ContextRecorder(loop)

        async def serve():
            VARIABLE.set("server")
            return await loop.create_server(lambda: protocol, "127.0.0.1", 0)

        async def main():
            server = await loop.create_task(serve())
            VARIABLE.set("main")
            transport, _ = await loop.create_connection(
                asyncio.Protocol, *server.sockets[0].getsockname()
            )
            transport.write(b"x")
            await protocol.got(1)
            transport.close()
            await protocol.lost
            server.close()
            await server.wait_closed()

        loop.run_until_complete(main())
        return protocol.contexts

    seen = compare(scenario)
    assert all(value.startswith("server") for _, value in seen), seen


@pytest.mark.parametrize("how", ["close", "abort"])
def test_connection_lost_runs_in_the_context_of_the_closer(compare, how):
    def scenario(loop, reports):
        protocol = ContextRecorder(loop)
        near, far = tcp_pair()
        near.setblocking(False)

        async def main():
            VARIABLE.set("creator")
            transport, _ = await loop.create_connection(lambda: protocol, sock=near)
            VARIABLE.set("closer")
            getattr(transport, how)()
            VARIABLE.set("later")
            await protocol.lost

        loop.run_until_complete(main())
        far.close()
        return protocol.contexts

    name, context = compare(scenario)[-1]
    # Since Python 3.15 a transport has one context for all that it calls.
    assert (name, context) == ("lost", "creator+made" if sys.version_info >= (3, 15) else "closer")


def test_reading_after_resuming(compare):
    def scenario(loop, reports):
        protocol = ContextRecorder(loop)
        near, far = tcp_pair()
        near.setblocking(False)

        async def main():
            VARIABLE.set("creator")
            transport, _ = await loop.create_connection(lambda: protocol, sock=near)
            transport.pause_reading()
            far.send(b"x")
            VARIABLE.set("resumer")
            transport.resume_reading()
            VARIABLE.set("later")
            await protocol.got(1)
            far.close()
            await protocol.lost

        loop.run_until_complete(main())
        return protocol.contexts

    seen = compare(scenario)
    assert all(value.startswith("creator") for _, value in seen[1:]) == (
        sys.version_info >= (3, 15)
    ), seen


@pytest.mark.parametrize("over", ["TCP", "TLS"])
def test_each_connection_of_a_server_has_a_context(compare, certificates, over):
    """Its own copy: what one of its callbacks sets, the next may see, and no other connection."""

    def scenario(loop, reports):
        protocols = []

        def factory():
            protocols.append(ContextRecorder(loop))
            protocols[-1].note("factory")
            return protocols[-1]

        async def serve(tls):
            VARIABLE.set("server")
            return await loop.create_server(factory, "127.0.0.1", 0, ssl=tls)

        async def main():
            tls = over == "TLS"
            server = await loop.create_task(serve(certificates.server() if tls else None))
            for _ in range(2):
                mine = ContextRecorder(loop)
                transport, _ = await loop.create_connection(
                    lambda mine=mine: mine,
                    *server.sockets[0].getsockname(),
                    ssl=certificates.client() if tls else None,
                    server_hostname="localhost" if tls else None,
                )
                for sent in (1, 2):
                    transport.write(b"x")
                    await until(lambda sent=sent: protocols and len(protocols[-1].data) == sent)
                transport.close()
                await mine.lost
                await protocols[-1].lost
                protocols.append(mine)
            server.close()
            await server.wait_closed()

        loop.run_until_complete(main())
        return [protocol.contexts for protocol in protocols]

    first, _, second, _ = compare(scenario)
    assert first == second
    assert all(value.startswith("server") for _, value in first), first
    if sys.version_info >= (3, 15):
        assert dict(first)["made"].startswith("server+factory"), first


class FlowRecorder(Recorder):
    """Keeps in ``seen`` in which contexts it was told to pause and to resume."""

    def __init__(self, loop):
        super().__init__(loop)
        self.seen = []
        self.resumed = loop.create_future()

    def pause_writing(self):
        self.seen.append(("pause", VARIABLE.get()))

    def resume_writing(self):
        self.seen.append(("resume", VARIABLE.get().split("+")[0]))
        self.resumed.set_result(None)


def test_flow_control_runs_in_the_context_of_the_writer(compare):
    def scenario(loop, reports):
        near, far = tcp_pair()
        near.setblocking(False)

        async def main():
            VARIABLE.set("creator")
            protocol = FlowRecorder(loop)
            transport, _ = await loop.create_connection(lambda: protocol, sock=near)
            transport.set_write_buffer_limits(1)
            VARIABLE.set("writer")
            transport.write(b"x" * 8_000_000)
            VARIABLE.set("later")
            await spin(2)
            reader = loop.run_in_executor(None, drain, far, 8_000_000)
            await protocol.resumed
            await reader
            transport.close()
            await protocol.lost
            return protocol.seen

        seen = loop.run_until_complete(main())
        far.close()
        return seen

    pause, resume = compare(scenario)
    assert pause == ("pause", "writer")
    assert resume == ("resume", "creator" if sys.version_info >= (3, 15) else "writer")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_later_write_does_not_change_where_flow_control_runs(compare, kind):
    """The socket turns full in one context, and another writes what is too much."""

    def scenario(loop, reports):
        near, far = unix_pair()
        near.setblocking(False)
        room = near.send(bytes(10_000_000))
        drain(far, room)

        async def main():
            VARIABLE.set("creator")
            protocol = FlowRecorder(loop)
            transport, _ = await loop.create_unix_connection(lambda: protocol, sock=near)
            VARIABLE.set("writer")
            transport.write(kind(bytes(room + 30_000)))
            rest = transport.get_write_buffer_size()
            await spin(2)
            VARIABLE.set("later")
            transport.write(bytes(60_000))
            reader = loop.run_in_executor(None, drain, far, room + 90_000)
            await protocol.resumed
            await reader
            transport.close()
            await protocol.lost
            return rest, protocol.seen

        rest, seen = loop.run_until_complete(main())
        far.close()
        assert 0 < rest <= 64 * 1024
        return seen

    pause, resume = compare(scenario)
    assert pause == ("pause", "later")
    assert resume == ("resume", "creator" if sys.version_info >= (3, 15) else "writer")


def drain(sock, count):
    while count:
        count -= len(sock.recv(1 << 18))


def test_start_server_handlers(loop):
    """Each connection's task starts from the server's context and keeps its own changes."""
    seen = []

    async def handler(reader, writer):
        seen.append(VARIABLE.get())
        VARIABLE.set("handler")
        writer.close()

    async def main():
        VARIABLE.set("server")
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        VARIABLE.set("client")
        for _ in range(2):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await reader.read()
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())
    assert seen == ["server", "server"]
