"""Runs every example as a user would, on every backend, and reads what it prints."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

import zloop

FOLDER = Path(__file__).parent
LIMIT = 30.0  # seconds; the slowest example needs about one

# What each example must print, in order; other lines may come between.
EXPECTED = {
    "tasks_and_gather.py": [
        "gather keeps the order of its arguments: ['a after 300 ms', 'b after 100 ms', 'c after 200 ms']",
        "and runs them together: True",
        "a task group waits for all: first after 10 ms | second after 20 ms",
        "a timeout cancels what takes too long",
    ],
    "timers.py": [
        "fired: first, second, third",
        *(f"tick {tick}, early: False" for tick in range(1, 6)),
    ],
    "streams_echo.py": ["echo: hello", "echo: from", "echo: zloop", "end of stream: True"],
    "executor.py": [
        "to_thread keeps the context: 42",
        "default executor: fa4487aea727",
        "own pool: 8 different digests",
        "a thread woke the loop: True",
    ],
    "signals.py": [
        "SIGHUP: reloading, number 1",
        "SIGHUP: reloading, number 2",
        "SIGTERM: finishing after 2 reloads",
    ],
    "tls_echo.py": [
        "protocol: TLSv1.3",
        "echoed whole: True",
        "a client that does not know the authority: CERTIFICATE_VERIFY_FAILED",
        "before start_tls: in the clear",
        "after start_tls: encrypted",
    ],
    "unix_socket.py": ["connected to the path: True", "answer: SHOUT"],
    "anyio_run.py": [
        "running on: zloop",
        "received: [0, 1, 2, 3, 4]",
        "from a thread: 45",
        "cancelled in time: True",
    ],
    "httpx_client.py": ["'loop': 'zloop'", f"ten at once: {[200] * 10}"],
    "aiohttp_client.py": [
        "answer: 200 {'loop': 'zloop', 'path': '/hello'}",
        "echo: over a WebSocket",
    ],
}

# Those that need a client or a test runner have a test of their own below.
SERVED = {
    "fastapi_app.py",
    "parallel_http.py",
    "test_with_anyio.py",
    "uvicorn_run.py",
    "uvicorn_workers.py",
}


@pytest.fixture(params=zloop.available_backends())
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    return {**os.environ, "ZLOOP_BACKEND": request.param, "PYTHONUNBUFFERED": "1"}


def run(arguments: list[str], environment: dict[str, str]) -> str:
    """Runs a program to its end; fails with what it printed if it does not end well."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "Warning" not in done.stdout, done.stdout
    return done.stdout


@contextlib.contextmanager
def serving(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Runs a server for the length of the block; it must leave quietly on SIGINT if it still runs."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=LIMIT)
        # uvicorn raises the signal again after its own shutdown.
        assert process.returncode in (0, -signal.SIGINT), output
        assert "Traceback" not in output.replace("KeyboardInterrupt", ""), output
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def get(url: str) -> httpx.Response:
    """Asks until the server is up."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            return httpx.get(url, trust_env=False)
        except httpx.TransportError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.05)


def test_every_example_has_a_test() -> None:
    here = {path.name for path in FOLDER.glob("*.py")} - {Path(__file__).name}
    assert here == EXPECTED.keys() | SERVED


@pytest.mark.parametrize("name", EXPECTED)
def test_prints(name: str, environment: dict[str, str]) -> None:
    output = run([str(FOLDER / name)], environment)
    position = 0
    for text in EXPECTED[name]:
        found = output.find(text, position)
        assert found >= 0, f"{text!r} is missing or out of order in:\n{output}"
        position = found + len(text)


def test_signals_from_outside(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, str(FOLDER / "signals.py"), "--wait"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "SIGHUP: reloading, number 1\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "SIGTERM: finishing after 1 reloads\n"
        assert process.wait(LIMIT) == 0


def test_pytest_with_anyio(environment: dict[str, str]) -> None:
    output = run(["-m", "pytest", "-q", str(FOLDER / "test_with_anyio.py")], environment)
    assert re.search(r"^2 passed", output, re.MULTILINE), output


def test_uvicorn_run_stops_by_itself(environment: dict[str, str]) -> None:
    port = free_port()
    arguments = [str(FOLDER / "uvicorn_run.py"), "--port", str(port), "--requests", "2"]
    with serving(arguments, environment) as process:
        assert get(f"http://127.0.0.1:{port}/").text == "served by zloop\n"
        assert get(f"http://127.0.0.1:{port}/").status_code == 200
        assert process.wait(LIMIT) == 0


@pytest.mark.parametrize("way", ["uvicorn.run", "--workers 2"])
def test_two_workers(way: str, environment: dict[str, str]) -> None:
    port = free_port()
    arguments = [str(FOLDER / "uvicorn_workers.py"), "--port", str(port)]
    if way == "--workers 2":
        command = f"-m uvicorn --app-dir {FOLDER} uvicorn_workers:app --port {port} {way}"
        arguments = [*command.split(), "--loop", "zloop:new_event_loop"]
    with serving(arguments, environment):
        answers = both(port, "pid")
        assert {answer["loop"] for answer in answers} == {"zloop"}


def test_loops_in_threads(environment: dict[str, str]) -> None:
    port = free_port()
    arguments = [str(FOLDER / "parallel_http.py"), "--port", str(port), "--loops", "2"]
    with serving(arguments, environment):
        answers = both(port, "thread")
        assert {answer["thread"] for answer in answers} == {"MainThread", "zloop-1"}
        numbers = [answer["request"] for answer in answers]
        assert numbers == list(range(1, len(numbers) + 1))


def both(port: int, key: str) -> list[dict[str, object]]:
    """Asks until answers with two different values of `key` have come; returns all answers."""
    answers: list[dict[str, object]] = []
    deadline = time.monotonic() + LIMIT
    while len({answer[key] for answer in answers}) < 2:
        assert time.monotonic() < deadline, f"only {answers} came"
        answers.append(get(f"http://127.0.0.1:{port}/").json())
    return answers


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_fastapi_under_uvicorn(http: str, environment: dict[str, str]) -> None:
    port = free_port()
    command = f"-m uvicorn --app-dir {FOLDER} fastapi_app:app --port {port} --http {http}"
    arguments = [*command.split(), "--loop", "zloop:new_event_loop"]
    with serving(arguments, environment):
        base = f"http://127.0.0.1:{port}"
        loop = get(f"{base}/loop").json()
        assert loop["loop"] == "zloop"
        assert loop["backend"] == environment["ZLOOP_BACKEND"]
        assert get(f"{base}/hello/you").json() == {"message": "Hello, you!"}
        assert get(f"{base}/sum?n=10").json() == {"sum": 45}
        assert get(f"{base}/ticks?n=2").text == "tick 0\ntick 1\n"
        assert "FastAPI on zloop" in get(f"{base}/").text
        assert get(f"{base}/nowhere").status_code == 404
        with connect(f"ws://127.0.0.1:{port}/ws") as websocket:
            for text in ("one", "two", "x" * 100_000):
                websocket.send(text)
                assert websocket.recv(timeout=LIMIT) == text
