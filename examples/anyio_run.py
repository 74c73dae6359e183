"""AnyIO on zloop: name the loop's factory in the backend options."""

import asyncio

import anyio
import anyio.to_thread

import zloop


async def main() -> None:
    print("running on:", type(asyncio.get_running_loop()).__module__.partition(".")[0])
    send, receive = anyio.create_memory_object_stream[int](10)

    async def produce() -> None:
        async with send:
            for number in range(5):
                await send.send(number)

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        async with receive:
            print("received:", [number async for number in receive])

    print("from a thread:", await anyio.to_thread.run_sync(sum, range(10)))
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep(60)
    print("cancelled in time:", scope.cancelled_caught)


if __name__ == "__main__":
    anyio.run(main, backend="asyncio", backend_options={"loop_factory": zloop.new_event_loop})
