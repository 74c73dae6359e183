"""A TCP echo server and a client for it, with asyncio's streams."""

import asyncio

import zloop


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"listening on {host}")
    async with server:
        reader, writer = await asyncio.open_connection(host, port)
        for word in ("hello", "from", "zloop"):
            writer.write(f"{word}\n".encode())
            await writer.drain()
            print("echo:", (await reader.readline()).decode().strip())
        writer.write_eof()
        print("end of stream:", await reader.read() == b"")
        writer.close()
        await writer.wait_closed()


if __name__ == "__main__":
    zloop.run(main())
