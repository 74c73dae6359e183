"""TLS: a server with its own certificate and a client that checks it; then an upgrade with start_tls.

The certificates are made on the spot by trustme; a real server loads its own with load_cert_chain.
"""

import asyncio
import ssl

import trustme

import zloop


def make_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main() -> None:
    server_context, client_context = make_contexts()

    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context, server_hostname="localhost"
        )
        print("protocol:", writer.get_extra_info("ssl_object").version())
        message = b"secret " * 100_000
        writer.write(message)
        print("echoed whole:", await reader.readexactly(len(message)) == message)
        writer.close()
        await writer.wait_closed()

        try:
            await asyncio.open_connection("127.0.0.1", port, ssl=True, server_hostname="localhost")
        except ssl.SSLCertVerificationError as error:
            print("a client that does not know the authority:", error.reason)

    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        print("before start_tls:", (await reader.readline()).decode().strip())
        writer.write(b"go ahead\n")
        await writer.start_tls(server_context)
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(upgrade, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"in the clear\n")
        await (
            reader.readline()
        )  # not before the server says so: it must not read our handshake as text
        await writer.start_tls(client_context, server_hostname="localhost")
        writer.write(b"encrypted\n")
        print("after start_tls:", (await reader.readline()).decode().strip())
        writer.close()
        await writer.wait_closed()


if __name__ == "__main__":
    zloop.run(main())
