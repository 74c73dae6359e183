"""What a suite is, and how it comes to this machine: its source distribution and its environment."""

import hashlib
import os
import platform
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent.parent
CACHE = HERE / ".cache"
TAG = f"{sys.version_info[0]}.{sys.version_info[1]}{getattr(sys, 'abiflags', '')}"


@dataclass(frozen=True)
class Suite:
    """One entry of suites.toml."""

    name: str
    version: str
    requirements: list[str]
    tests: list[str]
    limit: float
    classes: bool = False
    installed: bool = False
    uvloop: bool = False

    @property
    def label(self) -> str:
        version = platform.python_version() if self.from_stdlib else self.version
        return f"{self.name} {version}"

    @property
    def from_stdlib(self) -> bool:
        return self.version == "stdlib"

    @property
    def fingerprint(self) -> str:
        """Changes whenever a stored result of this suite would no longer be comparable."""
        parts = [repr(self), sys.version, (HERE / "loop_plugin.py").read_text()]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def load() -> dict[str, Suite]:
    """Every suite that suites.toml names, in its order."""
    with open(HERE / "suites.toml", "rb") as file:
        entries = tomllib.load(file)
    suites = {}
    for name, entry in entries.items():
        requirements = [r.format(version=entry["version"]) for r in entry.pop("requirements")]
        suites[name] = Suite(name, requirements=requirements, **entry)
    return suites


def pip(python: Path | str, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


def source(suite: Suite) -> Path:
    """The folder that holds the suite's tests; downloads and unpacks it the first time."""
    folder = CACHE / "source" / f"{suite.name}-{suite.version}"
    if suite.from_stdlib:
        folder = Path(sysconfig.get_path("stdlib"))
    elif not folder.exists():
        print(f"downloading the source distribution of {suite.label}", flush=True)
        downloads = CACHE / "downloads"
        wanted = f"{suite.name}=={suite.version}"
        options = ["--no-deps", "--no-binary", suite.name, "--dest", str(downloads)]
        pip(sys.executable, "download", *options, wanted)
        archive = next(downloads.glob(f"{suite.name}-{suite.version}.tar.gz"))
        with tarfile.open(archive) as contents:
            contents.extractall(folder.parent, filter="data")
    tests = [folder / name for name in suite.tests if not name.startswith("-")]
    if missing := [str(path) for path in tests if not path.exists()]:
        raise FileNotFoundError(f"{suite.label} comes without its tests: {missing}")
    return folder


def interpreter(suite: Suite) -> Path:
    """A Python with the suite's requirements; made anew when they change."""
    folder = CACHE / f"venv-{TAG}-{suite.name}"
    python = folder / "bin" / "python"
    ready = folder / ".requirements"
    wanted = "\n".join(suite.requirements)
    if not ready.exists() or ready.read_text() != wanted:
        print(f"making an environment for {suite.label} on Python {TAG}", flush=True)
        base = getattr(sys, "_base_executable", sys.executable)
        subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
        pip(python, "install", *suite.requirements)
        ready.write_text(wanted)
    return python


def environment(**extra: str) -> dict[str, str]:
    """The suite's process finds the plugin and this checkout's zloop, and no proxies or settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "PYTHON", "ZLOOP", "VIRTUAL_ENV"))
    }
    path = os.pathsep.join([str(HERE), str(REPOSITORY / "python")])
    return {**kept, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1", **extra}
