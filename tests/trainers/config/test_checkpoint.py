"""When checkpoints are due: numbers of minutes, and the word auto, which is for whoever starts the ranks to make a number of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.paths import ROOT
from trainers.__main__ import read_config
from trainers.config.checkpoint import CheckpointConfig
from trainers.control import EXIT_NO_RESTART
from trainers.errors import UserError


def _file(folder: Path, every_minutes: Any) -> Path:
    train = {
        "max_steps": 1,
        "method": {"kind": "finetune"},
        "models": {"student": {"family": "wan", "init_from": "tiny-wan"}},
        "data": {"path": "data", "global_batch_size": 1, "num_frames": 5, "height": 32, "width": 32},
        "optimizers": {"student": {"kind": "adamw", "lr": 1e-3}},
        "checkpoint": {"every_minutes": every_minutes},
    }
    path = folder / "config.json"
    path.write_text(json.dumps({"train": train}))
    return path


def test_minutes_become_seconds_and_null_stays_none() -> None:
    due = [CheckpointConfig(every_minutes=minutes).every_s for minutes in (15.0, 0.5, None)]
    assert due == [900, 30, None]


@pytest.mark.parametrize("wrong", [0, -1, "x", "15", True, [1], float("nan"), float("inf")])
def test_anything_else_is_one_sentence(wrong: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        CheckpointConfig(every_minutes=wrong)
    assert [error["msg"] for error in caught.value.errors()] == ["Input should be a number of minutes greater than 0, or auto"]


def test_a_configuration_with_a_number_is_read(tmp_path: Path) -> None:
    assert read_config(_file(tmp_path, 3))[1].checkpoint.every_s == 180


def test_ranks_that_are_started_by_hand_refuse_auto(tmp_path: Path) -> None:
    path = _file(tmp_path, "auto")
    with pytest.raises(UserError, match=r"checkpoint\.every_minutes: auto depends on how often the machines fail"):
        read_config(path)
    words = [sys.executable, "-m", "trainers", str(path), "--run-dir", str(tmp_path / "run")]
    ended = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == EXIT_NO_RESTART and "a number of minutes" in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()
