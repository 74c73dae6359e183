"""Whether OpenSSL may be called directly: any doubt means Python's own objects, with the reason told; never a crash."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("zloop", reason="a run for stock asyncio alone may lack it")

import zloop

# What is wrong, as a program would find it, and what the doctor says of it.
DOUBTS = {
    "another interpreter": (
        "sys.implementation.name = 'pypy'",
        "the objects of pypy",
    ),
    "ssl is part of the interpreter": (
        "del _ssl.__file__",
        "the ssl module is part of the interpreter",
    ),
    "a module that is not loaded": (
        "_ssl.__file__ = '/nowhere/_ssl.so'",
        "keeps its OpenSSL to itself",
    ),
    "half of the library": (
        "import _hashlib; _ssl.__file__ = _hashlib.__file__",
        "the OpenSSL of the ssl module shows no SSL_",
    ),
    "no OpenSSL at all": (
        "_ssl.__file__ = zloop._zloop.__file__",
        "the OpenSSL of the ssl module shows no OpenSSL_version_num",
    ),
    "another version": (
        "_ssl.OPENSSL_VERSION = 'OpenSSL 1.0.2 22 Jan 2015'",
        "was found where Python has OpenSSL 1.0.2",
    ),
    "another build": (
        "_ssl.OPENSSL_VERSION_NUMBER += 16",
        "was found where Python has OpenSSL",
    ),
    "no number": (
        "_ssl.OPENSSL_VERSION_NUMBER = 'three'",
        "the proof failed: TypeError",
    ),
    "other objects": (
        "_ssl._SSLSocket = type('_SSLSocket', (), {})",
        "the layout of objects differs",
    ),
    "other buffers": (
        "_ssl.MemoryBIO = type('MemoryBIO', (), {})",
        "the layout of objects differs",
    ),
    "ciphers that are forbidden": (
        "ssl.SSLContext.set_ciphers = lambda *_: 1 / 0",
        "the proof failed: ZeroDivisionError",
    ),
    "ciphers that do not agree": (
        "ssl.SSLObject.cipher = lambda self: (id(self), 'TLSv1.3', 256)",
        "the handshake differs",
    ),
    "an end that does not come": (
        "ssl.SSLObject.unwrap = lambda self: None",
        "the end of a session differs",
    ),
}

SCRIPT = """
import _ssl, asyncio, contextlib, json, ssl, sys, trustme, zloop, zloop._zloop
from zloop.__main__ import describe, examine

authority = trustme.CA()
kept = ssl.SSLContext.set_ciphers, ssl.SSLObject.cipher, ssl.SSLObject.unwrap
DOUBT
loop = zloop.new_event_loop()
report = examine()
answer = [loop.tls, report["tls"], report["tls_reason"], " ".join(describe(report).split())]
ssl.SSLContext.set_ciphers, ssl.SSLObject.cipher, ssl.SSLObject.unwrap = kept

async def echo(reader, writer):
    while data := await reader.read(100_000):
        writer.write(data)
    writer.close()

async def main():
    server, client = (ssl.SSLContext(p) for p in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    serving = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server)
    port = serving.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=client, server_hostname="localhost"
    )
    data = bytes(range(256)) * 2000
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    answer.append(writer.transport._ssl_protocol._engine)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    serving.close()

loop.run_until_complete(main())
loop.close()
print(json.dumps(answer))
"""


def examined(doubt: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("DOUBT", doubt)],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, "ZLOOP_TLS": "auto"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", autouse=True)
def direct():
    if problem := zloop._zloop.tls_problem():
        pytest.skip(f"there is doubt here anyway: {problem}")


def test_no_doubt():
    said = examined("")
    assert [said[0], said[1], said[2], said[4]] == ["direct", "direct", None, "direct"]


@pytest.mark.parametrize(("doubt", "reason"), DOUBTS.values(), ids=DOUBTS)
def test_any_doubt(doubt, reason):
    tls, told, why, text, used = examined(doubt)
    assert (tls, told, used) == ("portable", "portable", "portable")
    assert reason in why
    assert why in text and "TLS is portable" in text
