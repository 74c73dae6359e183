"""A Unix domain socket: server, client, and what the other side looks like."""

import asyncio
import os
import tempfile

import zloop


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = await reader.readline()
    writer.write(request.upper())
    await writer.drain()
    writer.close()


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "example.sock")
        async with await asyncio.start_unix_server(handle, path):
            reader, writer = await asyncio.open_unix_connection(path)
            print("connected to the path:", writer.get_extra_info("peername") == path)
            writer.write(b"shout\n")
            print("answer:", (await reader.read()).decode().strip())
            writer.close()
            await writer.wait_closed()


if __name__ == "__main__":
    zloop.run(main())
