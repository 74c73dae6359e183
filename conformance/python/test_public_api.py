"""zloop's own interface: names, backends, run, install, environment, import hygiene."""

import asyncio
import inspect
import os
import re
import subprocess
import sys
import sysconfig
import warnings

import pytest

from harness import PY, kind_name, run_script, run_turns

pytestmark = pytest.mark.zloop_only("this is zloop's own interface")


@pytest.fixture
def zloop(loop_factory):
    """Imported here: the suite must also run where only asyncio is tested."""
    import zloop

    return zloop


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_the_gil_stays_off(script):
    """An extension that does not say that it can do without turns it on when it is imported."""
    code = """
import sys
loop = new_event_loop()
loop.run_until_complete(asyncio.sleep(0))
loop.close()
print(sys._is_gil_enabled())
"""
    assert script(code).stdout == "False\n"


def test_names(zloop):
    for name in (
        "Loop", "new_event_loop", "run", "install", "available_backends", "BackendUnavailable", "__version__",
    ):  # fmt: skip
        assert hasattr(zloop, name), name
        assert name in zloop.__all__
    assert re.fullmatch(r"\d+\.\d+\.\d+([-.+\w]*)?", zloop.__version__)
    assert all(hasattr(zloop, name) for name in zloop.__all__)


def test_the_version_is_the_packages(zloop):
    from importlib.metadata import PackageNotFoundError, version

    try:
        assert version("zloop") == zloop.__version__
    except PackageNotFoundError:
        pytest.skip("zloop is not installed as a package here")


def test_public_things_are_documented(zloop):
    assert zloop.__doc__
    for name in zloop.__all__:
        if not name.startswith("_"):
            assert inspect.getdoc(getattr(zloop, name)), name


def test_it_is_typed(zloop):
    assert os.path.exists(os.path.join(os.path.dirname(zloop.__file__), "py.typed"))


def test_backends(zloop, loop_factory):
    names = zloop.available_backends()
    assert isinstance(names, list) and names and all(type(name) is str for name in names)
    assert loop_factory.backend in names
    names.append("nonsense")
    assert "nonsense" not in zloop.available_backends()


def test_a_loop_tells_its_backend(loop, loop_factory):
    assert loop.backend == loop_factory.backend
    with pytest.raises(AttributeError):
        loop.backend = "other"


def test_kinds(zloop, loop):
    assert type(loop) is zloop.Loop
    assert type(loop).__module__.partition(".")[0] == "zloop"
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert issubclass(zloop.BackendUnavailable, OSError)


def test_the_default_backend(zloop, monkeypatch):
    monkeypatch.delenv("ZLOOP_BACKEND", raising=False)
    loop = zloop.new_event_loop()
    assert loop.backend in zloop.available_backends()
    loop.close()


def test_the_environment_chooses(zloop, loop_factory, monkeypatch):
    monkeypatch.setenv("ZLOOP_BACKEND", loop_factory.backend)
    for make in (zloop.new_event_loop, zloop.Loop):
        loop = make()
        backend = loop.backend
        loop.close()
        assert backend == loop_factory.backend


def test_the_argument_beats_the_environment(zloop, loop_factory, monkeypatch):
    monkeypatch.setenv("ZLOOP_BACKEND", "nonsense")
    loop = zloop.new_event_loop(backend=loop_factory.backend)
    assert loop.backend == loop_factory.backend
    loop.close()


def test_an_empty_environment_variable_is_none(zloop, monkeypatch):
    monkeypatch.setenv("ZLOOP_BACKEND", "")
    zloop.new_event_loop().close()


@pytest.mark.parametrize("how", ["argument", "environment", "class"])
def test_an_unknown_backend(zloop, monkeypatch, how):
    monkeypatch.delenv("ZLOOP_BACKEND", raising=False)
    with pytest.raises(ValueError, match="nonsense") as caught:
        if how == "argument":
            zloop.new_event_loop("nonsense")
        elif how == "class":
            zloop.Loop("nonsense")
        else:
            monkeypatch.setenv("ZLOOP_BACKEND", "nonsense")
            zloop.new_event_loop()
    for name in zloop.available_backends():
        assert name in str(caught.value)


def test_known_but_unavailable_backends_say_so(zloop):
    """An explicit choice is never replaced by another backend."""
    for name in ("epoll", "io_uring", "kqueue", "poll"):
        if name in zloop.available_backends():
            continue
        with pytest.raises((zloop.BackendUnavailable, ValueError)) as caught:
            zloop.new_event_loop(name)
        assert str(caught.value)


@pytest.mark.parametrize("backend", [5, b"epoll", ["epoll"], object()], ids=kind_name)
def test_a_backend_of_the_wrong_kind(zloop, backend):
    with pytest.raises((TypeError, ValueError)):
        zloop.new_event_loop(backend)


def test_run(zloop, loop_factory):
    async def main():
        loop = asyncio.get_running_loop()
        return loop, loop.get_debug()

    loop, debug = zloop.run(main(), backend=loop_factory.backend, debug=True)
    assert type(loop) is zloop.Loop and loop.is_closed() and debug
    assert loop.backend == loop_factory.backend


def test_run_refuses_what_asyncio_run_refuses(zloop, loop_factory):
    with pytest.raises((ValueError, TypeError)):
        zloop.run(5)

    async def nested():
        coroutine = asyncio.sleep(0)
        try:
            with pytest.raises(RuntimeError):
                zloop.run(coroutine, backend=loop_factory.backend)
        finally:
            coroutine.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        zloop.run(nested(), backend=loop_factory.backend)


def test_run_passes_exceptions_and_cleans_up(zloop, loop_factory):
    seen = []

    async def background():
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("cancelled")

    async def main():
        keep.append(asyncio.create_task(background()))
        await asyncio.sleep(0)
        raise ZeroDivisionError

    keep = []
    with pytest.raises(ZeroDivisionError):
        zloop.run(main(), backend=loop_factory.backend)
    assert seen == ["cancelled"]


def test_as_a_factory_by_name(zloop):
    """As uvicorn's ``--loop zloop:new_event_loop`` finds it."""
    module, _, name = "zloop:new_event_loop".partition(":")
    factory = getattr(sys.modules[module], name)
    with asyncio.Runner(loop_factory=factory) as runner:
        assert type(runner.get_loop()) is zloop.Loop


@pytest.mark.skipif(PY >= (3, 16), reason="Python 3.16 has no policies")
def test_install(script):
    done = script(
        """
import zloop, warnings
zloop.install()
async def main():
    print(type(asyncio.get_running_loop()).__module__.partition(".")[0])
asyncio.run(main())
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    loop = asyncio.new_event_loop()
    print(type(loop) is zloop.Loop)
    loop.close()
    print(isinstance(asyncio.get_event_loop_policy(), zloop.EventLoopPolicy))
    asyncio.set_event_loop_policy(None)
async def main():
    print(type(asyncio.get_running_loop()).__module__.partition(".")[0])
asyncio.run(main())
"""
    )
    assert done.stdout.split() == ["zloop", "True", "True", "asyncio"]


@pytest.mark.skipif(PY >= (3, 14), reason="policies are deprecated since Python 3.14")
def test_the_policy(zloop):
    policy = zloop.EventLoopPolicy()
    assert isinstance(policy, asyncio.AbstractEventLoopPolicy)
    loop = policy.new_event_loop()
    assert type(loop) is zloop.Loop
    policy.set_event_loop(loop)
    assert policy.get_event_loop() is loop
    policy.set_event_loop(None)
    loop.close()


SNAPSHOT = """
import asyncio, asyncio.base_events, asyncio.streams, asyncio.subprocess, asyncio.events, asyncio.selector_events
import asyncio.unix_events, asyncio.sslproto, asyncio.tasks, asyncio.futures, asyncio.transports, asyncio.runners
import selectors, signal, socket, ssl, sys, threading, warnings, subprocess, contextvars, concurrent.futures

def snapshot():
    found = {}
    for module in list(sys.modules.values()):
        name = getattr(module, "__name__", "")
        if name.partition(".")[0] not in ("asyncio", "socket", "ssl", "selectors", "signal", "threading", "subprocess"):
            continue
        for key, item in list(vars(module).items()):
            found[name, key] = id(item)
            if isinstance(item, type) and item.__module__ == name:
                for inner, thing in list(vars(item).items()):
                    if inner not in ("__abstractmethods__", "__weakref__", "__static_attributes__"):
                        found[name, key, inner] = id(thing)
    return found

before = snapshot()
wakeup = signal.set_wakeup_fd(-1)
handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD)]
hooks = sys.get_asyncgen_hooks(), sys.excepthook, sys.unraisablehook, threading.excepthook
threads = threading.active_count()
import zloop
after = snapshot()
changed = {key for key in before if after.get(key) != before[key]}
changed = {key for key in changed if not key[-1].startswith("__") and key[-1] not in ("_abc_impl",)}
assert not changed, changed
added = {key for key in after if key not in before and key[0] != "zloop"}
added = {key for key in added if not key[-1].startswith("__")}
assert not added, added
assert signal.set_wakeup_fd(-1) == wakeup == -1
assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD)]
assert hooks == (sys.get_asyncgen_hooks(), sys.excepthook, sys.unraisablehook, threading.excepthook)
assert threads == threading.active_count()
print("clean")
"""


@pytest.mark.parametrize("deprecations", ["error", "ignore"])
def test_importing_changes_nothing(loop_factory, deprecations):
    """No monkeypatching, no signal handler, no thread, no warning at import."""
    done = subprocess.run(
        [sys.executable, "-W", deprecations, "-c", SNAPSHOT],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stdout == "clean\n", done.stderr


def test_importing_and_running_leaves_asyncio_alone(loop_factory):
    """After a zloop ran, a plain asyncio.run still uses asyncio's loop."""
    done = run_script(
        loop_factory,
        """
loop = new_event_loop()
loop.run_until_complete(asyncio.sleep(0))
loop.close()
async def main():
    print(type(asyncio.get_running_loop()).__module__.partition(".")[0])
asyncio.run(main())
""",
    )
    assert done.stdout == "asyncio\n"


def test_the_extension_does_not_link_libpython(zloop):
    import zloop._zloop as native

    with open(native.__file__, "rb") as file:
        data = file.read()
    if not data.startswith(b"\x7fELF"):
        pytest.skip("only looks into ELF files")
    assert re.search(rb"\x00libpython3[\w.]*\.so", data) is None


def test_reload_and_second_import(zloop):
    import importlib

    assert importlib.import_module("zloop") is zloop
    assert importlib.import_module("zloop._zloop") is sys.modules["zloop._zloop"]


def test_a_subinterpreter_is_refused_or_works(loop_factory):
    """Never a crash."""
    interpreters = pytest.importorskip("concurrent.interpreters") if PY >= (3, 14) else None
    if interpreters is None:
        pytest.skip("concurrent.interpreters is new in Python 3.14")
    done = run_script(
        loop_factory,
        """
from concurrent import interpreters
interpreter = interpreters.create()
try:
    interpreter.exec("import zloop; loop = zloop.new_event_loop(); loop.call_soon(loop.stop);"
                     " loop.run_forever(); loop.close()")
except interpreters.ExecutionFailed as exc:
    print("refused:", exc)
else:
    print("works")
interpreter.close()
""",
    )
    assert done.stdout.startswith(("works", "refused: ImportError", "refused:"))


def test_many_loops_share_nothing(zloop, loop_factory):
    one, two = loop_factory(), loop_factory()
    seen = []
    one.call_soon(seen.append, 1)
    two.call_soon(seen.append, 2)
    run_turns(two)
    assert seen == [2]
    run_turns(one)
    assert seen == [2, 1]
    one.close()
    assert not two.is_closed()
    two.close()


SUBINTERPRETER = """
import sys
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    make = lambda: interpreters.create("legacy")
else:
    import _xxsubinterpreters as interpreters
    make = lambda: interpreters.create(isolated=False)
first, code = sys.argv[1] == "first", '''
try:
    import zloop
except ImportError as error:
    import os
    os.write(1, f"{error}\\\\n".encode())
'''

def use():
    loop = new_event_loop()
    handle = loop.call_soon(bool)
    assert isinstance(handle, asyncio.Handle)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

if first:
    use()
for _ in range(2):
    identity = make()
    interpreters.run_string(identity, code)
    interpreters.destroy(identity)
use()
"""


@pytest.mark.zloop_only("asyncio is Python code, which every interpreter has for itself")
@pytest.mark.parametrize("order", ["first", "last"])
def test_a_subinterpreter_is_refused(loop_factory, order):
    source = "import asyncio\ndef new_event_loop():\n    import zloop\n    return "
    code = f"{source}zloop.new_event_loop(backend={loop_factory.backend!r})\n{SUBINTERPRETER}"
    command = [sys.executable, "-c", code, order]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["zloop does not support subinterpreters"] * 2
