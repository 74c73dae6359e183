"""An echo server in one of the ways that asyncio offers. Prints `READY ADDRESS` once it listens."""

from __future__ import annotations

import argparse
import asyncio
import socket
import ssl

from loops import loop_factory, settle_allocator

READ_SIZE = 256 * 1024


class Echo(asyncio.Protocol):
    """The plain protocol."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        del self.transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


class BufferedEcho(asyncio.BufferedProtocol):
    """The protocol that lends its own buffer to the loop."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.view = memoryview(bytearray(READ_SIZE))

    def connection_lost(self, exc: Exception | None) -> None:
        del self.transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(self.view[:nbytes])  # type: ignore[attr-defined]


class DatagramEcho(asyncio.DatagramProtocol):
    """The protocol of UDP."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection with asyncio's streams."""
    try:
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def echo_sock(connection: socket.socket) -> None:
    """Serve one connection with `sock_recv` and `sock_sendall`."""
    loop = asyncio.get_running_loop()
    with connection:
        try:
            while data := await loop.sock_recv(connection, READ_SIZE):
                await loop.sock_sendall(connection, data)
        except ConnectionError:
            pass


async def accept_socks(listener: socket.socket) -> None:
    """Accept with `sock_accept`, for ever."""
    loop = asyncio.get_running_loop()
    tasks = set()
    while True:
        connection, _ = await loop.sock_accept(listener)
        connection.setblocking(False)
        if connection.family == socket.AF_INET:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.create_task(echo_sock(connection))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def spelled(address: object) -> str:
    """Spell a socket's address as the load generator reads it."""
    if isinstance(address, tuple):
        return f"tcp:{address[0]}:{address[1]}"
    return f"unix:{address}"


async def serve(mode: str, unix: str | None, certificate: str | None) -> None:
    """Serve in `mode` on a free TCP port, or on the Unix socket at path `unix`, for ever.

    With a certificate, protocols and streams speak TLS.
    """
    loop = asyncio.get_running_loop()
    if mode == "udp":
        transport, _ = await loop.create_datagram_endpoint(
            DatagramEcho, local_addr=("127.0.0.1", 0)
        )
        address = transport.get_extra_info("sockname")
    elif mode == "sock":
        family = socket.AF_UNIX if unix else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.bind(unix or ("127.0.0.1", 0))
        listener.listen(1024)
        address = listener.getsockname()
        servers.append(asyncio.create_task(accept_socks(listener)))
    else:
        address = await listen(mode, unix, server_context(certificate))
    print("READY", spelled(address), flush=True)
    await asyncio.Event().wait()


# What must stay alive as long as the process.
servers: list[object] = []


def server_context(certificate: str | None) -> ssl.SSLContext | None:
    """Return what a server with this PEM file needs for TLS."""
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def listen(mode: str, unix: str | None, tls: ssl.SSLContext | None) -> object:
    """Start a server of streams or protocols; return its address."""
    loop = asyncio.get_running_loop()
    server: asyncio.AbstractServer
    if mode == "streams":
        if unix:
            server = await asyncio.start_unix_server(echo_stream, unix, backlog=1024, ssl=tls)
        else:
            server = await asyncio.start_server(echo_stream, "127.0.0.1", 0, backlog=1024, ssl=tls)
    else:
        protocol = {"proto": Echo, "buffered": BufferedEcho}[mode]
        if unix:
            server = await loop.create_unix_server(protocol, unix, backlog=1024, ssl=tls)
        else:
            server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=1024, ssl=tls)
    servers.append(server)
    return server.sockets[0].getsockname()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", default="asyncio", help="see loops.py")
    parser.add_argument(
        "--mode", default="proto", choices=["proto", "buffered", "streams", "sock", "udp"]
    )
    parser.add_argument("--unix", metavar="PATH", help="listen on a Unix socket")
    parser.add_argument("--certificate", metavar="FILE", help="speak TLS with this PEM file")
    options = parser.parse_args()
    settle_allocator()
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        runner.run(serve(options.mode, options.unix, options.certificate))


if __name__ == "__main__":
    main()
