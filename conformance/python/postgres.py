"""A PostgreSQL server for tests: started where one is installed, gone at the end."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HOST, USER, DATABASE = "127.0.0.1", "zloop", "postgres"
PROGRAMS = ("initdb", "postgres")
# Durability is nothing to a test.
SETTINGS = {
    "listen_addresses": HOST,
    "max_connections": "60",
    "fsync": "off",
    "ssl": "on",
    "ssl_cert_file": "server.crt",
    "ssl_key_file": "server.key",
}
LIMIT = 15.0  # seconds until it answers


class Missing(Exception):
    """There is no PostgreSQL here, or it cannot be started."""


class Postgres:
    """Where the server is: `options` are keyword arguments that both clients take for TCP without TLS."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port

    @property
    def options(self) -> dict[str, object]:
        return {"host": HOST, "port": self.port, "user": USER}


@contextlib.contextmanager
def server(leaf) -> Iterator[Postgres]:
    """A fresh server that shows this certificate to who asks for TLS.

    Raises:
        Missing: with the reason.
    """
    programs = find_programs()
    user = whom_to_be()
    # Not in pytest's folder, which other users may not enter.
    with tempfile.TemporaryDirectory(prefix="zloop-postgres-") as name:
        folder = Path(name)
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        as_whom = (
            {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        )
        prepare(programs["initdb"], folder, leaf, user, as_whom)
        port = free_port()
        command = [programs["postgres"], "-D", str(folder / "data"), "-k", name, "-p", str(port)]
        command += [f"--{setting}={value}" for setting, value in SETTINGS.items()]
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=name, **as_whom
            )
        try:
            wait_for(process, folder / "log")
            yield Postgres(folder, port)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def find_programs() -> dict[str, str]:
    """Debian keeps them apart from other programs, a folder for each version."""
    places = [os.environ.get("PATH", os.defpath)]
    places += [
        str(place) for place in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    ]
    found = {program: shutil.which(program, path=os.pathsep.join(places)) for program in PROGRAMS}
    if missing := [program for program, path in found.items() if path is None]:
        raise Missing(f"no PostgreSQL is installed here: {' and '.join(missing)} not found")
    return {program: path for program, path in found.items() if path is not None}


def whom_to_be() -> pwd.struct_passwd | None:
    """Root may not run the server: somebody else then, None for who we are."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Missing("PostgreSQL does not run as root, and there is no user to run it as")


def prepare(
    initdb: str, folder: Path, leaf, user: pwd.struct_passwd | None, as_whom: dict[str, object]
) -> None:
    data = folder / "data"
    command = [
        initdb,
        "-D",
        str(data),
        "-U",
        USER,
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-locale",
        "--no-sync",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, check=False, **as_whom
    )
    if done.returncode != 0:
        raise Missing(f"initdb failed: {done.stderr.strip()[-500:]}")
    (data / "server.crt").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    (data / "server.key").write_bytes(leaf.private_key_pem.bytes())
    (data / "server.key").chmod(0o600)
    if user is not None:
        os.chown(data / "server.key", user.pw_uid, user.pw_gid)


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


def wait_for(process: subprocess.Popen, log: Path) -> None:
    """Until its log says that it accepts; who connects earlier may be sent away."""
    deadline = time.monotonic() + LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        if "ready to accept connections" in log.read_text(errors="replace"):
            return
        time.sleep(0.02)
    words = log.read_text(errors="replace").strip()
    raise Missing(f"PostgreSQL did not start: {words[-500:]}")
