"""Promises of KD into a causal student: loss and gradient derived by hand, a noise level a block, what is refused, whole runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.trainers.checkpoint_states import same_state
from tests.support.trainers.distilled import kd, write_prompted_data, write_teacher
from tests.support.trainers.formula_network import FormulaModel
from tests.support.trainers.trainer_ranks import ARCHITECTURE, losses
from trainers.config import TrainConfig, check
from trainers.errors import UserError
from trainers.methods import method_class
from trainers.methods.kd_causal import KDCausalMethod

SHIFT, T_LIST, BATCH, FRAMES, PER_BLOCK = 5.0, [1000, 909, 833, 0], 3, 5, 2
STORED = [1000.0, 961.0, 909.0, 833.0, 0.0]
"""More states than the student is trained at."""


class Line(nn.Module):
    """v = a x_t + b + c i, where i is the frame's number: a frame that is taken for another shows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(value)) for value in (0.7, -0.2, 0.1))


class LineModel(FormulaModel):
    num_frames_per_block: int | None = PER_BLOCK

    def __init__(self) -> None:
        super().__init__(Line())

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        self.seen = timesteps.tolist()
        line: Any = self.transformer
        frames = torch.arange(noisy.shape[1])[:, None, None, None]
        found: Tensor = line.a * noisy + line.b + line.c * frames
        return found


class Bidirectional(LineModel):
    num_frames_per_block = None


def config(**changes: Any) -> TrainConfig:
    student = {"family": "causal-wan", "num_frames_per_block": PER_BLOCK, "init_from": "z"}
    block = {"method__kind": "kd-causal", "method__t_list": T_LIST, "models__student": student, "data__num_frames": FRAMES}
    return TrainConfig.model_validate(kd(Path("x"), Path("y"), Path("z"), **{**block, **changes}))


def make(**changes: Any) -> KDCausalMethod:
    made = KDCausalMethod(config(**changes), {"student": LineModel()})
    made.cuda_generator.manual_seed(5)
    return made


def batch() -> dict[str, Tensor]:
    states = torch.randn(BATCH, len(STORED), FRAMES, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor(STORED).expand(BATCH, -1)
    return {"trajectory_latents": states, "trajectory_timesteps": timesteps, "prompt": torch.zeros(BATCH, 3, 2)}


@pytest.mark.parametrize("clean", [True, False])
def test_loss_and_gradient_are_those_derived_by_hand(clean: bool) -> None:
    """L = 0.5 mean((x - s v - x0)^2) over the frames that are not clean, so dL/dp = mean(r (-s dv/dp)) for p = a, b, c."""
    method, given = make(method__clean_blocks=clean), batch()
    loss_map, outputs, _ = method.single_train_step(given, 1)
    method.backward(loss_map, outputs, grad_accum_rounds=2)
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randint(0, 4 if clean else 3, (BATCH, math.ceil(FRAMES / PER_BLOCK)), generator=generator).tolist()
    grid = [SHIFT * k / (1000 + (SHIFT - 1) * k) for k in range(1, 1001)]
    a, b, c = (float(torch.tensor(value)) for value in (0.7, -0.2, 0.1))
    frames, sums = 0, [0.0] * 4
    for n in range(BATCH):
        for frame in range(FRAMES):
            t = T_LIST[drawn[n][frame // PER_BLOCK]]
            if t == 0:
                continue
            sigma = min(grid, key=lambda s, t=t: abs(1000 * s - t))
            states = given["trajectory_latents"][n, :, frame].double()
            x = states[STORED.index(t)]
            residual = x - sigma * (a * x + b + c * frame) - states[-1]
            terms = 0.5 * residual**2, residual * -sigma * x, residual * -sigma, residual * -sigma * frame
            sums, frames = [total + float(term.mean()) for total, term in zip(sums, terms, strict=True)], frames + 1
    assert (frames < BATCH * FRAMES) == clean
    total, *gradients = [value / frames for value in sums]
    assert loss_map["total_loss"].item() == pytest.approx(total, rel=1e-6)
    line: Any = method.student.transformer
    assert [float(p.grad) for p in (line.a, line.b, line.c)] == pytest.approx([g / 2 for g in gradients], rel=1e-6, abs=1e-6)
    assert method.cuda_generator.get_state().equal(generator.get_state())
    student: Any = method.student
    assert student.seen == [[T_LIST[row[frame // PER_BLOCK]] for frame in range(FRAMES)] for row in drawn]


def test_a_batch_of_clean_blocks_alone_has_no_loss_and_no_gradient() -> None:
    method = make()
    method.timesteps, method.shown_at = torch.zeros(4), torch.zeros(4)
    loss_map, outputs, _ = method.single_train_step(batch(), 1)
    method.backward(loss_map, outputs)
    line: Any = method.student.transformer
    assert loss_map["total_loss"].item() == line.a.grad.item() == 0.0


def test_the_method_is_found_by_its_kind_and_sampled_at_its_list() -> None:
    assert method_class("kd-causal") is KDCausalMethod
    found = config().sampling()
    assert (found.solver, found.timesteps, found.guidance_scale) == ("sde", [1000.0, 909.0, 833.0], 1.0)


def test_a_student_that_is_not_causal_or_whose_block_no_video_holds_is_told_at_its_key() -> None:
    assert check(config(), 1) == []
    (problem,) = check(config(models__student={"init_from": "z"}), 1)
    assert problem.path == ("models", "student", "family") and "kd-causal needs a block-causal student" in problem.message
    assert "causal-wan" in problem.hint
    student = {"family": "causal-wan", "num_frames_per_block": FRAMES + 1, "init_from": "z"}
    (problem,) = check(config(models__student=student), 1)
    assert problem.path == ("models", "student", "num_frames_per_block") and "longer than the video's 5 latent frames" in problem.message
    with pytest.raises(UserError, match="block-causal"):
        KDCausalMethod(config(), {"student": Bidirectional()})


def test_a_whole_run_resumes_bitwise_and_agrees_on_two_ranks(runs: Any, tmp_path: Path) -> None:
    data, teacher, cache = write_prompted_data(tmp_path / "data", 12), write_teacher(tmp_path / "teacher"), tmp_path / "cache"
    student = {"family": "causal-wan", "num_frames_per_block": 1, "architecture": ARCHITECTURE, "activation_checkpointing": "full"}

    def block(**changes: Any) -> dict[str, Any]:
        return kd(data, teacher, cache, **{"method__kind": "kd-causal", "models__student": student, **changes})

    whole = runs.finish(block(), tmp_path / "whole")
    cut = runs.finish(block(max_steps=2), tmp_path / "cut")
    runs.finish(block(), cut, attempt=2)
    assert losses(cut) == losses(whole) and len(set(losses(whole))) == 4
    same_state(whole, cut, 4, 0.0)
    two = runs.finish(block(), tmp_path / "two", world=2)
    assert losses(two) == pytest.approx(losses(whole), rel=1e-6)
