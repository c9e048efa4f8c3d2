"""Owns the mark of a world test: which of the reported inputs it stands for. Must not know how its verdict is printed."""

from __future__ import annotations

import pytest


def row(number: str, given: str) -> pytest.MarkDecorator:
    """Return the mark of a test of tests/world: the number of its report (`-` for one without), and in a few words what is given."""
    return pytest.mark.world(number=number, given=given)
