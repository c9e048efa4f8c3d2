"""The quick form of the proof that DMD2 distils: on the moving shapes, from a stored teacher, with gates that a sham does not pass.

The teacher was made by `fvlaunch submit shapes-finetune --set train.max_steps=2500 --name teacher --wait` and
`fvlaunch export teacher --weights ema --to tests/fixtures/shapes_teacher`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.launcher import Workspace
from tests.support.paths import SHAPES_TEACHER

SHORT = ("--set", "resources.threads_per_rank=1", "--set", "train.data.prepare.repeats=2")
QUICK = "train.data.global_batch_size=48"
CONTROL = "teacher in the student's sampler"
pytestmark = pytest.mark.timeout(600)


Table = dict[str, dict[str, Any]]
"""evaluation.json: by row."""


class Proof:
    """A workspace with the stored teacher, in which students are trained and measured as a person would do it."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace(folder)
        shutil.copytree(SHAPES_TEACHER, folder / "models/shapes-teacher")

    def train(self, name: str, steps: int, *changes: str) -> None:
        sets = (word for change in (f"train.max_steps={steps}", *changes) for word in ("--set", change))
        self.workspace.submit(name, *SHORT, *sets, recipe="shapes-dmd2", cluster="local")
        assert self.workspace.finish(name, timeout_s=1500)["state"] == "finished", self.workspace.told()

    def measure(self, *students: str, without: tuple[str, ...] = ()) -> Table:
        rows = {name: {"source": f"runs/{name}", "weights": "ema"} for name in students}
        changes = {**dict.fromkeys(("student, 4 steps", *without)), **rows}
        self.workspace.write("measure.yaml", {"extends": "shapes-evaluate", "evaluate": {"rows": changes}})
        done = self.workspace.call("submit", "./measure.yaml", "--cluster", "local", "--name", "measure", "--wait", timeout_s=900)
        assert f"| {students[0]} | 4 |" in done.stderr  # a person sees the table
        assert (self.workspace.runs / "measure/evaluation.png").is_file()
        found: Table = json.loads((self.workspace.runs / "measure/evaluation.json").read_text())
        return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """A student of 100 iterations, and a sham: 20 in which the critic learns nothing; both of smaller batches than the recipe's."""
    proof = Proof(tmp_path_factory.mktemp("distilled"))
    proof.train("student", 100, QUICK)
    proof.train("sham", 20, "train.optimizers.critic.lr=1.0e-12", "train.data.global_batch_size=16")
    return proof.measure("student", "sham", without=("teacher, 50 steps", "teacher, 4 steps"))


def test_a_student_of_100_iterations_passes_the_gates(measured: Table) -> None:
    passes_the_gates(measured, "student")


def passes_the_gates(measured: Table, name: str) -> None:
    student, control = measured[name], measured[CONTROL]
    assert student["calls"] == control["calls"] == 4
    assert student["valid"] >= 1.5 * control["valid"]
    assert student["rmse"] <= 0.6 * control["rmse"]
    assert student["coverage"] >= 0.9


def test_a_student_whose_critic_never_learned_passes_none(measured: Table) -> None:
    sham, control = measured["sham"], measured[CONTROL]
    assert sham["valid"] < control["valid"]
    assert sham["rmse"] > control["rmse"]
    assert sham["coverage"] < 0.9


@pytest.mark.long
@pytest.mark.timeout(4000)
def test_two_students_of_400_iterations_pass_the_gates(tmp_path: Path) -> None:
    proof = Proof(tmp_path / "proof")
    for seed in (1000, 2000):
        proof.train(f"seed-{seed}", 400, f"train.seed={seed}")
    measured = proof.measure("seed-1000", "seed-2000")
    print(json.dumps(measured, indent=1))
    assert measured["teacher, 50 steps"]["valid"] >= 0.8
    for seed in (1000, 2000):
        passes_the_gates(measured, f"seed-{seed}")
