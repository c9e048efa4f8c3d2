"""The quick form of the proof that DMD2 distils: on the moving shapes, from a stored teacher, with gates that a sham does not pass.

The teacher was made by `fvlaunch submit shapes-finetune --set train.max_steps=2500 --name teacher --wait` and
`fvlaunch export teacher --weights ema --to tests/shapes_teacher`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.launcher import Workspace

TEACHER = Path(__file__).parents[1] / "shapes_teacher"
SHORT = ("--set", "resources.threads_per_rank=1", "--set", "train.data.prepare.repeats=2")
CONTROL = "teacher in the student's sampler"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """A student of 100 iterations, and a sham: 40 in which the critic learns nothing. By the table's names."""
    workspace = Workspace(tmp_path_factory.mktemp("distilled"))
    shutil.copytree(TEACHER, workspace.folder / "models/shapes-teacher")
    students = {"student": ("100", "1.0e-3"), "sham": ("40", "1.0e-12")}
    for name, (steps, critic_lr) in students.items():
        changes = ("--set", f"train.max_steps={steps}", "--set", f"train.optimizers.critic.lr={critic_lr}")
        workspace.submit(name, *SHORT, *changes, recipe="shapes-dmd2", cluster="local")
        assert workspace.finish(name)["state"] == "finished", workspace.told()
    rows = {name: {"source": f"runs/{name}", "weights": "ema"} for name in students}
    only = {"teacher, 50 steps": None, "teacher, 4 steps": None, "student, 4 steps": None}
    workspace.write("measure.yaml", {"extends": "shapes-evaluate", "evaluate": {"rows": {**only, **rows}}})
    done = workspace.call("submit", "./measure.yaml", "--cluster", "local", "--name", "measure", "--wait")
    assert "| student | 4 |" in done.stderr  # a person sees the table
    assert (workspace.runs / "measure/evaluation.png").is_file()
    found: dict[str, dict[str, Any]] = json.loads((workspace.runs / "measure/evaluation.json").read_text())
    assert set(found) == {CONTROL, "student", "sham"}
    return found


def test_a_student_of_100_iterations_passes_the_gates(measured: dict[str, dict[str, Any]]) -> None:
    student, control = measured["student"], measured[CONTROL]
    assert student["calls"] == control["calls"] == 4
    assert student["valid"] >= 1.5 * control["valid"]
    assert student["rmse"] <= 0.6 * control["rmse"]
    assert student["coverage"] >= 0.9


def test_a_student_whose_critic_never_learned_passes_none(measured: dict[str, dict[str, Any]]) -> None:
    sham, control = measured["sham"], measured[CONTROL]
    assert sham["valid"] < control["valid"]
    assert sham["rmse"] > control["rmse"]
    assert sham["coverage"] < 0.9
