"""A resume looks again at what the submission looked at: what has gone, changed or was damaged since is told before a job is queued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fvlaunch.errors import ConfigError, FvlaunchError
from fvlaunch.lifecycle import submit
from fvlaunch.planning import planner
from fvlaunch.runs.directory import Run
from tests.support.isolation import isolate
from tests.support.parquet import write_samples

RECIPE = """\
extends: base/shapes
train:
  max_steps: 5
  method: {kind: finetune}
  models: {student: {family: wan, init_from: model, architecture: null}}
  data: {prepare: null, path: data, text_dropout: 0}
  optimizers: {student: {kind: adamw, lr: 1e-3}}
"""
PROFILE = "executor: local\npaths: {data: data}\nnotify: {command: ['./tell.sh']}\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    isolate(tmp_path, monkeypatch)
    Path("clusters").mkdir()
    Path("clusters/here.yaml").write_text(PROFILE)
    Path("clusters/tell.sh").write_text("#!/bin/sh\n")
    Path("clusters/tell.sh").chmod(0o755)
    Path("model").mkdir()
    write_samples(Path("data/a.parquet"), 64)
    Path("own.yaml").write_text(RECIPE)
    _, plan = planner.plan_submission("./own.yaml", "here", sets=[], name="r", ranks=1, nodes=None, sbatch={}, runs_dir=Path("runs"))
    return submit.prepare(plan, take_snapshot=False, request={})


def looked_at(run: Run, *sets: str) -> tuple[str, ...]:
    return planner.plan_resume(run, None, sets=sets, ranks=None, sbatch={}, look=True).notes


def test_inputs_that_are_there_are_counted_again(run: Run) -> None:
    assert "data: 64 samples, 1 step an epoch" in looked_at(run)


def test_a_run_whose_submission_was_cut_off_before_run_yaml_is_told_with_what_helps(run: Run) -> None:
    run.config_file.unlink()
    with pytest.raises(FvlaunchError, match="its submission was cut off") as told:
        looked_at(run)
    assert told.value.hint == f"move {run.path} away, and submit its recipe again"


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "samples that went away": (lambda: Path("data/a.parquet").unlink(), "train.data.path"),
    "a file that was cut": (lambda: Path("data/a.parquet").write_bytes(b"PAR1"), "train.data.path"),
    "fewer than a batch": (lambda: write_samples(Path("data/a.parquet"), 3), "train.data.global_batch_size"),
    "a notify that is gone": (lambda: Path("clusters/tell.sh").unlink(), "cluster.notify.command"),
    "a notify that cannot be run": (lambda: Path("clusters/tell.sh").chmod(0o644), "cluster.notify.command"),
    "a model that went away": (lambda: Path("model").rmdir(), "train.models.student.init_from"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_next_job_could_not_run_on_is_refused_with_its_place(run: Run, fault: str) -> None:
    break_it, key = FAULTS[fault]
    break_it()
    with pytest.raises(ConfigError) as caught:
        looked_at(run)
    [problem] = caught.value.problems
    assert (problem.key, bool(problem.where), bool(problem.hint)) == (key, True, True)


def test_a_model_that_a_checkpoint_stands_for_is_told_and_not_refused(run: Run) -> None:
    Path("model").rmdir()
    (run.checkpoints / "step-00000003").mkdir()
    [told] = [line for line in looked_at(run) if line.startswith("warning: ")]
    assert "model does not exist; where the checkpoint does not hold it" in told
