"""Promises of the finetune step: its loss and gradient derived by hand, and what it draws in which order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.config import TrainConfig
from trainers.methods import method_class
from trainers.methods.base import TrainingMethod
from trainers.methods.finetune import FineTuneMethod, mode_sampled
from trainers.models.base import ModelBase

SHIFT = 3.0


class Line(nn.Module):
    """v = a * x_t + b."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(-0.2, dtype=torch.float64))


class LineModel(ModelBase):
    def __init__(self) -> None:
        self.transformer, self.device, self.role, self.trainable = Line(), torch.device("cpu"), "student", True

    def build(self) -> nn.Module: ...
    def blocks(self) -> Iterable[nn.Module]: ...
    def restore_buffers(self) -> None: ...
    def load_weights(self) -> None: ...

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        self.seen = noisy, timesteps
        return self.transformer.a * noisy + self.transformer.b  # type: ignore[operator]


def make(**method: Any) -> FineTuneMethod:
    config = TrainConfig.model_validate(
        {
            "max_steps": 1,
            "flow_shift": SHIFT,
            "method": {"kind": "finetune", **method},
            "models": {"student": {"init_from": "x"}},
            "data": {"path": "x", "global_batch_size": 2},
            "optimizers": {"student": {"kind": "adamw", "lr": 1e-3}},
        }
    )
    return FineTuneMethod(config, {"student": LineModel()})


def batch() -> dict[str, Tensor]:
    latents = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"latents": latents, "prompt": torch.zeros(2, 5, 8)}


def by_hand(latents: Tensor, precondition: bool) -> tuple[float, float, float]:
    """(loss, dL/da, dL/db) from the documented draws: noise [B, C, T, H, W], then u [B]; sigma = S((1000 - floor(1000 u)) / 1000)."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(2, 4, 3, 2, 2, generator=generator, dtype=torch.float64).permute(0, 2, 1, 3, 4)
    share = (1000 - (1000 * torch.rand(2, generator=generator)).floor().double()) / 1000
    sigma = (SHIFT * share / (1 + (SHIFT - 1) * share)).reshape(2, 1, 1, 1, 1)
    noisy = (1 - sigma) * latents + sigma * noise
    velocity = 0.7 * noisy - 0.2
    if precondition:  # residual x_t - sigma v - z, so d/da = -sigma x_t
        residual, da, db = noisy - sigma * velocity - latents, -sigma * noisy, -sigma.expand_as(noisy)
    else:
        residual, da, db = velocity - (noise - latents), noisy, torch.ones_like(noisy)
    return residual.square().mean().item(), (2 * residual * da).mean().item(), (2 * residual * db).mean().item()


@pytest.mark.parametrize("precondition", [False, True])
@pytest.mark.parametrize("rounds", [1, 4])
def test_loss_and_gradient_are_those_derived_by_hand(precondition: bool, rounds: int) -> None:
    method, data = make(precondition_outputs=precondition), batch()
    method.cuda_generator.manual_seed(5)
    loss_map, outputs, _ = method.single_train_step(data, 1)
    method.backward(loss_map, outputs, grad_accum_rounds=rounds)
    loss, da, db = by_hand(data["latents"], precondition)
    line: Any = method.student.transformer
    assert loss_map["total_loss"].item() == pytest.approx(loss, rel=1e-12)
    assert line.a.grad.item() == pytest.approx(da / rounds, rel=1e-12)
    assert line.b.grad.item() == pytest.approx(db / rounds, rel=1e-12)


@pytest.mark.parametrize("scheme", ["uniform", "logit_normal", "mode"])
def test_a_step_leaves_the_generator_where_its_documented_draws_end(scheme: str) -> None:
    method = make(weighting_scheme=scheme)
    method.cuda_generator.manual_seed(5)
    before = torch.get_rng_state()
    method.single_train_step(batch(), 1)
    expected = torch.Generator().manual_seed(5)
    torch.randn(2, 4, 3, 2, 2, generator=expected, dtype=torch.float64)
    (torch.randn if scheme == "logit_normal" else torch.rand)(2, generator=expected)
    assert method.cuda_generator.get_state().equal(expected.get_state())
    assert torch.get_rng_state().equal(before)


def test_u_of_zero_is_pure_noise_and_the_largest_u_stays_in_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(weighting_scheme="logit_normal", logit_mean=1e3)  # sigmoid gives exactly 1
    assert method.draw_timesteps(1).item() == pytest.approx(1000 * SHIFT * 0.001 / (1 + (SHIFT - 1) * 0.001))
    monkeypatch.setattr(method, "_draw_u", lambda count: torch.zeros(count))
    assert method.draw_timesteps(2).tolist() == [1000.0, 1000.0]


def test_mode_sampling_by_hand() -> None:
    assert mode_sampled(torch.tensor([0.0, 1.0]), 1.29).tolist() == [1.0, 0.0]
    assert mode_sampled(torch.tensor(0.5), 1.29).item() == pytest.approx(0.5)  # cos^2(pi/4) = 1/2
    assert mode_sampled(torch.tensor(1 / 3), 1.0).item() == pytest.approx(1 - 1 / 3 - (3 / 4 - 1 + 1 / 3))  # cos^2(pi/6) = 3/4


def test_a_method_is_found_by_its_kind_and_in_a_file_of_the_users(tmp_path: Any) -> None:
    from trainers.errors import UserError

    assert method_class("finetune") is FineTuneMethod
    own = tmp_path / "mine.py"
    own.write_text("from trainers.methods.finetune import FineTuneMethod\n\n\nclass Mine(FineTuneMethod):\n    pass\n")
    assert issubclass(method_class(f"{own}:Mine"), TrainingMethod)
    with pytest.raises(UserError, match="no class Other"):
        method_class(f"{own}:Other")
    with pytest.raises(UserError, match="no Python file"):
        method_class(f"{tmp_path}/none.py:Mine")


def test_only_the_student_is_clipped_stepped_and_scheduled() -> None:
    method = make()
    assert list(method.get_grad_clip_targets(1)) == ["student"]
    assert method.stepped_roles(1) == ["student"]
    assert len(method.get_optimizers(1)) == len(method.get_lr_schedulers(1)) == 1
