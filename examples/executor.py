"""Blocking work off the loop: to_thread, run_in_executor, and a thread that wakes the loop."""

import asyncio
import contextvars
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import zloop

request = contextvars.ContextVar("request", default="none")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


async def main() -> None:
    loop = asyncio.get_running_loop()
    main_thread = threading.current_thread()

    request.set("42")
    print("to_thread keeps the context:", await asyncio.to_thread(request.get))
    print("default executor:", await loop.run_in_executor(None, digest, b"zloop"))

    with ThreadPoolExecutor(max_workers=4) as pool:
        parts = [loop.run_in_executor(pool, digest, bytes([i])) for i in range(8)]
        print("own pool:", len(set(await asyncio.gather(*parts))), "different digests")

    answer: asyncio.Future[bool] = loop.create_future()

    def worker() -> None:
        on_loop = main_thread is not threading.current_thread()
        loop.call_soon_threadsafe(answer.set_result, on_loop)

    threading.Thread(target=worker).start()
    print("a thread woke the loop:", await answer)


if __name__ == "__main__":
    zloop.run(main())
