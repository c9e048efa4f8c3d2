"""Owns what the fault tests share: a workspace for local runs, undisturbed runs to compare with, and the table of figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.faults.local import LocalRuns

Figure = Callable[[str, str, int, int], None]
_FIGURES = pytest.StashKey[list[tuple[str, str, int, int]]]()


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalRuns:
    return LocalRuns(tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="session")
def reference(local: LocalRuns) -> Path:
    """An undisturbed run on two ranks."""
    return local.undisturbed("reference")


@pytest.fixture(scope="session")
def figure(pytestconfig: pytest.Config) -> Figure:
    """Adds a line to the table at the end: row of faults, scenario, how many came out right, of how many."""
    figures = pytestconfig.stash.setdefault(_FIGURES, [])

    def add(row: str, scenario: str, right: int, of: int) -> None:
        figures.append((row, scenario, right, of))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(_FIGURES, [])
    if figures:
        terminalreporter.section("faults: right, of all trials")
        for row, scenario, right, of in sorted(figures, key=lambda f: (int(f[0].split("-")[0]), f)):
            terminalreporter.write_line(f"{row:>5}  {right:>3} of {of:<3}  {scenario}")
