"""Tests on zloop: AnyIO's pytest plugin takes the loop from the `anyio_backend` fixture.

pytest examples/test_with_anyio.py
"""

import asyncio
from typing import Any

import anyio
import pytest

import zloop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": zloop.new_event_loop}


@pytest.fixture
async def echo_port() -> Any:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_the_loop_is_zloop() -> None:
    assert type(asyncio.get_running_loop()).__module__.startswith("zloop")


async def test_echo(echo_port: int) -> None:
    async with await anyio.connect_tcp("127.0.0.1", echo_port) as stream:
        await stream.send(b"ping")
        await stream.send_eof()
        assert await stream.receive() == b"ping"
