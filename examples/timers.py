"""Timers: call_later, call_at, cancelling one, and sleeping without drift."""

import asyncio

import zloop


async def main() -> None:
    loop = asyncio.get_running_loop()
    fired: list[str] = []
    done = asyncio.Event()

    loop.call_later(0.03, fired.append, "third")
    loop.call_later(0.01, fired.append, "first")
    loop.call_at(loop.time() + 0.02, fired.append, "second")
    unwanted = loop.call_later(0.015, fired.append, "never")
    unwanted.cancel()
    loop.call_later(0.04, done.set)
    await done.wait()
    print("fired:", ", ".join(fired))

    # A clock that does not drift: each tick is counted from the start, not from the tick before.
    start = loop.time()
    for tick in range(1, 6):
        await asyncio.sleep(start + tick * 0.01 - loop.time())
        early = loop.time() < start + tick * 0.01
        print(f"tick {tick}, early: {early}")


if __name__ == "__main__":
    zloop.run(main())
