"""No mistake of a person and no missing permission ends in a traceback or in exit code 2, whatever the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import hostile


def test_sixty_hostile_command_lines_are_each_answered_in_words(tmp_path: Path) -> None:
    assert hostile.in_a_process(60, 1, tmp_path) == ""


@pytest.mark.long
def test_a_thousand_hostile_command_lines_are_each_answered_in_words(tmp_path: Path) -> None:
    assert hostile.in_a_process(1000, 2, tmp_path, programs=True, timeout_s=3000) == ""
