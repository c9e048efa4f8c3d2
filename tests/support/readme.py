"""Owns the README's command reference: `python -m tests.support.readme` writes it from the commands' own --help."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BEGIN, END = "<!-- help: begin -->", "<!-- help: end -->"
REFRESH = "python -m tests.support.readme"
COLUMNS = 100


def reference() -> str:
    """What stands between the markers."""
    commands = _program("import fvlaunch.cli as c; print(*(i.name or i.callback.__name__ for i in c.app.registered_commands))").split()
    pages = [("fvlaunch", []), *((f"fvlaunch {name}", [name]) for name in commands)]
    blocks = [f"### {title}\n\n```text\n{_help(words)}\n```" for title, words in pages]
    return "\n\n".join([BEGIN, f"<!-- Written by `{REFRESH}` with {formatter()} -->", *blocks, END])


def formatter() -> str:
    """What lays the help out: another version of it may break lines elsewhere."""
    return "typer " + ".".join(importlib.metadata.version("typer").split(".")[:2])


def _help(words: list[str]) -> str:
    text = _program("import sys; from fvlaunch.cli import run; run(sys.argv[1:])", *words, "--help")
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _program(program: str, *words: str) -> str:
    """Standard output of a fresh Python with our packages, at a fixed width."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(COLUMNS), "TERMINAL_WIDTH": str(COLUMNS)}
    return subprocess.run([sys.executable, "-c", program, *words], env=env, capture_output=True, text=True, timeout=60, check=True).stdout


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
