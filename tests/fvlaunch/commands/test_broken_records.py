"""One run or pipeline whose record is broken is told as broken, with what helps, and hides no other."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.cli import app
from fvlaunch.runs.directory import Run, create
from fvlaunch.runs.pipeline_directory import Pipeline, PipelineRecord, StageRecord
from tests.support.records import finished_record
from tests.support.rows import fault

RECORD = finished_record("good", ranks=8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("FVLAUNCH_RUNS", raising=False)
    create(tmp_path / "runs" / "good", RECORD)
    return tmp_path


def called(*arguments: str) -> tuple[int, str, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = app.run(list(arguments))
    return code, out.getvalue(), err.getvalue()


def write(file: Path, **changes: Any) -> None:
    """Write a record with these fields changed; None leaves one out."""
    values = {**asdict(RECORD), **changes}
    file.write_text(json.dumps({key: value for key, value in values.items() if key not in changes or value is not None}))


def as_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def unreadable(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)  # a mode of 000 does not keep root from reading


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no-token": (lambda file: write(file, token=None), "lacks token"),
    "empty-object": (lambda file: file.write_text("{}"), "lacks name, recipe"),
    "text-for-time": (lambda file: write(file, submitted_at="x"), "submitted_at is 'x', not a number"),
    "number-for-ids": (lambda file: write(file, job_ids=7), "job_ids is '7', not a list"),
    "text-for-update": (lambda file: write(file, updated_at="now"), "updated_at is 'now', not a number"),
    "cut-off": (lambda file: file.write_text('{"name": "bad", "rec'), "is not JSON"),
    "nothing": (lambda file: file.write_text(""), "is not JSON"),
    "not-utf-8": (lambda file: file.write_bytes(bytes([255, 254, 0])), "is not JSON"),
    "a-list": (lambda file: file.write_text("[1]"), "holds no JSON object"),
    "a-folder": (as_a_folder, "cannot be read: Is a directory"),
    "unreadable": (unreadable, "cannot be read"),
}


@fault("H8", "run.json broken in each way")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", [("status",), ("list", "runs"), ("status", "--all", "--attempts")])
def test_a_broken_run_is_one_line_and_the_others_are_shown(folder: Path, kind: str, command: tuple[str, ...]) -> None:
    bad = create(folder / "runs" / "bad", RECORD)
    bad.config_file.write_text("")
    spoil, what = KINDS[kind]
    spoil(bad.record_file)
    code, out, err = called(*command)
    assert code == 0 and not err, err
    rows = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:] if "  " in line}
    assert rows["good"] == "finished"
    assert rows["bad"] == "broken"
    [reason] = [line for line in out.splitlines() if line.startswith("bad: broken: ")]
    assert what in reason and f"fvlaunch submit {bad.config_file} makes the run anew" in reason and "move the folder away" in reason


def test_commands_about_a_broken_run_say_what_is_wrong_with_it(folder: Path) -> None:
    create(folder / "runs" / "bad", RECORD).record_file.write_text("{")
    for command in (["cancel", "bad"], ["stop", "bad"], ["wait", "bad"]):
        code, _, err = called(*command)
        assert code == 1 and "run.json is not JSON" in err and "hint: put run.json back" in err, (command, err)
        assert "list runs" not in err  # it would say no more


def test_json_lists_a_broken_run_too(folder: Path) -> None:
    create(folder / "runs" / "bad", RECORD).record_file.write_text("{")
    values = {value["run"]: value for value in json.loads(called("status", "--json", "--attempts")[1])}
    assert values["good"]["state"] == "finished"
    assert values["bad"]["state"] == "broken" and "is not JSON" in values["bad"]["reason"] and values["bad"]["attempts_list"] == []


def test_a_run_is_found_by_its_job_id_beside_a_broken_one(folder: Path) -> None:
    create(folder / "runs" / "bad", RECORD).record_file.write_text(json.dumps({**asdict(RECORD), "job_ids": 7}))
    code, out, _ = called("status", "7")
    assert code == 0 and out.splitlines()[1].startswith("good")


def test_watching_ends_although_a_run_is_broken(folder: Path) -> None:
    create(folder / "runs" / "bad", RECORD).record_file.write_text("{")
    code, out, _ = called("status", "--watch")
    assert code == 0 and "bad: broken" in out


def pipeline(folder: Path) -> Pipeline:
    made = Pipeline(folder / "runs" / "chain")
    for name in ("one", "two"):
        create(made.path / name, RECORD)
    made.write(PipelineRecord("chain", "p", "c", "local", (StageRecord("one"), StageRecord("two")), 2.0))
    return made


PIPELINE_KINDS: dict[str, Callable[[Path], object]] = {
    "no-stages": lambda file: file.write_text(json.dumps({"name": "chain", "stages": []})),
    "numbers-for-stages": lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "stages": [1, 2]})),
    "text-for-time": lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "submitted_at": "x"})),
    "cut-off": lambda file: file.write_text("{"),
    "a-folder": as_a_folder,
}


@pytest.mark.parametrize("kind", PIPELINE_KINDS)
def test_a_broken_pipeline_is_one_line_and_the_others_are_shown(folder: Path, kind: str) -> None:
    PIPELINE_KINDS[kind](pipeline(folder).file)
    for command in (("status",), ("list", "runs"), ("status", "--attempts")):
        code, out, err = called(*command)
        assert code == 0 and not err, err
        assert any(line.startswith("good  ") and " finished " in line for line in out.splitlines()), out
        assert [line for line in out.splitlines() if line.startswith("chain: broken: ") and "pipeline.json" in line], out


def test_a_broken_stage_breaks_its_pipeline_alone(folder: Path) -> None:
    (pipeline(folder).path / "two" / "run.json").write_text("{")
    code, out, _ = called("status")
    assert code == 0 and any(line.startswith("good  ") and " finished " in line for line in out.splitlines())
    assert any(line.startswith("chain") and " broken " in line for line in out.splitlines()), out
    code, out, _ = called("status", "chain")
    assert (
        code == 0
        and "chain/two: broken: " in out
        and any(line.startswith("chain/one") and " finished " in line for line in out.splitlines())
    )


def test_a_whole_stage_of_a_broken_pipeline_is_shown_by_its_path(folder: Path) -> None:
    made = pipeline(folder)
    made.file.write_text("{")
    code, out, _ = called("status", str(made.path / "one"))
    assert code == 0 and " finished " in out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_colleagues_runs_are_left_out_as_before(folder: Path) -> None:
    theirs = create(folder / "runs" / "theirs", RECORD)
    theirs.path.chmod(0)
    try:
        assert "theirs" not in called("status")[1]
    finally:
        theirs.path.chmod(0o700)


def test_a_folder_that_is_no_run_is_left_out_as_before(folder: Path) -> None:
    (folder / "runs" / "notes").mkdir()
    assert "notes" not in called("status")[1] and not Run(folder / "runs" / "notes").record_file.exists()
