"""A user's own Python files, named in a recipe: looked at before a job is made, and copied so that a later edit changes nothing."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.config import own_files
from fvlaunch.config.compose import compose
from fvlaunch.errors import ConfigError, Problem
from fvlaunch.lifecycle import submit as submission
from fvlaunch.planning import lockfile
from fvlaunch.planning.plan import make_plan
from fvlaunch.planning.planner import plan_resume
from fvlaunch.planning.preflight import check_inputs
from fvlaunch.planning.warnings import edited_own_files
from fvlaunch.runs import run_config
from fvlaunch.runs.directory import Run
from tests.support.plans import RECIPE

COPIES = ["code/own_code/mine.py:Mine", "code/own_code/mine-2.py:Net", "code/own_code/mine.py:Clips"]
METHOD = "class Mine:\n    pass\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home/state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/config"))
    Path("own.yaml").write_text(RECIPE)
    Path("mine.py").write_text(METHOD)
    Path("other").mkdir()
    Path("other/mine.py").write_text("class Net:\n    pass\n")
    return tmp_path


SETS = (
    "train.method={kind: ./mine.py:Mine, my_knob: 3}",
    "train.models.student={family: ./other/mine.py:Net, width: 8}",
    "train.data.source=mine.py:Clips",
    "train.data.prepare=null",
)


def prepared(folder: Path, *sets: str, take_snapshot: bool = True) -> Run:
    composed = compose("own.yaml", "local", sets=sets)
    plan = make_plan(composed, now=datetime(2026, 1, 2), cwd=Path.cwd(), name="run-1", runs_dir=folder / "runs", shell={})
    return submission.prepare(plan, take_snapshot=take_snapshot, request={})


def named(run: Run) -> list[str]:
    block: dict[str, Any] = run_config.load(run).program["train"]
    return [block["method"]["kind"], block["models"]["student"]["family"], block["data"]["source"]]


def test_the_ranks_of_a_run_read_copies_so_that_an_edit_after_submission_changes_nothing(folder: Path) -> None:
    run = prepared(folder, *SETS)
    Path("mine.py").write_text("raise SystemExit\n")
    Path("other/mine.py").unlink()
    assert named(run) == COPIES
    assert (run.path / "code/own_code/mine.py").read_text() == METHOD
    assert run_config.load(run).program["train"]["method"]["my_knob"] == 3
    moved = run.path.rename(folder / "moved")  # as to another cluster
    assert (
        named(Run(moved))
        == named(Run(moved))
        == ["code/own_code/mine.py:Mine", "code/own_code/mine-2.py:Net", "code/own_code/mine.py:Clips"]
    )


def test_without_a_snapshot_they_read_the_files_themselves(folder: Path) -> None:
    run = prepared(folder, *SETS, take_snapshot=False)
    assert named(run) == [f"{folder}/mine.py:Mine", f"{folder}/other/mine.py:Net", f"{folder}/mine.py:Clips"]


def test_a_resume_goes_on_with_the_copies_also_where_the_files_are_gone(folder: Path) -> None:
    run = prepared(folder, *SETS)
    Path("mine.py").unlink()
    run.update(state="stopped", job_id=None)
    plan = plan_resume(run, None, sets=("train.max_steps=9",), ranks=None, sbatch={})
    assert plan.max_steps == 9
    assert named(run)[0] == "code/own_code/mine.py:Mine"


def test_the_lock_tells_which_files_a_run_was_made_with(folder: Path) -> None:
    first, second = lockfile.of_file(prepared(folder, *SETS).config_file), Path("mine.py")
    second.write_text(METHOD + "\n")
    (folder / "runs/run-1").rename(folder / "first")
    again = lockfile.of_file(prepared(folder, *SETS).config_file)
    assert lockfile.differences(first, again) and "code.mine.py" in lockfile.differences(first, again)[0]


def problems(*sets: str) -> list[Problem]:
    try:
        check_inputs(compose("own.yaml", "local", sets=sets))
    except ConfigError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        (None, "there is no Python file {file}", "./file.py:ClassName"),
        ("class Mine\n    pass\n", "{file}:1 is not Python: expected ':'", ""),
        ("class Yours:\n    class Other:\n        pass\n", "{file} has no class Mine", "its classes: Yours"),
        ("a = 1\n", "{file} has no class Mine", "its classes: none"),
    ],
)
@pytest.mark.parametrize("key", ["train.method.kind", "train.models.student.family", "train.data.source"])
def test_a_file_or_class_that_is_not_there_is_told_at_once(folder: Path, key: str, text: str | None, said: str, hint: str) -> None:
    Path("mine.py").unlink() if text is None else Path("mine.py").write_text(text)
    Path("clips").touch()
    apart = ("train.data.prepare=null", "train.data.path=clips", "train.data.source=./other/mine.py:Net")
    (found,) = problems(*apart, f"{key}=./mine.py:Mine")
    assert (found.key, found.message) == (key, said.format(file=folder / "mine.py"))
    assert hint in found.hint and found.where is not None


MAYBE = ["from x import Mine", "from x import A as Mine", "if True:\n    class Mine: pass", "from x import *", "Mine = make()"]


@pytest.mark.parametrize("text", MAYBE)
def test_a_class_that_a_file_may_have_is_left_to_the_rank(text: str) -> None:
    Path("mine.py").write_text(text + "\n")
    assert own_files.problem(Path("mine.py"), "Mine") is None


def test_data_of_an_own_source_is_whatever_is_there(folder: Path) -> None:
    sets = ("train.data.prepare=null", "train.data.source=./other/mine.py:Net")
    (found,) = problems(*sets, "train.data.path=clips.h5")
    assert (found.key, "clips.h5 does not exist" in found.message) == ("train.data.path", True)
    Path("clips.h5").touch()
    assert problems(*sets, "train.data.path=clips.h5") == []


def test_a_resume_says_where_a_file_is_not_as_its_copy_any_more(folder: Path) -> None:
    run = prepared(folder, *SETS)
    plan = plan_resume(run, None, sets=[], ranks=None, sbatch={})
    assert edited_own_files(run, plan) == []
    Path("other/mine.py").write_text("class Net:\n    width = 8\n")
    Path("mine.py").unlink()
    [warning] = edited_own_files(run, plan)
    copy = run.code / "own_code/mine-2.py"
    assert (
        warning.startswith(f"warning: {folder}/other/mine.py is not as it was submitted") and f"cp {folder}/other/mine.py {copy}" in warning
    )
