"""Owns the README's command reference: `python -m tests.support.readme` writes it from the commands' own --help."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys

from tests.support.paths import ROOT

README = ROOT / "README.md"
BEGIN, END = "<!-- help: begin -->", "<!-- help: end -->"
REFRESH = "python -m tests.support.readme"
COLUMNS = 100


def reference() -> str:
    """What stands between the markers."""
    blocks = [f"### {title}\n\n```text\n{_tidy(text)}\n```" for title, text in _pages().items()]
    return "\n\n".join([BEGIN, f"<!-- Written by `{REFRESH}` with {formatter()} -->", *blocks, END])


def formatter() -> str:
    """What lays the help out: another version of it may break lines elsewhere."""
    return "typer " + ".".join(importlib.metadata.version("typer").split(".")[:2])


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


PAGES = """
import contextlib, io, json
from fvlaunch.cli import app

pages = {}
for words in [[], *([command.name or command.callback.__name__] for command in app.app.registered_commands)]:
    with contextlib.redirect_stdout(io.StringIO()) as page:
        app.run([*words, "--help"])
    pages[" ".join(["fvlaunch", *words])] = page.getvalue()
print(json.dumps(pages))
"""


def _pages() -> dict[str, str]:
    """Every command's --help, from a fresh Python with our packages at a fixed width."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "COLUMNS": str(COLUMNS), "TERMINAL_WIDTH": str(COLUMNS)}
    done = subprocess.run([sys.executable, "-c", PAGES], env=env, capture_output=True, text=True, timeout=60, check=True)
    return dict(json.loads(done.stdout))


def current(text: str) -> str | None:
    """The part of a README between the markers, with them; None where there is none."""
    _, begin, rest = text.partition(BEGIN)
    inside, end, _ = rest.partition(END)
    return begin + inside + end if begin and end else None


def refreshed(text: str) -> str:
    """The README with an up-to-date reference: in its place, else in a section of its own at the end."""
    old = current(text)
    if old is not None:
        return text.replace(old, reference())
    return "\n\n".join(part for part in (text.rstrip("\n"), "## Command reference", reference()) if part) + "\n"


if __name__ == "__main__":
    README.write_text(refreshed(README.read_text() if README.exists() else ""))
