"""Asks one event loop for everything that asyncio's own shows, and calls what can be called cheaply.

`python api_probe.py NAME` prints what it finds as JSON: for each kind of object and each public name that asyncio's
has, a state. `there` was only looked up, `works` was called and did its work, everything else says what went wrong.
NAME is a module with `new_event_loop`. Needs nothing but the standard library and that module.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import json
import os
import signal
import socket
import sys
import tempfile
import warnings

HOST = "127.0.0.1"
LIMIT_S = 5.0
KINDS = ("loop", "server", "stream transport", "datagram transport", "read pipe transport",
         "write pipe transport", "subprocess transport", "handle", "timer handle")  # fmt: skip


def public(thing) -> list[str]:
    return sorted(name for name in dir(thing) if not name.startswith("_"))


class Objects:
    """One object of each kind, made on the running loop; in their place, why one could not be made."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.made = {}
        self.failed = {}
        self.cleanup = contextlib.AsyncExitStack()

    async def make(self) -> None:
        self.made["loop"] = self.loop
        self.made["handle"] = self.loop.call_soon(int)
        self.made["timer handle"] = self.loop.call_later(100, int)
        self.cleanup.callback(self.made["timer handle"].cancel)
        for kind in KINDS:
            if kind in self.made:
                continue
            try:
                method = getattr(self, kind.replace(" ", "_"))
                self.made[kind] = await asyncio.wait_for(method(), LIMIT_S)
            except Exception as error:
                self.failed[kind] = described(error)

    async def server(self):
        server = await self.loop.create_server(asyncio.Protocol, HOST, 0)
        self.cleanup.callback(server.close)
        return server

    async def stream_transport(self):
        near, far = socket.socketpair()
        near.setblocking(False)
        self.cleanup.callback(far.close)
        transport, _ = await self.loop.create_connection(asyncio.Protocol, sock=near)
        self.cleanup.callback(transport.close)
        return transport

    async def datagram_transport(self):
        transport, _ = await self.loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=(HOST, 0)
        )
        self.cleanup.callback(transport.close)
        return transport

    async def pipe(self, call, ours):
        ends = os.pipe()
        self.cleanup.callback(os.close, ends[1 - ours])
        file = open(ends[ours], ("rb", "wb")[ours], 0)  # noqa: SIM115
        transport, _ = await call(asyncio.Protocol, file)
        self.cleanup.callback(transport.close)
        return transport

    async def read_pipe_transport(self):
        return await self.pipe(self.loop.connect_read_pipe, 0)

    async def write_pipe_transport(self):
        return await self.pipe(self.loop.connect_write_pipe, 1)

    async def subprocess_transport(self):
        transport, _ = await self.loop.subprocess_exec(
            asyncio.SubprocessProtocol, "true", stdin=None, stdout=None, stderr=None
        )
        self.cleanup.callback(transport.close)
        self.cleanup.push_async_callback(transport._wait)
        return transport


def described(error: BaseException) -> str:
    return "hangs" if isinstance(error, TimeoutError) else type(error).__name__


# Calls that show whether a method of the loop does its work.


@contextlib.contextmanager
def pair(kind=socket.SOCK_STREAM):
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


async def receives(loop, name):
    with pair() as (near, far):
        far.send(b"data")
        buffer = bytearray(4)
        if name == "sock_recv":
            return await loop.sock_recv(near, 4) == b"data"
        return await loop.sock_recv_into(near, buffer) == 4 and buffer == b"data"


async def sends(loop, name):
    with pair() as (near, far), tempfile.TemporaryFile() as file:
        file.write(b"data")
        file.flush()
        if name == "sock_sendall":
            await loop.sock_sendall(near, b"data")
        elif name == "sock_sendfile":
            await loop.sock_sendfile(near, file)
        else:
            near2 = near.dup()
            near2.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=near2)
            try:
                await loop.sendfile(transport, file)
            finally:
                transport.close()
        return far.recv(4) == b"data"


async def datagrams(loop, name):
    with (
        socket.socket(type=socket.SOCK_DGRAM) as near,
        socket.socket(type=socket.SOCK_DGRAM) as far,
    ):
        for sock in (near, far):
            sock.bind((HOST, 0))
            sock.setblocking(False)
        if name == "sock_sendto":
            return await loop.sock_sendto(near, b"data", far.getsockname()) == 4
        far.sendto(b"data", near.getsockname())
        if name == "sock_recvfrom":
            return await loop.sock_recvfrom(near, 10) == (b"data", far.getsockname())
        return await loop.sock_recvfrom_into(near, bytearray(4)) == (4, far.getsockname())


async def connects(loop, name):
    with socket.create_server((HOST, 0)) as listener, socket.socket() as sock:
        listener.setblocking(False)
        sock.setblocking(False)
        if name == "sock_accept":
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            await asyncio.sleep(0)
            with socket.create_connection(listener.getsockname()):
                accepted, _ = await accepting
                accepted.close()
        elif name == "sock_connect":
            await loop.sock_connect(sock, listener.getsockname())
        elif name == "connect_accepted_socket":
            with socket.create_connection(listener.getsockname()):
                listener.setblocking(True)
                accepted, _ = listener.accept()
                transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
                transport.close()
                await asyncio.sleep(0.01)
        else:
            transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
            transport.close()
            await asyncio.sleep(0.01)
        return True


async def unix(loop, name):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        server = await loop.create_unix_server(asyncio.Protocol, path)
        if name == "create_unix_connection":
            transport, _ = await loop.create_unix_connection(asyncio.Protocol, path)
            transport.close()
            await asyncio.sleep(0.01)
        server.close()
        return True


async def watches(loop, name):
    with pair() as (near, far):
        ready = loop.create_future()

        def seen():
            remove(near)
            ready.set_result(True)

        add, remove = loop.add_reader, loop.remove_reader
        if "writer" in name:
            add, remove = loop.add_writer, loop.remove_writer
        far.send(b"data")
        add(near, seen)
        return await ready


async def signals(loop, name):
    caught = []
    # Until a loop has its own handler there, the signal would end the process, and nobody hear of the rest.
    signal.signal(signal.SIGUSR1, lambda *_: None)
    loop.add_signal_handler(signal.SIGUSR1, caught.append, True)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0.2)
    return loop.remove_signal_handler(signal.SIGUSR1) and bool(caught)


async def processes(loop, name):
    transport, _ = await getattr(loop, name)(asyncio.SubprocessProtocol, "true")
    code = await asyncio.wait_for(transport._wait(), LIMIT_S)
    transport.close()
    return code == 0


async def names(loop, name):
    if name == "getnameinfo":
        return (
            await loop.getnameinfo((HOST, 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        ) == (HOST, "80")
    found = await loop.getaddrinfo(HOST, 80, type=socket.SOCK_STREAM)
    return found[0][4] == (HOST, 80)


async def executes(loop, name):
    return await loop.run_in_executor(None, int, "5") == 5


async def schedules(loop, name):
    done = loop.create_future()
    arguments = {"call_later": (0.001,), "call_at": (loop.time() + 0.001,)}.get(name, ())
    getattr(loop, name)(*arguments, done.set_result, True)
    return await done


CALLS = {
    "sock_recv": receives, "sock_recv_into": receives,
    "sock_sendall": sends, "sock_sendfile": sends, "sendfile": sends,
    "sock_recvfrom": datagrams, "sock_recvfrom_into": datagrams, "sock_sendto": datagrams,
    "sock_accept": connects, "sock_connect": connects, "create_connection": connects,
    "connect_accepted_socket": connects,
    "create_unix_server": unix, "create_unix_connection": unix,
    "add_reader": watches, "remove_reader": watches, "add_writer": watches, "remove_writer": watches,
    "add_signal_handler": signals, "remove_signal_handler": signals,
    "subprocess_exec": processes, "subprocess_shell": processes,
    "getaddrinfo": names, "getnameinfo": names, "run_in_executor": executes,
    "call_soon": schedules, "call_later": schedules, "call_at": schedules,
    "call_soon_threadsafe": schedules,
}  # fmt: skip
MADE_BY = {
    "create_server": "server", "create_datagram_endpoint": "datagram transport",
    "connect_read_pipe": "read pipe transport", "connect_write_pipe": "write pipe transport",
}  # fmt: skip


async def state_of(objects: Objects, name: str) -> str:
    """The state of a name that the loop has."""
    if name in MADE_BY:
        return objects.failed.get(MADE_BY[name], "works")
    if name not in CALLS:
        return "there"
    try:
        worked = await asyncio.wait_for(CALLS[name](objects.loop, name), LIMIT_S)
    except Exception as error:
        return described(error)
    return "works" if worked else "wrong"


async def asyncios_names() -> dict[str, list[str]]:
    objects = Objects()
    async with objects.cleanup:
        await objects.make()
        assert not objects.failed, objects.failed
        return {kind: public(thing) for kind, thing in objects.made.items()}


async def probe(wanted: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    objects = Objects()
    async with objects.cleanup:
        await objects.make()
        found: dict[str, dict[str, str]] = {}
        for kind in KINDS:
            thing = objects.made.get(kind)
            states = found[kind] = {}
            for name in wanted[kind]:
                if thing is None:
                    states[name] = objects.failed[kind]
                elif not hasattr(thing, name):
                    states[name] = "missing"
                else:
                    states[name] = await state_of(objects, name) if kind == "loop" else "there"
    await asyncio.sleep(0.01)
    return found


def examine(factory) -> dict[str, dict[str, str]]:
    """What the loop that `factory` makes has of what asyncio's has."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        wanted = runner.run(asyncios_names())
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(probe(wanted))


def main() -> None:
    warnings.simplefilter("ignore")
    name = sys.argv[1]
    found = examine(importlib.import_module(name).new_event_loop)
    print(json.dumps({"version": importlib.metadata.version(name), "api": found}))
    sys.stdout.flush()
    os._exit(0)  # What a peer may leave behind must not spoil what it has shown.


if __name__ == "__main__":
    main()
