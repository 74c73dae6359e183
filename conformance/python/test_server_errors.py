"""Servers under adverse conditions: raising protocols, no descriptors, forks, bad arguments."""

import asyncio
import gc
import socket
import sys
import warnings

import pytest

from harness import (
    HOST,
    PY,
    Recorder,
    outcome,
    serving,
    spin,
    until,
)


async def connected(loop, address):
    """A client's (transport, protocol)."""
    return await loop.create_connection(Recorder, *address[:2])


# What asyncio itself leaves unclosed when it refuses or fails half-way.
asyncio_leaves_sockets = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@asyncio_leaves_sockets
@pytest.mark.parametrize("where", ["factory", "connection_made", "data_received"])
def test_a_raising_protocol_neither_kills_nor_stalls_the_server(compare, where):
    def scenario(loop, reports):
        loop.set_debug(True)  # without it asyncio keeps silent about the factory
        fail = True
        made = []

        class Protocol(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                if where == "connection_made" and fail:
                    raise ZeroDivisionError("in connection_made")

            def data_received(self, data):
                if where == "data_received" and fail:
                    raise ZeroDivisionError("in data_received")
                super().data_received(data)
                self.transport.write(data)

        def factory():
            if where == "factory" and fail:
                raise ZeroDivisionError("in the factory")
            made.append(Protocol())
            return made[-1]

        async def main():
            nonlocal fail
            async with serving(factory) as (server, address):
                bad, bad_protocol = await connected(loop, address)
                bad.write(b"x")
                await until(lambda: reports.contexts)
                await spin(5)
                fail = False
                good, protocol = await connected(loop, address)
                good.write(b"echo")
                assert await protocol.got(4) == b"echo"
                good.close()
                bad.abort()
                await protocol.lost
                await bad_protocol.lost
                await spin(5)
                assert server.is_serving()

        loop.run_until_complete(main())
        texts = []
        for context in reports.take(len(reports.contexts)):
            message = context["message"]
            kind = "callback" if message.startswith("Exception in callback") else message
            texts.append((kind, repr(context["exception"])))
        return texts

    texts = compare(scenario)
    words = {"factory": "in the factory"}.get(where, "in " + where)
    assert any(words in exception for _, exception in texts)


@asyncio_leaves_sockets
@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["factory", "connection_made"])
def test_a_protocol_that_exits_on_accept(loop, reports, where, exception):
    """It propagates; the server still listens in the next run."""
    fail = True
    made = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            if where == "connection_made" and fail:
                raise exception

    def factory():
        if where == "factory" and fail:
            raise exception
        made.append(Protocol(loop))
        return made[-1]

    async def again():
        _, writer = await asyncio.open_connection(*address)
        await until(lambda: made and made[-1].transport)
        writer.close()
        await made[-1].lost
        await writer.wait_closed()

    server = loop.run_until_complete(loop.create_server(factory, HOST, 0))
    address = server.sockets[0].getsockname()
    client = socket.create_connection(address)
    with pytest.raises(exception):
        loop.run_until_complete(asyncio.sleep(5))
    fail = False
    if made:
        made.pop().transport.abort()
    client.close()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(again())
    server.close()
    loop.run_until_complete(spin(3))
    gc.collect()
    assert set(reports.messages()) <= {
        "Task exception was never retrieved",
        "Error on transport creation for incoming connection",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors by RLIMIT_NOFILE")
def test_running_out_of_descriptors(script):
    """EMFILE on accept: logged, backed off, and accepted when descriptors are free again."""
    done = script(
        """
import resource, socket, logging, sys, time, os
records = []
handler = logging.Handler()
handler.emit = lambda record: records.append(record.getMessage())
logging.getLogger("asyncio").addHandler(handler)
reports = []

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    accepted = []
    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            accepted.append(transport)
            transport.write(b"hi")
    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clients = [socket.socket() for _ in range(5)]
    for client in clients:
        client.setblocking(False)
    spare = [os.dup(0) for _ in range(3)]
    top = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    for fd in range(top):
        try:
            os.fstat(fd)
        except OSError:
            os.dup2(0, fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (top, 4096))
    for client in clients:
        client.connect_ex(address)
    started = time.monotonic()
    cpu = time.process_time()
    while not reports:
        await asyncio.sleep(0.005)
        assert time.monotonic() - started < 5, "nothing was reported"
    told = len(reports)  # asyncio tells once per waiting place of the backlog
    await asyncio.sleep(0.3)
    assert not accepted
    assert time.process_time() - cpu < 0.25, "the loop spins"
    assert len(reports) == told <= 101, (len(reports), told)
    context = reports[0]
    assert context["message"] == "socket.accept() out of system resource", context
    assert context["exception"].errno == 24
    assert isinstance(context["socket"], asyncio.trsock.TransportSocket)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
    while len(accepted) < 5:
        await asyncio.sleep(0.01)
        assert time.monotonic() - started < 8, "not accepted after recovery"
    delay = time.monotonic() - started
    assert 0.8 < delay < 2.5, delay
    for transport in accepted:
        transport.close()
    server.close()
    for client in clients:
        client.close()
    await asyncio.sleep(0.01)
    print("recovered")

loop = new_event_loop()
loop.run_until_complete(main())
loop.close()
"""
    )
    assert done.stdout == "recovered\n"


def test_forked_servers(script):
    """A listening socket made before fork is served by two children with loops of their own."""
    done = script(
        """
import os, socket, sys, warnings
warnings.simplefilter("ignore")
listener = socket.create_server(("127.0.0.1", 0))
address = listener.getsockname()
parent = new_event_loop()
parent.run_until_complete(asyncio.sleep(0))

async def serve():
    async def handler(reader, writer):
        writer.write(b"%d" % os.getpid())
        writer.close()
        await writer.wait_closed()
        done.set()
    done = asyncio.Event()
    server = await asyncio.start_server(handler, sock=listener)
    await done.wait()
    server.close()

children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        loop = new_event_loop()
        loop.run_until_complete(serve())
        loop.close()
        os._exit(0)
    children.append(pid)

async def ask():
    reader, writer = await asyncio.open_connection(*address)
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(data)

answers = [parent.run_until_complete(ask())]
os.waitpid(answers[0], 0)
answers.append(parent.run_until_complete(ask()))
os.waitpid(answers[1], 0)
assert sorted(answers) == sorted(children), (answers, children)
listener.close()
parent.close()
print("served")
"""
    )
    assert done.stdout == "served\n"


def test_a_protocol_without_connection_made(run, loop):
    """Later connections get its fd number, and are served."""

    class Greeting(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(b"hello")
            transport.close()

    async def main():
        protocols = iter([object(), *(Greeting() for _ in range(3))])
        server = await loop.create_server(lambda: next(protocols), HOST, 0)
        address = server.sockets[0].getsockname()
        # Nobody greets the first one.
        with socket.create_connection(address):
            await asyncio.sleep(0.02)
        gc.collect()
        for _ in range(3):
            client, protocol = await connected(loop, address)
            assert await protocol.lost is None and protocol.data == b"hello"
        server.close()
        if PY >= (3, 13):
            # Older servers go on counting a transport that was collected.
            await asyncio.wait_for(server.wait_closed(), 5)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run(main())


@asyncio_leaves_sockets
def test_a_factory_that_listens_anew(run, loop):
    """What waits at another listening socket, which got the number of the first, is not its business."""
    if type(loop).__module__.startswith("asyncio"):
        pytest.skip(
            "asyncio never frees the transport that it made for a server that was closed meanwhile"
        )

    class Greeting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(self.words)
            transport.close()

    def greeting(words):
        protocol = Greeting()
        protocol.words = words
        return protocol

    async def main():
        again = []

        def factory():
            if not again:
                number = server.sockets[0].fileno()
                server.close()
                listener = socket.create_server((HOST, 0))
                assert listener.fileno() == number
                again.extend([listener, socket.create_connection(listener.getsockname())])
            return greeting(b"first")

        server = await loop.create_server(factory, HOST, 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            await until(lambda: again)
        listener, client = again
        second = await loop.create_server(lambda: greeting(b"second"), sock=listener)
        client.setblocking(False)
        assert await asyncio.wait_for(loop.sock_recv(client, 10), 5) == b"second"
        client.close()
        second.close()
        await spin(3)

    run(main())


BAD = {
    "host and sock": lambda loop, sock: loop.create_server(Recorder, HOST, 0, sock=sock),
    "neither": lambda loop, sock: loop.create_server(Recorder),
    "not a context": lambda loop, sock: loop.create_server(Recorder, HOST, 0, ssl=True),
    "handshake timeout alone": lambda loop, sock: loop.create_server(
        Recorder, HOST, 0, ssl_handshake_timeout=1
    ),
    "shutdown timeout alone": lambda loop, sock: loop.create_server(
        Recorder, HOST, 0, ssl_shutdown_timeout=1
    ),
    "no such host": lambda loop, sock: loop.create_server(
        Recorder, "256.256.256.256", 0, flags=socket.AI_NUMERICHOST
    ),
    "no stream": lambda loop, sock: loop.create_server(Recorder, sock=sock),
    "port range": lambda loop, sock: loop.create_server(Recorder, HOST, 70000),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_what_create_server_refuses(compare, make):
    def scenario(loop, reports):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            return outcome(lambda: loop.run_until_complete(make(loop, sock)))

    assert compare(scenario)[0] in ("ValueError", "TypeError", "gaierror", "OverflowError")
