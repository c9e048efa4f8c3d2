"""A number of things is written as people write it: one is not many."""

from __future__ import annotations

from trainers.config.counting import counted


def test_one_is_not_many() -> None:
    assert [counted(n, "sample") for n in (0, 1, 2)] == ["0 samples", "1 sample", "2 samples"]
    assert [counted(n, "entry", "entries") for n in (1, 3)] == ["1 entry", "3 entries"]
