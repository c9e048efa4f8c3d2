"""What people really have, row by row with its verdict: `python -m tests.world [--long] [anything that pytest takes]`.

Runs the tests of this folder, each of which stands for one reported input or site, and prints a markdown table of them. Ends as pytest
ends: with 1 if a row does not hold. It must not judge anything itself; the tests do.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
_VERDICTS = {"passed": "holds", "failed": "**FAILS**", "skipped": "not tried here"}


class Table:
    """Collects the rows while pytest runs: one for each mark and its inputs, with the worst outcome of its tests."""

    def __init__(self) -> None:
        self._outcomes: dict[tuple[str, str], list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            for number, given in (value for name, value in report.user_properties if name == "world"):
                self._outcomes.setdefault((number, given), []).append(report.outcome)

    def text(self) -> str:
        """Return the table in the order of the rows' numbers; a row of several tests fails with the first that does."""
        lines = ["| row | input | verdict |", "|---|---|---|"]
        for number, given in sorted(self._outcomes, key=_order):
            lines.append(f"| {number} | {given} | {_verdict(self._outcomes[number, given])} |")
        return "\n".join(lines)


def _order(key: tuple[str, str]) -> tuple[int, str, str]:
    digits = "".join(c for c in key[0].split("-")[0].split(",")[0] if c.isdigit())
    return (int(digits) if digits else sys.maxsize, *key)


def _verdict(outcomes: list[str]) -> str:
    worst = next(name for name in ("failed", "passed", "skipped") if name in outcomes)
    return _VERDICTS[worst] + (f" ({len(outcomes)} tests)" if len(outcomes) > 1 else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the folder's tests and print the table. Returns pytest's exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = [] if "--long" in given else ["-m", "not long"]
    table = Table()
    code = pytest.main(
        ["-p", "tests.support.world", str(FOLDER), *chosen, *(argument for argument in given if argument != "--long")], plugins=[table]
    )
    print(f"\n{table.text()}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
