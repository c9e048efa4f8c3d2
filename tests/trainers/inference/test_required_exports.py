"""Weights of another run that a job needs before it starts: made once by rank 0, awaited by the others, and a stop is heard meanwhile."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from trainers.__main__ import read_config, read_inputs
from trainers.control import Control
from trainers.errors import UserError
from trainers.inference.export.required_exports import Input, ensure


def wanted(tmp_path: Path) -> Input:
    (tmp_path / "run").mkdir()
    return Input(run=tmp_path / "run", to=tmp_path / "run/export-live")


def test_what_is_there_is_never_made_again(tmp_path: Path) -> None:
    one = wanted(tmp_path)
    one.to.mkdir()
    assert ensure([one], Control({"RANK": "0"})) and ensure([one], Control({"RANK": "1"}))
    assert list(one.to.iterdir()) == []


def test_a_run_without_weights_is_told_and_what_a_killed_rank_left_is_removed(tmp_path: Path) -> None:
    one = wanted(tmp_path)
    (one.run / ".export-live.0a0a/part").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot be exported: .*is not the directory of a run that has started"):
        ensure([one], Control({"RANK": "0"}))
    assert list(one.run.iterdir()) == []


def test_the_other_ranks_wait_and_hear_a_stop(tmp_path: Path) -> None:
    one, control = wanted(tmp_path), Control({"RANK": "1"})
    appears = threading.Timer(0.2, one.to.mkdir)
    appears.start()
    assert ensure([one], control)
    appears.join()
    one.to.rmdir()
    control.stop_requested = True
    assert not ensure([one], control)


def test_a_stop_ends_the_export_at_once(tmp_path: Path) -> None:
    control = Control({"RANK": "0"})
    control.stop_requested = True
    assert not ensure([wanted(tmp_path)], control)  # before it can say that there is nothing to export: that takes seconds of imports


def test_inputs_stand_beside_the_program_in_a_ranks_configuration(tmp_path: Path) -> None:
    file, entry = tmp_path / "config.json", {"run": "a", "to": "b", "role": "teacher"}
    file.write_text(json.dumps({"download": {"models": [{"id": "a/b"}]}, "inputs": [entry]}))
    assert read_config(file)[0] == "download" and read_inputs(file) == [Input(run=Path("a"), to=Path("b"), role="teacher")]
    file.write_text(json.dumps({"download": {"models": [{"id": "a/b"}]}, "inputs": [{**entry, "weights": "best"}]}))
    with pytest.raises(UserError, match=r"inputs\.0\.weights"):
        read_inputs(file)
