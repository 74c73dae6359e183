"""aiohttp on zloop: its server, its client, and a WebSocket between them."""

import asyncio

from aiohttp import ClientSession, web

import zloop


async def hello(request: web.Request) -> web.Response:
    name = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return web.json_response({"loop": name, "path": request.path})


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


async def main() -> None:
    app = web.Application()
    app.add_routes([web.get("/hello", hello), web.get("/ws", echo)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]

    async with ClientSession(f"http://{host}:{port}") as session:
        async with session.get("/hello") as answer:
            print("answer:", answer.status, await answer.json())
        async with session.ws_connect("/ws") as socket:
            await socket.send_str("over a WebSocket")
            print("echo:", await socket.receive_str())
    await runner.cleanup()


if __name__ == "__main__":
    zloop.run(main())
