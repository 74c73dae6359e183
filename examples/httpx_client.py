"""HTTPX on zloop: ten requests at once to an application that this program serves itself.

Give a URL to ask another server: `python examples/httpx_client.py http://127.0.0.1:8000/loop`.
"""

import asyncio
import sys

import httpx
import uvicorn

import zloop
from fastapi_app import app


async def ask(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        print("answer:", (await client.get(url)).json())
        answers = await asyncio.gather(*(client.get(url) for _ in range(10)))
        print("ten at once:", [answer.status_code for answer in answers])


async def main() -> None:
    if sys.argv[1:]:
        await ask(sys.argv[1])
        return
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    await ask(f"http://127.0.0.1:{port}/loop")
    server.should_exit = True
    await serving


if __name__ == "__main__":
    zloop.run(main())
