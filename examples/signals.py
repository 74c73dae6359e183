"""Signal handlers: reload on SIGHUP, stop gracefully on SIGTERM.

With `--wait` it runs until a signal is sent from outside; without, it sends them to itself.
"""

import asyncio
import os
import signal
import sys

import zloop


async def main(send_to_self: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    reloads = 0

    def reload() -> None:
        nonlocal reloads
        reloads += 1
        print("SIGHUP: reloading, number", reloads, flush=True)

    loop.add_signal_handler(signal.SIGHUP, reload)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    print("ready, pid", os.getpid(), flush=True)

    if send_to_self:
        os.kill(os.getpid(), signal.SIGHUP)
        loop.call_later(0.01, os.kill, os.getpid(), signal.SIGHUP)
        loop.call_later(0.02, os.kill, os.getpid(), signal.SIGTERM)

    await stop.wait()
    print("SIGTERM: finishing after", reloads, "reloads", flush=True)
    loop.remove_signal_handler(signal.SIGHUP)
    loop.remove_signal_handler(signal.SIGTERM)


if __name__ == "__main__":
    zloop.run(main(send_to_self="--wait" not in sys.argv[1:]))
