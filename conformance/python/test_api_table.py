"""Every name that asyncio's loop, transports, server and handles show; and the table in the documentation."""

import json

import pytest

import api_probe
import api_table
from harness import PY


@pytest.mark.zloop_only("asyncio is what is compared with")
def test_no_name_of_asyncio_is_missing(loop_factory):
    """And what can be called cheaply does its work."""
    found = api_probe.examine(loop_factory)
    wrong = {
        f"{kind}.{name}": state
        for kind, states in found.items()
        for name, state in states.items()
        if state not in ("works", "there")
    }
    assert not wrong
    assert sum(len(states) for states in found.values()) > 120
    assert sum(state == "works" for state in found["loop"].values()) > 30


def test_the_documented_table_is_the_one_that_would_be_written():
    version = json.loads(api_table.PEERS.read_text())["python"]
    if tuple(map(int, version.split(".")[:2])) != PY:
        pytest.skip(f"the table is for CPython {version}: names differ from version to version")
    _, documented, _ = api_table.documented()
    assert documented == api_table.table(), "run conformance/python/api_table.py"


def test_the_probe_notices_what_is_missing_and_what_does_not_work():
    import asyncio

    class Poor(asyncio.SelectorEventLoop):
        async def sock_recv(self, sock, n):
            raise NotImplementedError

        async def getaddrinfo(self, host, port, **options):
            return [(0, 0, 0, "", ("127.0.0.2", 80))]

        def __getattribute__(self, name):
            if name == "sock_accept":
                raise AttributeError(name)
            return super().__getattribute__(name)

    found = api_probe.examine(Poor)["loop"]
    assert found["sock_recv"] == "NotImplementedError"
    assert found["sock_accept"] == "missing"
    assert found["getaddrinfo"] == "wrong"
    assert found["sock_connect"] == "works"
