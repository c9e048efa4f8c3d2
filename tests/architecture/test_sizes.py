"""Files stay as small as one can read: no module over 400 lines, the median one at most 120, the median function under 10."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from tests.support.paths import ROOT

PACKAGES = ("fvlaunch", "trainers")
FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in PACKAGES}


def num_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def function_lengths(path: Path) -> Iterator[int]:
    """The lines of each function in a file, nested ones and methods too, from `def` to the last line of its body."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_longer_than_one_can_read(package: str) -> None:
    assert [f"{path.relative_to(ROOT)}: {num_lines(path)}" for path in FILES[package] if num_lines(path) > 400] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_median_module_is_short(package: str) -> None:
    assert median(num_lines(path) for path in FILES[package]) <= 120


@pytest.mark.parametrize("package", PACKAGES)
def test_the_median_function_is_short(package: str) -> None:
    assert median(length for path in FILES[package] for length in function_lengths(path)) < 10


def test_a_function_is_counted_from_its_def_to_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("@cache\ndef one(\n    a,\n):\n    def two(): return 1\n    return two\n")
    assert sorted(function_lengths(tmp_path / "a.py")) == [1, 5]
