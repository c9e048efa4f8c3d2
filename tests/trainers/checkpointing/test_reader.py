"""Promises of reading a run from outside: what is no training run is called by what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainers.__main__ import PROGRAMS
from trainers.checkpointing.reader import read_config
from trainers.config.programs import OTHER_PROGRAMS
from trainers.errors import UserError


@pytest.mark.parametrize("program", OTHER_PROGRAMS)
def test_a_run_of_another_program_is_told_to_have_trained_nothing(tmp_path: Path, program: str) -> None:
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts/0001.config.json").write_text(json.dumps({program: {}}))
    with pytest.raises(UserError, match=f"trained nothing: it is a job of `{program}`"):
        read_config(tmp_path)


def test_every_program_is_known_as_one() -> None:
    assert {"train", *OTHER_PROGRAMS} == set(PROGRAMS)
