"""A run that goes on elsewhere: what was written with `${paths.x}` resolves there, the same files may lie under another name, else: no."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from fvlaunch.errors import ConfigError
from fvlaunch.lifecycle import submit
from fvlaunch.planning import planner
from fvlaunch.runs.directory import Run
from tests.support.parquet import write_samples

RECIPE = """\
extends: base/shapes
train:
  max_steps: 5
  method: {kind: finetune}
  data: {prepare: null, path: "${paths.data}/clips"}
  optimizers: {student: {kind: adamw, lr: 1e-3}}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home/state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/config"))
    (tmp_path / "clusters").mkdir()
    for name in ("here", "there"):
        (tmp_path / f"clusters/{name}.yaml").write_text(yaml.safe_dump({"executor": "local", "paths": {"data": f"{name}-data"}}))
    write_samples(tmp_path / "here-data/clips/a.parquet", 64)
    (tmp_path / "own.yaml").write_text(RECIPE)
    _, plan = planner.plan_submission("./own.yaml", "here", sets=[], name="r", ranks=1, nodes=None, sbatch={}, runs_dir=Path("runs"))
    return submit.prepare(plan, take_snapshot=False, request={})


def resumed(run: Run, cluster: str | None, *sets: str) -> str:
    plan = planner.plan_resume(run, cluster, sets=sets, ranks=None, sbatch={})
    return str(plan.recipe["train"]["data"]["path"])


def test_named_folders_are_those_of_the_cluster_that_it_goes_on_at(run: Run, tmp_path: Path) -> None:
    assert resumed(run, None) == str(tmp_path / "here-data/clips")
    assert resumed(run, "there") == str(tmp_path / "there-data/clips")


def test_the_name_is_remembered_through_several_moves(run: Run, tmp_path: Path) -> None:
    plan = planner.plan_resume(run, "there", sets=[], ranks=None, sbatch={})
    submit.renew(run, plan, assume_dead=None, state="stopped")
    assert resumed(run, None) == str(tmp_path / "there-data/clips") and resumed(run, "here") == str(tmp_path / "here-data/clips")


def test_another_folder_is_taken_where_it_holds_the_same_files(run: Run, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "here-data/clips", tmp_path / "elsewhere")
    assert resumed(run, None, f"train.data.path={tmp_path / 'elsewhere'}") == str(tmp_path / "elsewhere")
    write_samples(tmp_path / "elsewhere/b.parquet", 64)
    with pytest.raises(ConfigError, match=r"train\.data makes the run what it is"):
        resumed(run, None, f"train.data.path={tmp_path / 'elsewhere'}")
    with pytest.raises(ConfigError, match=r"train\.data makes the run what it is"):
        resumed(run, "there", f"train.data.path={tmp_path / 'nowhere'}")


def test_what_else_makes_the_run_is_frozen_there_too(run: Run) -> None:
    for key in ("train.seed=3", "train.data.num_frames=9", "train.flow_shift=5"):
        with pytest.raises(ConfigError, match="makes the run what it is"):
            resumed(run, "there", key)
