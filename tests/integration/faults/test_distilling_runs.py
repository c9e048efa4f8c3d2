"""Distillations that are killed with -9 in the middle go on as if nothing had happened: several networks, optimizers and draws a step."""

from __future__ import annotations

import random
import shutil
from typing import Any

import pytest

from tests.integration.faults.local import LocalRuns, kill, shard_digests
from tests.support.launcher import losses
from tests.support.paths import SHAPES_TEACHER
from tests.support.rows import Figures, fault

STEPS = 20


def recipe(method: str) -> dict[str, Any]:
    """The preset from the stored teacher, with a small batch and a student's step every other iteration."""
    kind: dict[str, Any] = {"generator_update_interval": 2}
    if "self-forcing" in method:
        kind |= {"require_causal_start": False, "last_step_only": False, "context_noise": 100.0}
    return {
        "extends": f"shapes-{method}",
        "resources": {"ranks": 1, "threads_per_rank": 1},
        "train": {
            "max_steps": STEPS,
            "method": kind,
            "data": {"global_batch_size": 4, "prepare": {"repeats": 1}},
            "checkpoint": {"every_steps": 4, "every_minutes": None},
            "tracking": {"tensorboard": False},
        },
    }


@pytest.fixture(scope="module", autouse=True)
def teacher(local: LocalRuns) -> None:
    for name in ("shapes-teacher", "shapes-kd-causal"):
        shutil.copytree(SHAPES_TEACHER, local.folder / "models" / name)


@fault("1", "SIGKILL to a distillation: self-forcing, dmd2, two experts")
@pytest.mark.long
@pytest.mark.parametrize("method", ["self-forcing", "dmd2", "self-forcing-a14b"])
def test_a_killed_distillation_ends_bitwise(local: LocalRuns, figure: Figures, method: str) -> None:
    local.write(f"templates/recipes/small-{method}.yaml", recipe(method))
    target = random.Random(method).randrange(6, STEPS // 2)  # such steps are slow: it is not over before the rank is killed
    local.submit(f"{method}-whole", recipe=f"small-{method}", cluster="local")
    local.submit(f"{method}-killed", recipe=f"small-{method}", cluster="local")
    local.reaches(f"{method}-killed", target)
    [pid] = local.rank_pids(f"{method}-killed", 1).values()
    kill(pid)
    whole, killed = (local.over(f"{method}-{how}", "finished") for how in ("whole", "killed"))
    assert (whole["attempts"], killed["attempts"]) == (1, 2)
    one, other = (local.runs / f"{method}-{how}" for how in ("whole", "killed"))
    assert losses(one) == losses(other) and [step for step, _ in losses(one)] == list(range(1, STEPS + 1))
    assert shard_digests(one, STEPS) == shard_digests(other, STEPS)
    figure.count("bitwise", 1, 1)
