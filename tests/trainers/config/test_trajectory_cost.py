"""Promises of what a teacher's trajectories cost: all operations are counted, and nothing is told of what is made already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fvlaunch.config.compose import compose
from tests.support.trainers.one_rank import inputs, wan
from tests.support.trainers.trainer_ranks import ARCHITECTURE
from trainers.config import network_size
from trainers.config.models.wan import WanArchitecture
from trainers.config.trajectory_cost import TrajectoryCost, forward_operations, trajectory_cost
from trainers.distributed.mesh import ParallelContext


def kd(tmp_path: Path, *sets: str, recipe: str = "kd") -> Any:
    return compose(recipe, "local", cwd=tmp_path, sets=[f"train.method.cache={tmp_path / 'cache'}", *sets]).recipe.train


def test_a_forward_pass_costs_what_torch_counts(parallel: ParallelContext) -> None:
    model, (noisy, timesteps, prompt) = wan(parallel, trainable=False), inputs()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.predict_velocity(noisy, timesteps, prompt)
    blocks = counter.get_flop_counts()["WanTransformer3DModel.blocks.0"]
    size = network_size.transformer_size(WanArchitecture.model_validate(ARCHITECTURE))
    estimated = len(noisy) * forward_operations(size, (3, 4, 4), prompt.shape[1])
    assert sum(blocks.values()) == pytest.approx(estimated, rel=0.03)


def test_a_pass_of_the_14b_is_1_4_pflop(tmp_path: Path) -> None:
    cost = trajectory_cost(kd(tmp_path))
    assert cost is not None and cost.passes == 96 and cost.operations is not None
    assert cost.operations / cost.passes == pytest.approx(1.405e15, rel=0.01)
    assert "5.5 days on 8 GPUs" in TrajectoryCost(10_000, cost.passes, cost.operations).line(8)


def test_without_guidance_half_the_passes_are_made(tmp_path: Path) -> None:
    cost = trajectory_cost(kd(tmp_path, "train.method.teacher_guidance_scale=1", "train.method.trajectory_steps=24"))
    assert cost is not None and cost.passes == 24


def test_what_is_made_already_is_not_told_again(tmp_path: Path) -> None:
    train = kd(tmp_path, "train.method.num_trajectories=100")
    samples = tmp_path / "cache" / "samples"
    samples.mkdir(parents=True)
    (tmp_path / "cache" / "metadata.json").write_text(json.dumps({"format": 1, "timesteps": [995], "total": 40, "prompts": 40}))
    for number in range(15):
        (samples / f"{number:08d}.parquet").touch()
    cost = trajectory_cost(train, 1000)
    assert cost is not None and cost.missing == 25
    (tmp_path / "cache" / "COMPLETE").touch()
    assert trajectory_cost(train) is None


def test_a_method_that_makes_nothing_costs_nothing(tmp_path: Path) -> None:
    assert trajectory_cost(compose("dmd2", "local", cwd=tmp_path).recipe.train) is None


def test_what_takes_minutes_is_not_told() -> None:
    assert TrajectoryCost(10, 96, 1e12).line(1) == "" and TrajectoryCost(0, 96, None).line(1) == ""
    assert "which is not known here" in TrajectoryCost(None, 96, 1e17).line(1)
    assert "whose size is not known here" in TrajectoryCost(10, 96, None).line(1)
