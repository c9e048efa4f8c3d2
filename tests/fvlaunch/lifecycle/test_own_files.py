"""A user's own Python files, named in a recipe: looked at before a job is made, and copied so that a later edit changes nothing."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.commands.diff import differences, leaves_of
from fvlaunch.config import own_files
from fvlaunch.config.compose import compose
from fvlaunch.errors import ConfigError, Problem
from fvlaunch.lifecycle import submit as submission
from fvlaunch.planning import lockfile
from fvlaunch.planning.plan import Plan, make_plan
from fvlaunch.planning.planner import plan_resume
from fvlaunch.planning.preflight import check_inputs, check_own_code
from fvlaunch.planning.warnings import drift, edited_own_files, passed_over
from fvlaunch.runs import run_config
from fvlaunch.runs.directory import Run
from tests.support.plans import RECIPE

COPIES = ["code/own_code/mine.py:Mine", "code/own_code/mine-2.py:Net", "code/own_code/mine.py:Clips"]
METHOD = "class Mine:\n    pass\n\n\nclass Clips:\n    pass\n"


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


def prepared(folder: Path, *sets: str, take_snapshot: bool = True, recipe: str = "own.yaml", name: str = "run-1") -> Run:
    composed = compose(recipe, "local" if recipe == "own.yaml" else None, sets=sets)
    check_own_code(composed)
    plan = make_plan(composed, now=datetime(2026, 1, 2), cwd=Path.cwd(), name=name, runs_dir=folder / "runs", shell={})
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


# what an own file imports from beside it

HELPED = "import helper\nimport pkg.part\n" + METHOD


@pytest.fixture
def helped(folder: Path) -> Path:
    Path("mine.py").write_text(HELPED)
    Path("helper.py").write_text("VALUE = 1\n")
    Path("pkg").mkdir()
    Path("pkg/part.py").write_text("VALUE = 2\n")
    Path("pkg/table.json").write_text("{}")
    Path("signal.py").write_text("raise SystemExit\n")
    return folder


def copied(run: Run) -> dict[str, str]:
    root = run.code / "own_code"
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_what_an_own_file_imports_from_beside_it_is_copied_and_nothing_else(helped: Path) -> None:
    run = prepared(helped, *SETS)
    expected = {"mine.py": HELPED, "mine-2.py": Path("other/mine.py").read_text(), "imports/helper.py": "VALUE = 1\n"}
    assert copied(run) == {**expected, "imports/pkg/part.py": "VALUE = 2\n", "imports/pkg/table.json": "{}"}
    assert {"mine.py", "mine-2.py", "imports/helper.py", "imports/pkg"} < lockfile.of_file(run.config_file)["code"].keys()


@pytest.mark.parametrize("edited", ["mine.py", "helper.py", "pkg/part.py", "pkg/table.json"])
def test_diff_names_the_own_file_in_which_two_runs_differ(helped: Path, edited: str) -> None:
    prepared(helped, *SETS)
    Path(edited).write_text(Path(edited).read_text() + "\n")
    prepared(helped, *SETS, name="run-2")
    first, second = (leaves_of(f"runs/{name}/run.yaml", None, None) for name in ("run-1", "run-2"))
    name = edited if edited == "mine.py" else f"imports/{edited.split('/')[0]}"
    assert [key for key, _, _ in differences(first, second)] == [f"lock.code.{name}"]


def test_diff_compares_a_run_with_the_file_as_it_is_now_and_tells_of_a_copy_that_was_changed(helped: Path) -> None:
    run = prepared(helped, *SETS)
    Path("helper.py").write_text("VALUE = 3\n")
    Path("with.yaml").write_text(f"extends: ./own.yaml\ntrain: {{method: {{kind: {helped}/mine.py:Mine, my_knob: 3}}}}\n")
    both = (leaves_of(str(run.config_file), None, None), leaves_of("./with.yaml", "local", None))
    keys = [key for key, a, b in differences(*both) if key.startswith("lock.code.") and a and b]
    assert keys == ["lock.code.imports/helper.py"]
    before = leaves_of(str(run.config_file), None, None)
    (run.code / "own_code/mine.py").write_text("class Mine: ...\n")
    assert [key for key, _, _ in differences(before, leaves_of(str(run.config_file), None, None))] == ["lock.code.mine.py"]


@pytest.mark.parametrize("gone", [True, False])
def test_a_run_is_repeated_with_its_own_copies_whatever_became_of_the_files(helped: Path, gone: bool) -> None:
    first = prepared(helped, *SETS)
    for name in ("mine.py", "helper.py", "pkg/part.py", "other/mine.py"):
        Path(name).unlink() if gone else Path(name).write_text("raise SystemExit\n")
    second = prepared(helped, "train.max_steps=9", recipe="runs/run-1/run.yaml", name="run-2")
    third = prepared(helped, recipe="runs/run-2/run.yaml", name="run-3")
    assert copied(first) == copied(second) == copied(third)
    assert lockfile.of_file(first.config_file)["code"] == lockfile.of_file(third.config_file)["code"]
    assert drift(compose("runs/run-1/run.yaml"), plan_of_run(helped)) == []


def plan_of_run(folder: Path) -> Plan:
    return make_plan(compose("runs/run-1/run.yaml"), now=datetime(2026, 1, 2), cwd=folder, name="again", runs_dir=folder / "runs", shell={})


def test_a_file_that_set_names_is_the_file_as_it_is_now(helped: Path) -> None:
    prepared(helped, *SETS)
    Path("mine.py").write_text(METHOD)
    again = prepared(helped, "train.method.kind=./mine.py:Mine", recipe="runs/run-1/run.yaml", name="run-2")
    assert copied(again)["mine.py"] == METHOD and "imports/helper.py" not in copied(again)


def test_a_run_without_copies_tells_at_resume_that_a_file_was_edited_and_refuses_where_it_is_gone(helped: Path) -> None:
    run = prepared(helped, *SETS, take_snapshot=False)
    plan = plan_resume(run, None, sets=[], ranks=None, sbatch={})
    assert edited_own_files(run, plan) == []
    Path("helper.py").write_text("VALUE = 9\n")
    [line] = edited_own_files(run, plan)
    assert str(helped / "helper.py") in line and "--no-snapshot" in line
    Path("helper.py").unlink()
    [line] = edited_own_files(run, plan)
    assert "helper.py was imported by a file of yours, and is not there any more" in line
    Path("mine.py").unlink()
    with pytest.raises(ConfigError, match="there is no Python file"):
        plan_resume(run, None, sets=[], ranks=None, sbatch={})


def test_two_own_files_that_mean_two_modules_by_one_name_are_refused(helped: Path) -> None:
    Path("other/mine.py").write_text("import helper\nclass Net: ...\n")
    Path("other/helper.py").write_text("VALUE = 7\n")
    with pytest.raises(ConfigError, match="two different modules called helper"):
        prepared(helped, *SETS)
    Path("other/helper.py").write_text(Path("helper.py").read_text())
    assert "imports/helper.py" in copied(prepared(helped, *SETS))


@pytest.mark.parametrize("name", ["random.py", "torch.py", "trainers.py", "signal.py"])
def test_an_own_file_may_have_the_name_of_any_module(folder: Path, name: str) -> None:
    Path(name).write_text(METHOD)
    run = prepared(folder, f"train.method={{kind: ./{name}:Mine}}")
    assert copied(run) == {name: METHOD}


def test_what_lies_beside_a_file_and_is_not_taken_is_told(helped: Path) -> None:
    Path("yaml.py").write_text("raise SystemExit\n")
    Path("mine.py").write_text("import yaml\n" + HELPED)
    composed = compose("own.yaml", "local", sets=SETS)
    [line] = passed_over(make_plan(composed, now=datetime(2026, 1, 2), cwd=helped, name="new", runs_dir=helped / "runs", shell={}))
    assert line.startswith("note: ") and "mine.py:1 imports yaml: the installed" in line


def test_no_copy_takes_the_place_of_another(folder: Path) -> None:
    Path("mine-2.py").write_text("class Clips: ...\n")
    run = prepared(folder, *SETS[:2], "train.data.prepare=null", "train.data.source=./mine-2.py:Clips")
    assert named(run) == ["code/own_code/mine.py:Mine", "code/own_code/mine-2.py:Net", "code/own_code/mine-2-2.py:Clips"]
    assert sorted(copied(run)) == ["mine-2-2.py", "mine-2.py", "mine.py"] and "Clips" in copied(run)["mine-2-2.py"]


@pytest.mark.parametrize("name", ["mine", "mine.txt", "mine.pyc"])
def test_a_file_that_python_would_not_import_is_told(folder: Path, name: str) -> None:
    Path(name).write_text(METHOD)
    (found,) = problems(f"train.method={{kind: ./{name}:Mine}}")
    assert found.message == f"{folder / name} is not named as a Python file is"
