"""Owns looking, before a job is submitted, whether notify's command can be started at all. Must not start it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..config.compose import Composed
from ..errors import Problem
from .plan import Plan

_PATH = ("cluster", "notify", "command")
_NONE = "--set cluster.notify=null submits without it"


def problems_of(composed: Composed) -> Iterator[Problem]:
    """Yield why the program that a profile names as a file cannot be started."""
    notify = composed.cluster.notify
    if notify is None or "/" not in notify.command[0]:
        return
    why, hint = _wrong(Path(notify.command[0]))
    if why:
        yield Problem(f"notify cannot run {notify.command[0]}: {why}", composed.place(_PATH), ".".join(_PATH), f"{hint}, or {_NONE}")


def warnings_of(plan: Plan) -> list[str]:
    """Return what is told of a program that is a name alone and not on this machine's PATH: the nodes may have it."""
    name = (plan.cluster.get("notify") or {}).get("command", [""])[0]
    if not name or "/" in name or shutil.which(name):
        return []
    return [f"warning: notify's command {name!r} is not on PATH here\nhint: the nodes need it; a file beside the profile is ./{name}"]


def _wrong(program: Path) -> tuple[str, str]:
    """Return why a file is no program, and what helps; empty where it is one."""
    if program.is_dir():
        return "it is a folder", "name the program in it"
    if not program.is_file():
        return "it does not exist (a relative path begins at the profile)", "mend the path"
    if not os.access(program, os.X_OK):
        return "it is not executable", f"chmod +x {program}"
    try:
        with program.open("rb") as file:
            first = file.readline(256)
    except OSError:
        return "", ""  # a program may be executable and not readable
    if first.startswith(b"#!") and first.rstrip(b"\n").endswith(b"\r"):
        return "its first line ends as Windows ends lines", "save it with \\n line ends"
    if first.startswith((b"#!", b"\x7fELF")):
        return "", ""
    return "it is no program, and names no interpreter in its first line", "begin it with #!/bin/sh"
