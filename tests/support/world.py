"""Owns the mark of a world test: which of the reported inputs it stands for. Must not know how its verdict is printed.

As a plugin of pytest (`-p tests.support.world`) it writes the mark into a test's report, which a worker process sends home.
"""

from __future__ import annotations

import pytest


def row(number: str, given: str) -> pytest.MarkDecorator:
    """Return the mark of a test of tests/world: the number of its report (`-` for one without), and in a few words what is given."""
    return pytest.mark.world(number=number, given=given)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.user_properties += [("world", [mark.kwargs["number"], mark.kwargs["given"]]) for mark in item.iter_markers("world")]
