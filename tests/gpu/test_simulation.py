"""`python -m tests.gpu` on the simulated device, where FVLAUNCH_GPU_SIM names one: what it measures, and that it fails where CUDA would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import environment
from tests.gpu.figures import Figures
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(environment.of() is None, reason=f"no simulated GPU here: python -m tests.gpu make; {environment.VARIABLE}")

METHODS = """
from trainers.methods.finetune import FineTuneMethod

class Waiting(FineTuneMethod):
    def single_train_step(self, batch, iteration):
        losses, outputs, metrics = super().single_train_step(batch, iteration)
        return losses, outputs, {"half": float(losses["total_loss"]) / 2}

class Raising(FineTuneMethod):
    def single_train_step(self, batch, iteration):
        batch["prompt"].numpy()  # goes well on a CPU
        return super().single_train_step(batch, iteration)
"""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """One run of the command: a preset of two kinds of steps, and two recipes with methods that a GPU does not bear."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "mine.py").write_text(METHODS)
    for name in ("Waiting", "Raising"):
        recipe = {"extends": "finetune", "train": {"method": {"kind": f"{folder}/mine.py:{name}"}}}
        (folder / f"{name.lower()}.yaml").write_text(json.dumps(recipe))
    command = [sys.executable, "-m", "tests.gpu", "dmd2", folder / "waiting.yaml", folder / "raising.yaml", "--layers", "2", "--json"]
    return subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def measured(simulated: subprocess.CompletedProcess[str]) -> dict[str, Figures]:
    return {Path(one["preset"]).stem: Figures.of(one) for one in json.loads(simulated.stdout)}


def test_what_is_kept_is_told_by_role(measured: dict[str, Figures]) -> None:
    dmd2 = measured["dmd2"]
    assert dmd2.kept is not None and set(dmd2.roles) == {"student", "teacher", "critic"}
    assert sum(role.total for role in dmd2.roles.values()) == pytest.approx(dmd2.kept, rel=0.02)
    assert dmd2.roles["student"].optimizer == pytest.approx(2 * dmd2.roles["student"].weights, rel=0.01)
    assert dmd2.roles["teacher"].optimizer == dmd2.roles["critic"].average == 0


def test_a_step_of_each_kind_is_measured(measured: dict[str, Figures]) -> None:
    for figures in measured.values():
        for phase in figures.phases.values():
            assert phase.peak and phase.reserved and phase.launches and phase.flops
            assert figures.kept <= phase.peak <= phase.reserved and phase.peak == max(phase.peaks.values())
    critic, student = (measured["dmd2"].phases[kind] for kind in ("critic", "student"))
    assert "student" not in critic.passes and student.passes["student"] == 1 and student.passes["teacher, no gradient"] == 2


def test_a_wait_that_nobody_declared_fails_and_its_place_is_told(simulated, measured: dict[str, Figures]) -> None:
    assert simulated.returncode == 1
    (wait,) = measured["waiting"].undeclared
    assert wait.place.endswith("mine.py:7 single_train_step")
    assert measured["dmd2"].undeclared == []


def test_a_step_that_raises_on_cuda_fails_in_words(simulated, measured: dict[str, Figures]) -> None:
    assert "raising" not in measured
    assert "raising.yaml FAILS: its rank ended with 1" in simulated.stderr and "can't convert cuda" in simulated.stderr
