"""A FastAPI application to serve on zloop.

    uvicorn --app-dir examples fastapi_app:app --loop zloop:new_event_loop

`/` is a page, `/loop` says which event loop answers, `/hello/{name}` is JSON from a coroutine,
`/sum` runs in a worker thread, `/ticks` streams, `/ws` echoes over a WebSocket.
"""

import asyncio
import platform
from collections.abc import AsyncIterator

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, StreamingResponse

app = FastAPI(title="zloop example")

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>FastAPI on zloop</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; }</style>
<h1>FastAPI on zloop</h1>
<p>This page was served by <b id="loop">...</b>.</p>
<p><input id="text" value="hello"> <button id="send">Send over a WebSocket</button></p>
<pre id="log"></pre>
<script>
const show = (id, text) => document.getElementById(id).textContent = text;
fetch("/loop").then(r => r.json()).then(l => show("loop", `${l.loop} on ${l.backend}`));
const ws = new WebSocket(location.href.replace(/^http/, "ws") + "ws");
ws.onmessage = e => document.getElementById("log").append(`the server says: ${e.data}\\n`);
document.getElementById("send").onclick = () => ws.send(document.getElementById("text").value);
</script>
"""


def describe_loop() -> dict[str, str]:
    """The running event loop in three words: its package, its class and its backend."""
    loop = asyncio.get_running_loop()
    kind = type(loop)
    return {
        "loop": kind.__module__.partition(".")[0],
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "backend": getattr(loop, "backend", "none"),
        "python": platform.python_version(),
    }


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE


@app.get("/loop")
async def loop() -> dict[str, str]:
    return describe_loop()


@app.get("/hello/{name}")
async def hello(name: str) -> dict[str, str]:
    await asyncio.sleep(0)
    return {"message": f"Hello, {name}!"}


@app.get("/sum")
def add(n: int = 1000) -> dict[str, int]:
    """A plain function: FastAPI runs it in a thread, the loop stays free."""
    return {"sum": sum(range(n))}


@app.get("/ticks")
async def ticks(n: int = 3) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for i in range(n):
            yield f"tick {i}\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(lines(), media_type="text/plain")


@app.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass
