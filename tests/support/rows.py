"""Owns the mark of a test that stands for a row of a printed table, and the figures that the test reports. Must not print a table.

As a plugin of pytest it writes marks and figures into a test's report, which a worker process sends home. With `--table NAME` only the
tests of that table are run, of the rows in `--rows`; those marked `long` are skipped unless `--long-form` is there, so that their rows
are in the table all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

WORLD, FAULTS = "world", "faults"
LONG_ONLY = "only in the long form"


def row(number: str, given: str) -> pytest.MarkDecorator:
    """Return the mark of a test of tests/world: the number of its report (`-` for one without), and in a few words what is given."""
    return pytest.mark.row(table=WORLD, number=number, given=given)


def fault(number: str, injected: str) -> pytest.MarkDecorator:
    """Return the mark of a test of a fault, wherever it lies: its number in tests/faults/scenarios.py, and what is injected."""
    return pytest.mark.row(table=FAULTS, number=number, given=injected)


class Figures:
    """What one test measured, for its line of a table. A figure out of its limit is reported and fails the test."""

    def __init__(self, properties: list[tuple[str, Any]]) -> None:
        self._properties = properties

    def count(self, what: str, right: int, of: int) -> None:
        """Report how many trials came out right: `bitwise 5 of 5`. Tests of one line are added up."""
        self._properties.append(("figure", {"what": what, "right": right, "of": of}))
        assert right == of, f"{what} {right} of {of}"

    def most(self, what: str, value: float, limit: float | None = None, unit: str = "") -> None:
        """Report a measured value: `steps lost 3, limit 10`. Of the tests of one line the greatest is shown."""
        self._properties.append(("figure", {"what": what, "value": value, "limit": limit, "unit": unit}))
        assert limit is None or value <= limit, f"{what} {value:g} {unit}, limit {limit:g}"


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figures:
    """Reports what the test measured, for the table that its mark names."""
    return Figures(request.node.user_properties)


def marked(item: pytest.Item, table: str, numbers: Sequence[str] = ()) -> bool:
    """Return whether a test stands for a row of the table, and for one of these numbers where some are given."""
    marks = [mark.kwargs for mark in item.iter_markers("row")]
    return any(mark["table"] == table and (not numbers or mark["number"] in numbers) for mark in marks)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rows of a printed table")
    group.addoption("--table", help="run only the tests of this table")
    group.addoption("--rows", default="", help="of the table, these numbers only: 1,2")
    group.addoption("--long-form", action="store_true", help="of the table, also the tests marked long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        item.user_properties += [("row", dict(mark.kwargs)) for mark in item.iter_markers("row")]
    if table := config.getoption("--table"):
        numbers = [number for number in config.getoption("--rows").split(",") if number]
        left_out = [item for item in items if not marked(item, table, numbers)]
        items[:] = [item for item in items if marked(item, table, numbers)]
        config.hook.pytest_deselected(items=left_out)
        if not config.getoption("--long-form"):
            for item in items:
                if item.get_closest_marker("long"):
                    item.add_marker(pytest.mark.skip(reason=LONG_ONLY))
