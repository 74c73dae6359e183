"""`python -m zloop`: what it finds, and how it says so."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("zloop", reason="a run for stock asyncio alone may lack it")

import zloop


def doctor(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ZLOOP_")}
    return subprocess.run(
        [sys.executable, "-m", "zloop", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        env={**clean, **environment},
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
    assert f"A new loop runs on {works_first()}, the first of epoll, kqueue, poll" in text
    assert max(map(len, text.splitlines())) < 80


def works_first():
    """What an automatic choice takes here."""
    return next(name for name in zloop.available_backends() if name != "io_uring")


@pytest.mark.parametrize(
    ("environment", "variable"),
    [({"ZLOOP_BACKEND": "poll", "ZLOOP_IO_URING": "1"}, "ZLOOP_BACKEND"), ({}, "zloop")],
)
def test_it_says_who_chose(environment, variable):
    report = json.loads(doctor("--json", **environment).stdout)
    assert (report["chosen_by"], report["problem"]) == (variable, None)
    assert report["chosen"] == environment.get("ZLOOP_BACKEND", works_first())
    text = doctor(**environment).stdout
    assert f"A new loop runs on {report['chosen']}" in text
    assert variable == "zloop" or f"because {variable} says so" in text


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        (
            {"ZLOOP_BACKEND": "nonsense"},
            "ZLOOP_BACKEND asks for nonsense, which does not work here",
        ),
        ({"ZLOOP_IO_URING": "maybe"}, "ZLOOP_IO_URING='maybe' means nothing"),
    ],
)
def test_an_environment_in_which_no_loop_can_be_made(environment, problem):
    told = doctor(**environment)
    assert told.returncode == 1 and not told.stderr
    assert "A new loop cannot be made:" in told.stdout
    assert problem in " ".join(told.stdout.split())
    assert problem in json.loads(doctor("--json", **environment).stdout)["problem"]


def test_the_exit_status_is_for_scripts():
    assert doctor(*zloop.available_backends()).returncode == 0
    refused = doctor("nonsense")
    assert refused.returncode == 2 and "unknown backend: nonsense" in refused.stderr


def test_the_exit_status_tells_what_is_missing():
    works = zloop.available_backends()
    every = [backend["name"] for backend in json.loads(doctor("--json").stdout)["backends"]]
    missing = [name for name in every if name not in works]
    if not missing:
        pytest.skip("every backend works here")
    assert doctor(missing[0]).returncode == 1
    assert doctor(works[0], missing[0]).returncode == 1


def test_the_doctor_tells_how_tls_works():
    report = json.loads(doctor("--json").stdout)
    loop = zloop.new_event_loop()
    assert report["tls"] == loop.tls
    assert (report["tls"] == "direct") is (report["tls_reason"] is None)
    loop.close()
    assert "TLS is" in doctor().stdout
    forced = json.loads(doctor("--json", ZLOOP_TLS="portable").stdout)
    assert (forced["tls"], forced["tls_reason"]) == ("portable", "ZLOOP_TLS says so")


def test_an_engine_that_does_not_exist(monkeypatch):
    monkeypatch.setenv("ZLOOP_TLS", "magic")
    with pytest.raises(
        ValueError, match="ZLOOP_TLS='magic' means nothing; use 'auto' or 'portable'"
    ):
        zloop.new_event_loop()
    done = doctor(ZLOOP_TLS="magic")
    assert done.returncode == 1 and "ZLOOP_TLS" in done.stdout
