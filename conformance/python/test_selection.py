"""Which backend a loop gets: the argument, the environment, the automatic choice."""

import errno
import sys

import pytest

pytest.importorskip("zloop", reason="a run for stock asyncio alone may lack it")

import zloop
from zloop._choice import Choice, choose

CHOICES = [
    (None, {}, Choice(None)),
    ("epoll", {"ZLOOP_BACKEND": "poll", "ZLOOP_IO_URING": "1"}, Choice("epoll")),
    ("auto", {"ZLOOP_BACKEND": "poll", "ZLOOP_IO_URING": "1"}, Choice(None)),
    ("epoll", {"ZLOOP_IO_URING": "maybe"}, Choice("epoll")),
    (None, {"ZLOOP_BACKEND": "poll", "ZLOOP_IO_URING": "1"}, Choice("poll", "ZLOOP_BACKEND")),
    (None, {"ZLOOP_BACKEND": " poll\n"}, Choice("poll", "ZLOOP_BACKEND")),
    (None, {"ZLOOP_BACKEND": "auto", "ZLOOP_IO_URING": "1"}, Choice(None, "ZLOOP_BACKEND")),
    (None, {"ZLOOP_BACKEND": "", "ZLOOP_IO_URING": "1"}, Choice("io_uring", "ZLOOP_IO_URING")),
    *((None, {"ZLOOP_IO_URING": on}, Choice("io_uring", "ZLOOP_IO_URING"))
      for on in ("completion", "1", "true", "TRUE", "on", "yes", " on ")),
    *((None, {"ZLOOP_IO_URING": off}, Choice(None)) for off in ("", "off", "OFF", "0", "false", "no")),
]  # fmt: skip


@pytest.mark.parametrize(("argument", "environment", "choice"), CHOICES)
def test_the_argument_beats_the_environment(argument, environment, choice):
    assert choose(argument, environment) == choice


def test_a_value_without_a_meaning_is_refused():
    with pytest.raises(
        ValueError, match=r"ZLOOP_IO_URING='maybe' means nothing; use one of .*completion"
    ):
        choose(None, {"ZLOOP_IO_URING": "maybe"})


@pytest.mark.parametrize("variable", ["ZLOOP_BACKEND", "ZLOOP_IO_URING"])
def test_who_asked_for_what_cannot_be_had_is_told(monkeypatch, variable):
    monkeypatch.delenv("ZLOOP_BACKEND", raising=False)
    monkeypatch.setenv(variable, "nonsense")
    with pytest.raises(ValueError, match="nonsense") as caught:
        zloop.new_event_loop()
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert variable in told
    with pytest.raises(ValueError, match='unknown backend "rubbish"; available: auto, ') as caught:
        zloop.new_event_loop("rubbish")
    assert not hasattr(caught.value, "__notes__"), "the environment had no say"


def test_another_platforms_backend_is_refused_with_the_platforms_name():
    foreign, home = ("kqueue", "macOS or a BSD") if sys.platform == "linux" else ("epoll", "Linux")
    if foreign in zloop.available_backends():
        pytest.skip(f"this build has {foreign} here")
    with pytest.raises(zloop.BackendUnavailable) as caught:
        zloop.new_event_loop(foreign)
    assert caught.value.errno == errno.ENOSYS
    assert f"the {foreign} backend is not available: it needs {home}; this is" in str(caught.value)


def test_signals_do_not_make_a_backend_unavailable(script):
    done = script(r"""
import signal
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
for _ in range(2000):
    new_event_loop().close()
signal.setitimer(signal.ITIMER_REAL, 0)
print("made")
""")
    assert done.stdout == "made\n", done.stderr
