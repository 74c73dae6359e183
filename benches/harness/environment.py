"""What is compared, and on what: installs the peers, builds zloop, describes the machine.

Everything is kept in benches/.peers, which git ignores.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

BENCHES = Path(__file__).resolve().parent.parent
REPOSITORY = BENCHES.parent
SCRIPTS = BENCHES / "python"
RESULTS = BENCHES / "results"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
PEERS = BENCHES / ".peers" / f"python-{VERSION}"
VENV = PEERS / "venv"

# Distributions installed for comparison, and what to know when there is no wheel.
DISTRIBUTIONS = {
    "uvloop": "",
    "zuvloop": "its wheels need CPython 3.14 or newer",
    "rloop": "",
    "rsloop": "its wheels for Linux need glibc 2.39 or newer",
    "aiofastnet": "",
}
# This one shares zloop's name, so it lives in a folder of its own.
ZIG = "zloop-zig"
ZIG_REQUIREMENT = "zloop==0.0.1"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
# The groups of workloads, in the order in which they run.
GROUPS = [
    "echo",
    "unix",
    "rate",
    "udp",
    "sock",
    "connections",
    "http",
    "https",
    "sendfile",
    "tls",
    "aiohttp",
    "client",
    "websockets",
    "uvloop-bench",
    "ops",
    "parallel",
    "idle",
    "tls-idle",
    "import",
]
PEER_NAMES = ["asyncio", *DISTRIBUTIONS, ZIG]


class HarnessError(Exception):
    """Something that stops the benchmarks, in words for their user."""


@dataclass
class Environment:
    """Where everything is, and what is missing."""

    load: Path
    echo: Path
    # Import path of each build of zloop, by the name it has here: "zloop", and "base" if given.
    builds: dict[str, Path]
    missing: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def import_path(self, loop: str) -> Path | None:
        """Return what PYTHONPATH must be for `loop`."""
        name = loop.partition(":")[0]
        return PEERS / ZIG if name == ZIG else self.builds.get(name)


def enter_venv(requirements: Path, refresh: bool) -> None:
    """Make sure that this process runs in the harness' own virtual environment.

    Makes it first if it is missing, outdated or `refresh` is set, and then starts this program
    again inside. This part uses the standard library only.
    """
    wanted = hashlib.sha256(requirements.read_bytes() + repr(DISTRIBUTIONS).encode()).hexdigest()
    stamp = VENV / "stamp"
    inside = Path(sys.prefix).resolve() == VENV.resolve()
    if inside or (not refresh and stamp.exists() and stamp.read_text() == wanted):
        if not inside:
            restart()
        return
    print(f"Setting up {VENV.relative_to(REPOSITORY)} ...", flush=True)
    shutil.rmtree(PEERS, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    pip("install", "--requirement", str(requirements))
    missing: dict[str, str] = {}
    for name, note in DISTRIBUTIONS.items():
        missing |= install(name, note, name)
    missing |= install(
        ZIG, "", ZIG_REQUIREMENT, "--no-deps", "--target", str(PEERS / ZIG), build=FREE_THREADED
    )
    (PEERS / "missing.json").write_text(json.dumps(missing))
    stamp.write_text(wanted)
    restart()


def restart() -> None:
    """Start this program again, inside the virtual environment."""
    python = str(VENV / "bin" / "python")
    os.execv(python, [python, *sys.argv])


def pip(*arguments: str) -> None:
    """Run pip in the virtual environment, quietly; raise HarnessError with its last error."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip failed"]
        errors = [line for line in lines if line.lower().startswith("error")]
        raise HarnessError((errors or lines)[-1])


def install(name: str, note: str, *arguments: str, build: bool = False) -> dict[str, str]:
    """Install a wheel, or with `build` whatever there is; return why that failed, by name."""
    wheels = [] if build else ["--only-binary", ":all:"]
    try:
        pip("install", *wheels, *arguments)
    except HarnessError as error:
        libc = " ".join(platform.libc_ver()).strip()
        reason = f"{error}" + (f" ({note}; here: {libc}, CPython {VERSION})" if note else "")
        print(f"{name} is left out: {reason}", flush=True)
        return {name: reason}
    return {}


def prepare(
    zloop: str | None, base: str | None, pgo: bool, peers: Iterable[str], progress: bool = True
) -> Environment:
    """Build what has to be built. `zloop` and `base` are folders with a built zloop in them; without
    the former, zloop is built from this checkout, optimised by a profile if `pgo` is set. `peers` are
    worth building from source where they have no wheel."""
    load, echo = build_native(progress)
    missing = build_peers(peers, json.loads((PEERS / "missing.json").read_text()))
    builds: dict[str, Path] = {}
    try:
        builds["zloop"] = Path(zloop).resolve() if zloop else build_zloop(pgo, progress)
    except HarnessError as error:
        missing["zloop"] = str(error)
    if base:
        builds["base"] = Path(base).resolve()
    environment = Environment(load, echo, builds, missing)
    environment.versions = versions(environment)
    return environment


def build_peers(wanted: Iterable[str], missing: dict[str, str]) -> dict[str, str]:
    """Try, once, to build those of `wanted` that are `missing`; return what still is, and why."""
    for name in missing.keys() & DISTRIBUTIONS.keys() & set(wanted):
        tried = PEERS / f"tried-{name}"
        if not tried.exists():
            print(f"Building {name} from source, which takes minutes ...", flush=True)
            missing = {other: missing[other] for other in missing if other != name}
            missing |= install(name, f"no wheel: {DISTRIBUTIONS[name]}", name, build=True)
            tried.touch()
    (PEERS / "missing.json").write_text(json.dumps(missing))
    return missing


def build_native(progress: bool) -> tuple[Path, Path]:
    """Build the load generator and the echo server without Python."""
    if progress:
        print("Building the load generator ...", flush=True)
    command = ["cargo", "build", "--release", "--package", "zloop-bench", "--message-format=json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HarnessError(f"cargo could not build zloop-bench:\n{done.stderr[-2000:]}")
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    programs = {
        message["target"]["name"]: Path(message["executable"])
        for message in messages
        if message["reason"] == "compiler-artifact" and message["executable"]
    }
    return programs["load"], programs["echo"]


def build_zloop(pgo: bool, progress: bool) -> Path:
    """Build a wheel from this checkout, optimised by a profile if `pgo` is set, and unpack it."""
    if progress:
        print(f"Building zloop{' twice, with a profile' if pgo else ''} ...", flush=True)
    wheels, target = PEERS / "wheels", PEERS / "zloop"
    shutil.rmtree(wheels, ignore_errors=True)
    command = [str(VENV / "bin" / "maturin"), "build", "--release"]
    command += ["--interpreter", sys.executable, "--out", str(wheels), *["--pgo"] * pgo]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HarnessError(f"maturin could not build zloop: {done.stderr.strip()[-500:]}")
    shutil.rmtree(target, ignore_errors=True)
    pip("install", "--no-deps", "--target", str(target), *map(str, wheels.glob("*.whl")))
    return target


def python_environment(environment: Environment, loop: str) -> dict[str, str]:
    """Return the variables for a Python process that runs `loop`."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("ZLOOP_")}
    path = environment.import_path(loop)
    variables.pop("PYTHONPATH", None)
    # Compiling modules again for each process is not what users wait for when they import.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    if path:
        variables["PYTHONPATH"] = str(path)
    return variables | {"PYTHONHASHSEED": "0"}


def probe(environment: Environment, loop: str, code: str) -> str:
    """Return what `code` prints in a fresh process in which `loop` can be imported."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=python_environment(environment, loop),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise HarnessError((done.stderr.strip().splitlines() or ["failed"])[-1])
    return done.stdout.strip()


def versions(environment: Environment) -> dict[str, str]:
    """Return the versions of everything compared; note what cannot be imported as missing."""
    found = {"CPython": platform.python_version()}
    for name in [
        "uvloop",
        "zuvloop",
        "rloop",
        "rsloop",
        "aiofastnet",
        ZIG,
        *environment.builds,
        "uvicorn",
        "httptools",
        "aiohttp",
        "websockets",
    ]:
        if name in environment.missing:
            continue
        module = "zloop" if name in (ZIG, "base") else name
        code = f"import {module}, importlib.metadata as m; print(m.version({module!r}))"
        try:
            found[name] = probe(environment, name, code)
        except HarnessError as error:
            # A build in a source folder has no metadata, which is fine if it can be imported.
            try:
                found[name] = probe(
                    environment, name, f"import {module} as m; print(m.__version__)"
                )
            except HarnessError:
                environment.missing[name] = str(error)
    return found


def available_loops(environment: Environment) -> list[str]:
    """Return all loops that can run here: the peers, then zloop on each of its backends."""
    peers = [name for name in PEER_NAMES if name not in environment.missing]
    if FREE_THREADED and ZIG in peers:
        # It was made for several loops; with one it is slower than its epoll.
        peers.append(f"{ZIG}:io_uring")
    ours = []
    for name in environment.builds:
        if name in environment.missing:
            continue
        backends = probe(
            environment, name, "import zloop; print(*zloop.available_backends())"
        ).split()
        ours += [f"{name}:{backend}" for backend in backends if not backend.startswith("sim")]
    return peers + ours


def describe(environment: Environment) -> dict[str, object]:
    """Return facts about this machine and run, for the results."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": kernel(),
        "python": platform.python_version(),
        "free_threaded": FREE_THREADED,
        "versions": environment.versions,
        "missing": environment.missing,
    }


def kernel() -> str:
    """Return the kernel and its version, without what names a build of it."""
    version = re.match(r"\d+(\.\d+){0,2}", platform.release())
    return f"{platform.system()} {version[0] if version else platform.release()}"


def cpu_model() -> str:
    """Return what the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
