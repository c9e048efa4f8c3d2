"""The table of the world tests: every test of this folder says which input it stands for, and a failing one is shown as failing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FOLDER = ROOT / "tests/world"
MADE = """
import pytest
from tests.support.rows import row

@row("2", "what holds")
def test_first():
    pass

@row("1", "what fails once")
@pytest.mark.parametrize("bad", [False, True])
def test_second(bad):
    assert not bad
"""
SCRIPT = """
import pathlib
import sys
from tests.world import __main__ as world

world.FOLDER = pathlib.Path({folder!r})
sys.exit(world.main({arguments!r}))
"""


def test_every_test_of_the_world_names_its_row() -> None:
    nameless = [
        f"{path.name}:{node.lineno}: {node.name}"
        for path in sorted(FOLDER.glob("test_*.py"))
        if path != Path(__file__)
        for node in ast.walk(ast.parse(path.read_text(), str(path)))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if not any(ast.unparse(decorator).startswith("row(") for decorator in node.decorator_list)
    ]
    assert nameless == [], "mark it with row() of tests/support/rows.py"


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_a_row_with_one_failing_test_fails(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "test_made.py").write_text(MADE)
    script = SCRIPT.format(folder=str(tmp_path), arguments=arguments)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows[1:] == ["| 1 | what fails once | **FAILS** (2 tests) |", "| 2 | what holds | holds |"]
