"""aiohttp's client getting one URL over and over. Prints one JSON object: what it cost."""

from __future__ import annotations

import argparse
import asyncio
import json
import time

import aiohttp
from loops import loop_factory, settle_allocator


async def get(session: aiohttp.ClientSession, url: str, length: int, until: float) -> int:
    """Get `url` until the clock says `until`; return how often."""
    count = 0
    while time.monotonic() < until:
        async with session.get(url) as response:
            found = await response.read()
            if response.status != 200 or len(found) != length:
                raise RuntimeError(f"status {response.status} with {len(found)} bytes")
        count += 1
    return count


async def measure(options: argparse.Namespace) -> dict[str, float]:
    """Get for the warm-up, then again for the duration, and count only the latter."""
    connector = aiohttp.TCPConnector(limit=options.connections)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def all_for(seconds: float) -> int:
            until = time.monotonic() + seconds
            gets = [
                get(session, options.url, options.body, until) for _ in range(options.connections)
            ]
            return sum(await asyncio.gather(*gets))

        await all_for(options.warmup)
        cpu, wall = time.process_time(), time.monotonic()
        count = await all_for(options.duration)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    return {"cpu_us": cpu * 1e6 / count, "per_s": count / wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", default="asyncio", help="see loops.py")
    parser.add_argument("--url", required=True)
    parser.add_argument("--body", type=int, required=True, help="bytes that every reply must have")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--warmup", type=float, default=0.5, help="seconds")
    parser.add_argument("--duration", type=float, default=2.0, help="seconds")
    options = parser.parse_args()
    settle_allocator()
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        print(json.dumps(runner.run(measure(options))))


if __name__ == "__main__":
    main()
