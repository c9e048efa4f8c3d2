"""Owns running the tests of one printed table and collecting its lines: one for each row and what is given, with verdict and figures.

Must not judge anything itself: the tests do. How a line looks is for the program of each table.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.rows import LONG_ONLY


@dataclass
class Line:
    """All tests of one row that have the same input."""

    number: str
    given: str
    outcomes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """why tests were skipped"""
    figures: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Return that of the worst test."""
        if "failed" in self.outcomes:
            return "**FAILS**"
        if "passed" in self.outcomes:
            return "holds"
        why = next((reason for reason in self.reasons if reason != LONG_ONLY), "")
        return f"not tried here: {why}" if why else LONG_ONLY

    @property
    def num_tests(self) -> int:
        return len(self.outcomes)

    @property
    def num_run(self) -> int:
        return sum(outcome != "skipped" for outcome in self.outcomes)

    @property
    def num_trials(self) -> int:
        """Return how often the fault was injected: what the tests counted most, else the tests themselves."""
        counted = [sum(one["of"] for one in self.figures if one["what"] == what and "of" in one) for what in self._named("of")]
        return max(counted, default=self.num_run)

    def figure(self) -> str:
        """Return the tests' figures in words; of tests that report none, how many passed."""
        words = [self._count(what) if "of" in first else self._most(what) for what, first in self._named().items()]
        if failed := self.outcomes.count("failed"):
            words.append(f"{failed} of {self.num_run} tests failed")
        elif not words and self.num_run:
            words = [f"{self.outcomes.count('passed')} of {self.num_run} tests"]
        return "; ".join(words)

    def _named(self, key: str = "what") -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        for one in self.figures:
            if key in one:
                found.setdefault(one["what"], one)
        return found

    def _count(self, what: str) -> str:
        counts = [one for one in self.figures if one["what"] == what]
        return f"{what} {sum(one['right'] for one in counts)} of {sum(one['of'] for one in counts)}"

    def _most(self, what: str) -> str:
        worst = max((one for one in self.figures if one["what"] == what), key=lambda one: one["value"])
        unit = f" {worst['unit']}" if worst["unit"] else ""
        limit = "" if worst["limit"] is None else f", limit {_short(worst['limit'])}"
        return f"{what} {_short(worst['value'])}{unit}{limit}"


class Collector:
    """A plugin of pytest that collects the lines of one table while the tests run."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._lines: dict[tuple[str, str], Line] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        for name, mark in report.user_properties:
            if name == "row" and mark["table"] == self._table:
                line = self._lines.setdefault((mark["number"], mark["given"]), Line(mark["number"], mark["given"]))
                line.outcomes.append(report.outcome)
                line.figures += [value for other, value in report.user_properties if other == "figure"]
                line.reasons += [str(report.longrepr[2]).removeprefix("Skipped: ")] if isinstance(report.longrepr, tuple) else []

    def lines(self) -> list[Line]:
        """Return the lines in the order of the rows' numbers."""
        return sorted(self._lines.values(), key=lambda line: order(line.number, line.given))


def order(number: str, given: str = "") -> tuple[bool, int, str, str]:
    """Return the key by which rows are sorted: plain numbers first, then those with a letter before them, at last those without any."""
    digits = "".join(c for c in number.split("-")[0].split(",")[0] if c.isdigit())
    return (bool(digits) and number[0].isalpha(), int(digits) if digits else sys.maxsize, number, given)


def files(mark: str, folder: Path = ROOT / "tests") -> list[str]:
    """Return the test files in which a mark is used, as in `@fault(...)`: the others need not be imported."""
    used = re.compile(rf"^@{mark}\(|\b{mark}\(\"", re.MULTILINE)
    return sorted(str(path) for path in folder.rglob("test_*.py") if used.search(path.read_text()))


def run(table: str, arguments: Sequence[str]) -> tuple[int, list[Line]]:
    """Run pytest with these arguments on the tests of a table. Returns its exit code and the table's lines."""
    collector = Collector(table)
    known = ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning", "-p", "tests.support.rows"]
    code = pytest.main([*known, "--table", table, *arguments], plugins=[collector])
    return int(code), collector.lines()


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
