"""The two-minute demonstration: a FastAPI app served by uvicorn on zloop, asked over the network.

Starts examples/fastapi_app.py twice, once in the clear and once with TLS, makes real requests over
HTTP/1.1, a WebSocket and HTTPS, shows what was sent and what came back, and stops both servers.
Ends with status 1 if any answer is not what it should be.
"""

import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import httpx
import trustme
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

EXAMPLES = Path(__file__).parent.parent / "examples"
START_LIMIT = 30.0  # seconds
STOP_LIMIT = 10.0  # seconds


class Mismatch(Exception):
    """An answer was not what it should have been."""


class Output:
    """What is shown: plain text, with a little colour on a terminal."""

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    @classmethod
    def paint(cls, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if cls.colour else text

    @classmethod
    def title(cls, text: str) -> None:
        print(f"\n{cls.paint('1', text)}")

    @classmethod
    def sent(cls, text: str) -> None:
        print(f"  {cls.paint('36', '->')} {text}")

    @classmethod
    def received(cls, text: str) -> None:
        print(f"  {cls.paint('32', '<-')} {text}")


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise Mismatch(message)


@contextlib.contextmanager
def server(*options: str) -> Iterator[int]:
    """Runs uvicorn on zloop for the length of the block; yields the port that the kernel gave it."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "fastapi_app:app"]
    command += ["--loop", "zloop:new_event_loop", "--port", "0", "--no-access-log", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        log: deque[str] = deque(maxlen=50)
        port: list[int] = []
        started = threading.Event()

        def read_log() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                log.append(line)
                if "Uvicorn running on" in line:
                    port.append(int(line.split(":")[-1].split()[0]))
                    started.set()
            started.set()

        reader = threading.Thread(target=read_log)
        reader.start()
        try:
            started.wait(START_LIMIT)
            if not port:
                process.kill()
                reader.join()
                raise Mismatch("the server did not start:\n" + "".join(log))
            yield port[0]
        finally:
            process.terminate()
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise Mismatch(
                    f"the server was still there {STOP_LIMIT:.0f} s after SIGTERM"
                ) from None
            finally:
                reader.join()
        # uvicorn ends itself with the signal that asked it to stop.
        expect(process.returncode in (0, -signal.SIGTERM), f"it exited with {process.returncode}")
        expect("Traceback" not in "".join(log), "the server logged an error:\n" + "".join(log))


def ask(client: httpx.Client, path: str) -> httpx.Response:
    Output.sent(f"GET {client.base_url.copy_with(path=path)}")
    answer = client.get(path)
    body = answer.text if len(answer.text) < 200 else f"{len(answer.text)} characters of HTML"
    Output.received(f"{answer.http_version} {answer.status_code} {answer.reason_phrase}: {body}")
    expect(answer.status_code == 200, f"{path} answered {answer.status_code}")
    return answer


def check_loop(client: httpx.Client) -> str:
    """Asks the app which loop it runs on, and returns the backend's name."""
    loop = ask(client, "/loop").json()
    expect(loop["loop"] == "zloop", f"the app runs on {loop['loop']}, not on zloop")
    wanted = os.environ.get("ZLOOP_BACKEND", loop["backend"])
    expect(loop["backend"] == wanted, f"the backend is {loop['backend']}, not {wanted}")
    expect(loop["backend"] not in ("", "none"), "the loop does not name its backend")
    return str(loop["backend"])


def show_http(client: httpx.Client) -> str:
    Output.title("HTTP/1.1: requests over one connection that stays open")
    backend = check_loop(client)
    hello = ask(client, "/hello/newcomer").json()
    expect(hello == {"message": "Hello, newcomer!"}, f"/hello answered {json.dumps(hello)}")
    expect("FastAPI on zloop" in ask(client, "/").text, "/ is not the page")
    return backend


def show_websocket(url: str, context: ssl.SSLContext | None = None) -> None:
    Output.sent(f"connect to {url}")
    with connect(url, ssl=context, proxy=None) as websocket:
        for text in ("Are you there?", "x" * 100_000):
            websocket.send(text)
            echo = websocket.recv(timeout=START_LIMIT)
            short = f'"{text}"' if len(text) < 50 else f"{len(text)} characters"
            Output.sent(f"send {short}")
            expect(echo == text, f"the echo of {short} differs")
            Output.received(f"echo, {short if len(text) < 50 else 'the same ' + short}")


def show_https(client: httpx.Client) -> None:
    Output.title("HTTPS: the same app behind TLS, its certificate checked by the client")
    check_loop(client)
    Output.sent(f"GET {client.base_url.copy_with(path='/hello/tls')}")
    with client.stream("GET", "/hello/tls") as answer:
        tls = answer.extensions["network_stream"].get_extra_info("ssl_object")
        Output.received(f"encrypted with {tls.version()}, {tls.cipher()[0]}")
        expect(answer.status_code == 200, f"/hello answered {answer.status_code} over TLS")


def show_all(folder: Path) -> str:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    key_file, chain_file = folder / "key.pem", folder / "chain.pem"
    certificate.private_key_pem.write_to_path(key_file)
    certificate.cert_chain_pems[0].write_to_path(chain_file)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    print("Starting a FastAPI app under uvicorn on zloop:")
    print("  uvicorn --app-dir examples fastapi_app:app --loop zloop:new_event_loop")
    with server() as port:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            backend = show_http(client)
        Output.title("WebSocket: what is sent comes back")
        show_websocket(f"ws://127.0.0.1:{port}/ws")

    with server("--ssl-keyfile", str(key_file), "--ssl-certfile", str(chain_file)) as port:
        with httpx.Client(
            base_url=f"https://127.0.0.1:{port}", verify=trust, trust_env=False
        ) as client:
            show_https(client)
        Output.title("WebSocket over TLS")
        show_websocket(f"wss://127.0.0.1:{port}/ws", trust)
    return backend


def main() -> int:
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            backend = show_all(Path(folder))
    except (Mismatch, httpx.HTTPError, WebSocketException, OSError) as error:
        print(f"\n{Output.paint('31', 'The demo failed')}: {error}", file=sys.stderr)
        return 1
    print(
        f"\n{Output.paint('1;32', 'All answers are right')}: HTTP, WebSocket and HTTPS were served by "
        f"zloop on its {backend} backend, in {time.monotonic() - start:.1f} s."
        "\nLeave the app running and open it in a browser with: make serve"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
