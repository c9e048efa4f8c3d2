"""Owns the command reference: every command's own --help, laid out at a fixed width."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys

from tests.support.paths import ROOT

COLUMNS = 100
_PROGRAM = """
import contextlib, io, json
from fvlaunch.cli import app

pages = {}
for words in [[], *([command.name or command.callback.__name__] for command in app.app.registered_commands)]:
    with contextlib.redirect_stdout(io.StringIO()) as page:
        app.run([*words, "--help"])
    pages[" ".join(["fvlaunch", *words])] = page.getvalue()
print(json.dumps(pages))
"""


def rendered(level: int = 3) -> str:
    """Return the help of fvlaunch and of each command, with headings of a level."""
    blocks = [f"{'#' * level} {title}\n\n```text\n{_tidy(text)}\n```" for title, text in _helps().items()]
    return "\n\n".join([f"<!-- laid out by {_formatter()} -->", *blocks])


def _formatter() -> str:
    """What lays the help out: another version of it may break lines elsewhere."""
    return "typer " + ".".join(importlib.metadata.version("typer").split(".")[:2])


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _helps() -> dict[str, str]:
    """Command -> its --help, from a fresh Python with our packages at a fixed width."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "COLUMNS": str(COLUMNS), "TERMINAL_WIDTH": str(COLUMNS)}
    done = subprocess.run([sys.executable, "-c", _PROGRAM], env=env, capture_output=True, text=True, timeout=240, check=True)
    return dict(json.loads(done.stdout))
