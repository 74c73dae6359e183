"""What the profile of an optimised wheel is taken from: `make wheel PGO=1` runs it on an instrumented
build, with the Python that this is installed in.

Each backend that opens here serves the load generator for a moment in each of the usual ways, and
carries out the operations of the loop that only compute.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from harness.environment import SCRIPTS, build_native

sys.path.append(str(SCRIPTS))

import trustme
from echo_server import listen, servers, spelled
from http_app import Server
from loop_ops import BATCH, operations
from loops import loop_factory, settle_allocator

import zloop

SECONDS = "0.4"
# Times that each operation is carried out.
COUNT = 30 * BATCH


async def compute() -> None:
    """Carry out the operations that do not wait for a process or a thread."""
    for name, (run, clock) in operations.items():
        if clock == "cpu":
            print(f"  {name}", flush=True)
            await run(COUNT)


async def burden(load: Path, *arguments: str) -> None:
    """Run the load generator against a server of this process."""
    print(" ", *arguments, flush=True)
    command = [str(load), *arguments, "--warmup", "0", "--duration", SECONDS]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait():
        sys.exit("train: the load generator failed")


async def echo(load: Path) -> None:
    """Echo messages, small ones most, in each of the three ways."""
    for mode in ("proto", "buffered", "streams"):
        address = spelled(await listen(mode, None, None))
        for size, connections in [("1024", "8"), ("1024", "64"), ("10240", "8"), ("102400", "8")]:
            await burden(
                load, "echo", "--connect", address, "--size", size, "--connections", connections
            )
        await burden(load, "churn", "--connect", address)
        servers.clear()


@asynccontextmanager
async def website(certificate: str | None) -> AsyncIterator[str]:
    """Serve HTTP, or HTTPS with a certificate, with uvicorn; give the address."""
    server = Server(certificate)
    serving = asyncio.create_task(server.serve())
    await server.listening.wait()
    yield server.address
    server.should_exit = True
    await serving


async def http(load: Path, folder: Path) -> None:
    """Answer requests for small and large bodies, plain and encrypted."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "server.pem")
    )
    for certificate in (None, str(folder / "server.pem")):
        options = ["--connections", "32"]
        if certificate:
            options += ["--tls-ca", str(folder / "ca.pem")]
        async with website(certificate) as address:
            for path in ("/20", "/100000"):
                await burden(load, "http", "--connect", address, "--path", path, *options)


async def train(load: Path, folder: Path) -> None:
    await compute()
    await echo(load)
    await http(load, folder)


def main() -> None:
    settle_allocator()
    load, _ = build_native(progress=True)
    with tempfile.TemporaryDirectory() as folder:
        for backend in zloop.available_backends():
            print(f"{backend}:", flush=True)
            with asyncio.Runner(loop_factory=loop_factory(f"zloop:{backend}")) as runner:
                runner.run(train(load, Path(folder)))


if __name__ == "__main__":
    main()
