"""The table of faults: every row has a test, every test names a row, and figures of a row's tests are put together."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import results
from tests.faults.__main__ import arguments_of
from tests.faults.scenarios import SCENARIOS
from tests.support import row_table
from tests.support.paths import ROOT
from tests.support.row_table import Line

MADE = """
import pytest
from tests.support.rows import fault

@fault("1", "kills")
@pytest.mark.parametrize("lost", [3, 7])
def test_kills(figure, lost):
    figure.count("bitwise", 5, 5)
    figure.most("steps lost", lost, 10)

@fault("2", "a flipped bit")
def test_that_fails(figure):
    figure.most("seconds", 45.2, 45, "s")

@fault("13", "in the long form")
@pytest.mark.long
def test_long():
    pass

@fault("14", "nothing to do it with")
def test_skipped():
    pytest.skip("NO CLOCK HERE")
"""


def marks() -> list[str]:
    """The number of each mark that a test has, wherever it lies."""
    return [
        decorator.args[0].value
        for path in map(Path, row_table.files("fault"))
        if path != Path(__file__)
        for node in ast.walk(ast.parse(path.read_text(), str(path)))
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "fault" and isinstance(decorator.args[0], ast.Constant)
    ]


def test_every_row_has_a_test_and_every_test_names_a_row() -> None:
    named = marks()
    assert set(named) - set(SCENARIOS) == set(), "these are not in tests/faults/scenarios.py"
    assert set(SCENARIOS) - set(named) == set(), "mark a test with fault() of tests/support/rows.py"


def test_the_table_shows_each_row_with_its_figures_and_the_worst_verdict(tmp_path: Path) -> None:
    (tmp_path / "test_made.py").write_text(MADE)
    script = f"""
from tests.faults import results
from tests.support import row_table
code, lines = row_table.run("faults", [{str(tmp_path)!r}, "--rows", "1,2,3,13,14", "-n", "2"])
print(results.text(lines, ["1", "2", "3", "13", "14"]))
raise SystemExit(code)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("| ") and "**:" not in line]
    assert told[1:] == [
        "| 1 | kills | 10 | bitwise 10 of 10; steps lost 7, limit 10 | holds |",
        "| 2 | a flipped bit | 1 | seconds 45.2 s, limit 45; 1 of 1 tests failed | **FAILS** |",
        "| 13 | in the long form |  |  | only in the long form |",
        "| 14 | nothing to do it with |  |  | not tried here: NO CLOCK HERE |",
    ]
    assert [line for line in done.stdout.splitlines() if line.endswith("**NO TEST** |")] == [
        f"| **3** | **{SCENARIOS['3'][0]}**: {SCENARIOS['3'][1]} | | | **NO TEST** |"
    ]


def test_what_is_kept_of_other_rows_stays_and_the_same_rows_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "RESULTS.md"
    page.write_text("# Faults\n\nwords\n\n| row |\n")
    monkeypatch.setattr(results, "PAGE", page)
    monkeypatch.setattr(results, "machine", lambda: "a machine")
    for number, given in (("1", "kills"), ("H3", "nonsense"), ("1", "more kills")):
        results.keep([Line(number, given, ["passed"])], [number])
    told = page.read_text()
    assert told.startswith("# Faults\n\nwords\n\n| row | injected |") and told.count("a machine |") == 2
    assert "| 1 | kills |" not in told and "| 1 | more kills | 1 | 1 of 1 tests | holds | 20" in told and "| H3 | nonsense |" in told
    assert told.count(results.NOT_RUN) == len(SCENARIOS) - 2


def test_rows_are_chosen_by_number_and_the_rest_is_for_pytest() -> None:
    given, own = arguments_of(["--long", "-n", "2", "1", "H3", "--", "-x", "-k", "kills"])
    assert (given.rows, given.long, given.keep, given.n, own) == (["1", "H3"], True, False, "2", ["-x", "-k", "kills"])
    with pytest.raises(SystemExit):
        arguments_of(["99"])
