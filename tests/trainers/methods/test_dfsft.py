"""Promises of diffusion forcing: its loss and gradient derived by hand, its draws in their order, what it refuses, and whole runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tests.support.trainers.formula_network import FormulaModel
from tests.support.trainers.trainer_ranks import ARCHITECTURE, losses, tiny
from trainers.config import TrainConfig
from trainers.config.methods.dfsft import Config
from trainers.errors import UserError
from trainers.methods import method_class
from trainers.methods.dfsft import DiffusionForcingSFTMethod

SHIFT, FRAMES, PER_BLOCK = 5.0, 5, 2
BLOCKS = ((0, 0), (1, 0), (2, 1), (3, 1), (4, 2))
"""(frame, its block): the remainder is a last block of one."""


class Line(nn.Module):
    """v = a x_t + b + c x0, of which x0 is there only with teacher forcing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (0.7, -0.2, 0.3))


class LineModel(FormulaModel):
    num_frames_per_block = PER_BLOCK

    def __init__(self) -> None:
        super().__init__(Line())

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor, clean: Tensor | None = None) -> Tensor:
        self.seen = timesteps
        line: Any = self.transformer
        found: Tensor = line.a * noisy + line.b
        return found if clean is None else found + line.c * clean


class Bidirectional(LineModel):
    num_frames_per_block = None  # type: ignore[assignment]


def config(student: dict[str, Any] | None = None, **method: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "max_steps": 1,
            "flow_shift": SHIFT,
            "method": {"kind": "dfsft", **method},
            "models": {"student": student or {"family": "causal-wan", "init_from": "x", "num_frames_per_block": PER_BLOCK}},
            "data": {"path": "x", "global_batch_size": 2},
            "optimizers": {"student": {"kind": "adamw", "lr": 1e-3}},
        }
    )


def make(**method: Any) -> DiffusionForcingSFTMethod:
    return DiffusionForcingSFTMethod(config(**method), {"student": LineModel()})


def batch(kind: torch.dtype = torch.float64) -> dict[str, Tensor]:
    latents = torch.randn(2, FRAMES, 4, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"latents": latents.to(kind), "prompt": torch.zeros(2, 5, 8)}


def drawn(kind: torch.dtype, low: int, high: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """(noise [B, T, C, H, W], entry of the grid [B][blocks]) in the documented order: noise [B, C, T, H, W], u [B], entries [B, blocks]."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(2, 4, FRAMES, 2, 2, generator=generator, dtype=kind).double().permute(0, 2, 1, 3, 4)
    torch.rand(2, generator=generator)
    return noise, torch.randint(low, high, (2, math.ceil(FRAMES / PER_BLOCK)), generator=generator), generator


def by_hand(kind: torch.dtype, low: int, high: int, weighted: bool, forced: bool) -> tuple[float, float, float, float]:
    """(loss, dL/da, dL/db, dL/dc) in float64, frame by frame: L = mean over b, t of w(k) mean over C, H, W of (v - (eps - x0))^2."""
    noise, entries, _ = drawn(kind, low, high)
    latents = batch(kind)["latents"].double()
    bell = [math.exp(-2 * ((k - 500) / 1000) ** 2) for k in range(1000)]
    total = sum(y - min(bell) for y in bell)
    sums = [0.0] * 4
    for b in range(2):
        for frame, block in BLOCKS:
            k = int(entries[b, block])
            u = (1000 - k) / 1000
            sigma = SHIFT * u / (1 + (SHIFT - 1) * u)
            clean, eps = latents[b, frame], noise[b, frame]
            noisy = (1 - sigma) * clean + sigma * eps
            residual = 0.7 * noisy - 0.2 + (0.3 * clean if forced else 0) - (eps - clean)
            weight = (bell[k] - min(bell)) * 1000 / total if weighted else 1.0
            gradients = [2 * residual * noisy, 2 * residual, 2 * residual * clean]
            for number, term in enumerate([residual**2, *gradients]):
                sums[number] += weight * term.mean().item() / (2 * FRAMES)
    return sums[0], sums[1], sums[2], sums[3]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("weighting", ["middle", "none"])
def test_loss_and_gradient_are_those_derived_by_hand(weighting: str, forced: bool, kind: torch.dtype) -> None:
    method = make(weighting=weighting, teacher_forcing=forced)
    method.student.transformer.to(kind)
    method.cuda_generator.manual_seed(5)
    loss_map, outputs, _ = method.single_train_step(batch(kind), 1)
    method.backward(loss_map, outputs, grad_accum_rounds=2)
    loss, da, db, dc = by_hand(kind, 0, 1000, weighting == "middle", forced)
    line: Any = method.student.transformer
    tolerance = 1e-6 if kind == torch.float32 else 1e-12
    assert loss_map["total_loss"].item() == pytest.approx(loss, rel=tolerance)
    assert line.a.grad.item() == pytest.approx(da / 2, rel=tolerance)
    assert line.b.grad.item() == pytest.approx(db / 2, rel=tolerance)
    if forced:
        assert line.c.grad.item() == pytest.approx(dc / 2, rel=tolerance)
    else:
        assert line.c.grad is None


@pytest.mark.parametrize("forced", [False, True])
def test_a_step_leaves_the_generator_where_its_documented_draws_end(forced: bool) -> None:
    method = make(teacher_forcing=forced, index_range=(20, 980))
    method.cuda_generator.manual_seed(5)
    before, shared = torch.get_rng_state(), method.shared_generator.get_state()
    method.single_train_step(batch(), 1)
    _, _, expected = drawn(torch.float64, 20, 980)
    assert method.cuda_generator.get_state().equal(expected.get_state())
    assert torch.get_rng_state().equal(before) and method.shared_generator.get_state().equal(shared)


def test_frames_of_a_block_share_a_noise_level_and_blocks_do_not() -> None:
    method = make()
    method.cuda_generator.manual_seed(5)
    method.single_train_step(batch(), 1)
    _, entries, _ = drawn(torch.float64, 0, 1000)
    student: Any = method.student
    wanted = [[float(method.schedule.timesteps[entries[b, block]]) for _, block in BLOCKS] for b in range(2)]
    assert student.seen.tolist() == wanted and len({level for row in wanted for level in row}) == 6


def test_noise_levels_come_from_the_range_that_was_asked_for() -> None:
    method = make(index_range=(300, 303))
    method.cuda_generator.manual_seed(0)
    assert set(method.schedule.index(method.draw_timesteps(50, 4)).flatten().tolist()) == {300, 301, 302}


def test_the_method_is_found_by_its_kind() -> None:
    assert method_class("dfsft") is DiffusionForcingSFTMethod


# --- what is refused


@pytest.mark.parametrize("bad", [{"index_range": (5, 5)}, {"index_range": (0, 1001)}, {"chunk_size": 0}, {"weighting": "bell"}])
def test_a_value_that_means_nothing_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(bad)


def test_a_chunk_of_another_size_than_the_mask_is_told_before_anything_starts() -> None:
    train = config(chunk_size=3)
    (problem,) = train.method.problems(train)
    assert problem.path == ("method", "chunk_size") and "3 is not the student's num_frames_per_block 2" in problem.message
    with pytest.raises(UserError, match="chunk_size 3"):
        DiffusionForcingSFTMethod(train, {"student": LineModel()})
    equal = config(chunk_size=PER_BLOCK)
    assert equal.method.problems(equal) == []


def test_a_student_without_blocks_is_refused_with_the_family_to_use() -> None:
    train = config(student={"family": "wan", "init_from": "x"})
    (problem,) = train.method.problems(train)
    assert problem.path == ("models", "student", "family") and "causal-wan" in problem.hint
    with pytest.raises(UserError, match="block-causal"):
        DiffusionForcingSFTMethod(train, {"student": Bidirectional()})


# --- whole runs


def run_config(data: Path, **changes: Any) -> dict[str, Any]:
    student = {"family": "causal-wan", "num_frames_per_block": 1, "architecture": ARCHITECTURE, "activation_checkpointing": "full"}
    method = {"kind": "dfsft", "teacher_forcing": True}
    return tiny(data, **{"method": method, "models__student": student, "max_steps": 3, **changes})


def test_two_ranks_give_the_losses_of_one(runs: Any, data: Path, tmp_path: Path) -> None:
    one = losses(runs.finish(run_config(data), tmp_path / "one"))
    two = losses(runs.finish(run_config(data), tmp_path / "two", world=2))
    assert two == pytest.approx(one, rel=1e-6) and len(one) == 3 and len(set(one)) == 3


def test_a_wrong_chunk_ends_a_run_with_what_to_change(runs: Any, data: Path, tmp_path: Path) -> None:
    started = runs.start(run_config(data, method__chunk_size=3), tmp_path / "run")
    assert started.join() == [76]
    assert "num_frames_per_block 1" in started.log() and "Traceback" not in started.log()
