"""Owns the fenced code blocks of a page: finding them, putting named files in place, and running shell blocks.

A comment above a block says what a test lacks for it: `<!-- needs: slurm -->`, `<!-- needs: a GPU, a download -->`. A block whose first
line is a comment with a path, `# clusters/mine.yaml`, is that file's text.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[A-Za-z0-9_+-]*)[^`]*$")
_NEEDS = re.compile(r"^ *<!-- needs: (.+?) -->\s*$")
_FILE = re.compile(r"# ([A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*\.(?:ya?ml|py|txt|sh))\b")

EXAMPLES = [ROOT / "templates/README.md", ROOT / "clusters/README.md"]
"""Pages whose YAML blocks are files that the launcher takes, and whose shell blocks run one after another in a folder with these."""


class Block(NamedTuple):
    """One fenced code block."""

    language: str
    needs: str
    """What a test lacks for it; empty where nothing."""
    text: str
    line: int
    """Of its first line in the page, counted from 1."""

    @property
    def file(self) -> str | None:
        """The path that its first line names; None where it names none."""
        found = _FILE.match(self.text)
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    """Return a page's code blocks in order; ValueError for one that is not closed."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    number, needs = 0, ""
    while number < len(lines):
        fence, said = _FENCE.match(lines[number]), _NEEDS.match(lines[number])
        number += 1
        if fence is None:
            needs = said[1] if said else needs if not lines[number - 1].strip() else ""
            continue
        start = number
        while number < len(lines) and lines[number].strip() != "```":
            number += 1
        if number == len(lines):
            raise ValueError(f"{page}:{start}: this code block is not closed")
        body = [line.removeprefix(fence["indent"]) for line in lines[start:number]]
        found.append(Block(fence["language"], needs, "\n".join(body) + "\n", start + 1))
        number, needs = number + 1, ""
    return found


def write_files(found: Iterable[Block], folder: Path) -> list[Path]:
    """Write the blocks that name a file into a folder, and return the files."""
    written = []
    for block in found:
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
            written.append(path)
    return written


def run_shell(block: Block, folder: Path, more: Mapping[str, str] | None = None, timeout_s: float = 550) -> str:
    """Run a shell block in a folder as a person would, with this checkout's `fvlaunch`, and return what it printed.

    AssertionError tells the command's output where it fails. Home, state and settings are below the folder: nothing of the person who
    runs the tests is read or written.
    """
    programs = folder / ".programs"
    programs.mkdir(exist_ok=True)
    (programs / "fvlaunch").write_text(f'#!/bin/sh\nexec {sys.executable} -m fvlaunch "$@"\n')
    (programs / "fvlaunch").chmod(0o755)
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / ".config"), "XDG_STATE_HOME": str(folder / ".state")}
    env = {**os.environ, **own, "HF_HUB_OFFLINE": "1", "PATH": path, "PYTHONPATH": python_path, **(more or {})}
    for name in ("FVLAUNCH_CLUSTER", "FVLAUNCH_RUNS"):
        env.pop(name, None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text], cwd=folder, env=env, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"line {block.line}: exit code {done.returncode} of\n{block.text}\n{done.stdout}"
    return done.stdout
