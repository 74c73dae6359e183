"""`python -m zloop`, and how a backend is chosen."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("zloop", reason="a run for stock asyncio alone may lack it")

import zloop
from zloop._choice import chosen_backend

CHOICES = [
    (None, {}, None),
    ("epoll", {"ZLOOP_BACKEND": "poll", "ZLOOP_IO_URING": "1"}, "epoll"),
    (None, {"ZLOOP_BACKEND": "poll", "ZLOOP_IO_URING": "1"}, "poll"),
    (None, {"ZLOOP_IO_URING": "completion"}, "io_uring"),
    (None, {"ZLOOP_IO_URING": "TRUE"}, "io_uring"),
    (None, {"ZLOOP_IO_URING": "off", "ZLOOP_BACKEND": ""}, None),
    ("auto", {"ZLOOP_BACKEND": "poll"}, None),
    (None, {"ZLOOP_BACKEND": "auto", "ZLOOP_IO_URING": "1"}, None),
]


@pytest.mark.parametrize(("argument", "environment", "chosen"), CHOICES)
def test_the_argument_beats_the_environment(argument, environment, chosen):
    assert chosen_backend(argument, environment) == chosen


def test_a_value_without_a_meaning_is_refused():
    with pytest.raises(
        ValueError, match=r"ZLOOP_IO_URING='maybe' means nothing; use one of .*completion"
    ):
        chosen_backend(None, {"ZLOOP_IO_URING": "maybe"})


def doctor(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "zloop", *arguments], capture_output=True, text=True, timeout=20
    )


def test_the_doctor_knows_what_works():
    report = json.loads(doctor("--json").stdout)
    works = [backend["name"] for backend in report["backends"] if backend["available"]]
    assert works == zloop.available_backends()
    assert all(backend["reason"] for backend in report["backends"] if not backend["available"])
    assert report["zloop"] == zloop.__version__
    loop = zloop.new_event_loop("auto")
    assert [backend["name"] for backend in report["backends"] if backend["automatic"]] == [
        loop.backend
    ]
    loop.close()


def test_the_doctor_is_readable():
    text = doctor().stdout
    for name in zloop.available_backends():
        assert f"{name:<10}works" in text
    assert "A new loop runs on" in text


def test_the_exit_status_is_for_scripts():
    works = zloop.available_backends()
    assert doctor(*works).returncode == 0
    missing = "kqueue" if sys.platform == "linux" else "epoll"
    assert doctor(missing).returncode == 1
    assert doctor(works[0], missing).returncode == 1
    refused = doctor("nonsense")
    assert refused.returncode == 2 and "unknown backend: nonsense" in refused.stderr
