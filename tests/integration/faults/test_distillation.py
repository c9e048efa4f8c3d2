"""The quick form of the proof that DMD2 distils: on the moving shapes, from a stored teacher, with gates that a sham does not pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.faults.proof import Proof, Table

RECIPE = "shapes-dmd2"
QUICK = {"data.global_batch_size": 48}
CONTROL = "teacher in the student's sampler"
GIVEN = "student, 4 steps"
"""The row of shapes-evaluate that is a pipeline's student: there is none here."""
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """A student of 100 iterations, and a sham: 20 in which the critic learns nothing; both of smaller batches than the recipe's."""
    proof = Proof(tmp_path_factory.mktemp("distilled"))
    proof.train("student", RECIPE, max_steps=100, **QUICK)
    proof.train("sham", RECIPE, max_steps=20, **{"optimizers.critic.lr": 1e-12, "data.global_batch_size": 16})
    return proof.measure("student", "sham", without=(GIVEN, "teacher, 50 steps", "teacher, 4 steps"))


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
        proof.train(f"seed-{seed}", RECIPE, max_steps=400, seed=seed)
    measured = proof.measure("seed-1000", "seed-2000", without=(GIVEN,))
    assert measured["teacher, 50 steps"]["valid"] >= 0.8
    for seed in (1000, 2000):
        passes_the_gates(measured, f"seed-{seed}")
