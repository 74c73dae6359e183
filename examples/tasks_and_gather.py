"""Tasks, gather, a task group and a timeout: plain asyncio code, run by zloop."""

import asyncio

import zloop


async def fetch(name: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return f"{name} after {seconds * 1000:.0f} ms"


async def main() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    results = await asyncio.gather(fetch("a", 0.3), fetch("b", 0.1), fetch("c", 0.2))
    print("gather keeps the order of its arguments:", results)
    print("and runs them together:", loop.time() - start < 0.6)

    async with asyncio.TaskGroup() as group:
        first = group.create_task(fetch("first", 0.01), name="first")
        second = group.create_task(fetch("second", 0.02), name="second")
    print("a task group waits for all:", first.result(), "|", second.result())

    try:
        async with asyncio.timeout(0.01):
            await fetch("never", 60)
    except TimeoutError:
        print("a timeout cancels what takes too long")


if __name__ == "__main__":
    zloop.run(main())
