"""Which backend a new loop gets: the argument, else the environment, else what zloop thinks best."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

_ON = frozenset({"completion", "1", "true", "on", "yes"})
_OFF = frozenset({"", "off", "0", "false", "no"})


class Choice(NamedTuple):
    """What was asked for, and who asked."""

    name: str | None
    """The name of a backend, or None for an automatic choice."""

    variable: str | None = None
    """The environment variable that decided, if one did."""


def choose(argument: str | None, environment: Mapping[str, str] = os.environ) -> Choice:
    """Weigh the argument against the environment.

    `ZLOOP_BACKEND` names a backend; `ZLOOP_IO_URING` switches io_uring on (`completion`, `1`, `true`, `on`) or leaves
    the choice open (`off`, `0`, `false`). `auto` asks for the automatic choice, whatever has less say.

    Raises ValueError for a value of `ZLOOP_IO_URING` that means nothing, if that variable decides.
    """
    if argument:
        return Choice(_named(argument))
    if name := environment.get("ZLOOP_BACKEND", "").strip():
        return Choice(_named(name), "ZLOOP_BACKEND")
    if _wants_io_uring(environment.get("ZLOOP_IO_URING", "").strip()):
        return Choice("io_uring", "ZLOOP_IO_URING")
    return Choice(None)


def wants_portable_tls(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `ZLOOP_TLS` is `portable`: then TLS calls nothing but Python. `auto` and nothing leave the choice open.

    Raises ValueError for any other value.
    """
    value = environment.get("ZLOOP_TLS", "").strip()
    if value not in ("", "auto", "portable"):
        raise ValueError(f"ZLOOP_TLS={value!r} means nothing; use 'auto' or 'portable'")
    return value == "portable"


def _named(name: str) -> str | None:
    return None if name == "auto" else name


def _wants_io_uring(value: str) -> bool:
    if value.lower() in _ON | _OFF:
        return value.lower() in _ON
    raise ValueError(
        f"ZLOOP_IO_URING={value!r} means nothing; use one of {', '.join(sorted(_ON | _OFF - {''}))}"
    )
