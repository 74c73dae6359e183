"""Which backend a new loop gets: the argument, else the environment, else what zloop thinks best."""

from __future__ import annotations

import os
from collections.abc import Mapping

_ON = frozenset({"completion", "1", "true", "on", "yes"})
_OFF = frozenset({"", "off", "0", "false", "no"})


def chosen_backend(argument: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The name of the backend that was asked for, or None for an automatic choice.

    `ZLOOP_BACKEND` names one; `ZLOOP_IO_URING` switches io_uring on (`completion`, `1`, `true`, `on`) or leaves the
    choice open (`off`, `0`, `false`). `auto` asks for the automatic choice, whatever the environment says.
    """
    name = argument or environment.get("ZLOOP_BACKEND") or _io_uring(environment)
    return None if name == "auto" else name


def _io_uring(environment: Mapping[str, str]) -> str | None:
    value = environment.get("ZLOOP_IO_URING", "").lower()
    if value in _ON:
        return "io_uring"
    if value in _OFF:
        return None
    raise ValueError(
        f"ZLOOP_IO_URING={value!r} means nothing; use one of {', '.join(sorted(_ON | _OFF - {''}))}"
    )
