"""Weights of another run that a job needs before it starts: made once by rank 0, awaited by the others, and a stop is heard meanwhile."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from trainers.__main__ import read_config, read_inputs
from trainers.config.export_folder import LORA_FILE, TRAINING
from trainers.config.programs.export import Config
from trainers.control import Control
from trainers.errors import UserError
from trainers.inference.export.required_exports import RequiredExport, ensure


def wanted(tmp_path: Path) -> RequiredExport:
    (tmp_path / "run").mkdir()
    return RequiredExport(run=tmp_path / "run", to=tmp_path / "run/export-live")


def exported(to: Path, weights: str = "live", role: str = "student", *, lora: bool = False, adapter: bool = False) -> None:
    """What of an exported folder is looked at."""
    to.mkdir()
    section = {"lora": {"rank": 4}} if lora else {}
    (to / TRAINING).write_text(json.dumps({"weights": weights, "role": role, "train": {"models": {role: section}}}))
    if adapter:
        (to / LORA_FILE).touch()


def test_what_is_there_is_never_made_again(tmp_path: Path) -> None:
    one = wanted(tmp_path)
    exported(one.to)
    assert ensure([one], Control({"RANK": "0"})) and ensure([one], Control({"RANK": "1"}))
    assert [path.name for path in one.to.iterdir()] == [TRAINING]


@pytest.mark.parametrize(
    ("there", "required", "message"),
    [
        ({"weights": "ema"}, {}, "holds the ema weights of 'student', but the live weights of 'student' are required"),
        ({"role": "critic"}, {}, "holds the live weights of 'critic', but"),
        (
            {"lora": True, "adapter": True},
            {"merge": True},
            "but the live weights of 'student' with the adapter merged into them are required",
        ),
        ({"lora": True}, {}, "holds the live weights of 'student' with the adapter merged into them, but"),
    ],
)
def test_other_weights_in_the_place_of_the_required_ones_are_refused(
    tmp_path: Path, there: dict[str, Any], required: dict[str, Any], message: str
) -> None:
    one = wanted(tmp_path).model_copy(update=required)
    exported(one.to, **there)
    with pytest.raises(UserError, match=re.escape(message)):
        ensure([one], Control({"RANK": "0"}))


@pytest.mark.parametrize("adapter", [True, False])
def test_an_adapter_and_merged_weights_are_taken_where_they_are_required(tmp_path: Path, adapter: bool) -> None:
    one = wanted(tmp_path).model_copy(update={"merge": not adapter})
    exported(one.to, lora=True, adapter=adapter)
    assert ensure([one], Control({"RANK": "0"}))


def test_a_folder_that_no_export_made_is_refused(tmp_path: Path) -> None:
    one = wanted(tmp_path)
    one.to.mkdir()
    with pytest.raises(UserError, match=r"is no exported folder: training\.json"):
        ensure([one], Control({"RANK": "0"}))


def test_different_weights_of_a_run_go_to_different_folders_by_default() -> None:
    asked = [{"weights": w, "role": r, "merge": m} for w in ("live", "ema") for r in ("student", "critic") for m in (False, True)]
    folders = [Config.model_validate({"run": "r", **one}).folder for one in asked]
    assert len(set(folders)) == len(asked) and folders[0] == Path("r/export-live")


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
    assert read_config(file)[0] == "download" and read_inputs(file) == [RequiredExport(run=Path("a"), to=Path("b"), role="teacher")]
    file.write_text(json.dumps({"download": {"models": [{"id": "a/b"}]}, "inputs": [{**entry, "weights": "best"}]}))
    with pytest.raises(UserError, match=r"inputs\.0\.weights"):
        read_inputs(file)
