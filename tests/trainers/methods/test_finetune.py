"""Promises of the finetune step: its loss and gradient derived by hand, and what it draws in which order."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.trainers.formula_network import FormulaModel
from trainers.config import TrainConfig
from trainers.methods import method_class
from trainers.methods.base import TrainingMethod
from trainers.methods.finetune import FineTuneMethod, mode_sampled

SHIFT = 3.0


class Line(nn.Module):
    """v = a * x_t + b."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(-0.2, dtype=torch.float64))


class LineModel(FormulaModel):
    def __init__(self) -> None:
        super().__init__(Line())

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


def drawn_u(scheme: str, generator: torch.Generator) -> Tensor:
    """[B]: U(0, 1); the logistic function of N(0.3, 0.8); or 1 - u - 1.2 (cos^2(pi u / 2) - 1 + u)."""
    if scheme == "logit_normal":
        return 1 / (1 + torch.exp(-(0.3 + 0.8 * torch.randn(2, generator=generator).double())))
    u = torch.rand(2, generator=generator).double()
    return 1 - u - 1.2 * (torch.cos(torch.pi * u / 2) ** 2 - 1 + u) if scheme == "mode" else u


def by_hand(latents: Tensor, scheme: str, precondition: bool, kind: torch.dtype = torch.float64) -> tuple[float, float, float]:
    """(loss, dL/da, dL/db) from the documented draws: noise [B, C, T, H, W], then u [B]; sigma = S((1000 - floor(1000 u)) / 1000)."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(2, 4, 3, 2, 2, generator=generator, dtype=kind).double().permute(0, 2, 1, 3, 4)
    share = (1000 - (1000 * drawn_u(scheme, generator)).floor()) / 1000
    sigma = (SHIFT * share / (1 + (SHIFT - 1) * share)).reshape(2, 1, 1, 1, 1)
    noisy = (1 - sigma) * latents + sigma * noise
    velocity = 0.7 * noisy - 0.2
    if precondition:  # residual x_t - sigma v - z, so d/da = -sigma x_t
        residual, da, db = noisy - sigma * velocity - latents, -sigma * noisy, -sigma.expand_as(noisy)
    else:
        residual, da, db = velocity - (noise - latents), noisy, torch.ones_like(noisy)
    return residual.square().mean().item(), (2 * residual * da).mean().item(), (2 * residual * db).mean().item()


SCHEMES = {"uniform": {}, "logit_normal": {"logit_mean": 0.3, "logit_std": 0.8}, "mode": {"mode_scale": 1.2}}


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("precondition", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_loss_and_gradient_are_those_derived_by_hand(scheme: str, precondition: bool, kind: torch.dtype) -> None:
    method, data = make(weighting_scheme=scheme, precondition_outputs=precondition, **SCHEMES[scheme]), batch()
    method.student.transformer.to(kind)
    method.cuda_generator.manual_seed(5)
    loss_map, outputs, _ = method.single_train_step({**data, "latents": data["latents"].to(kind)}, 1)
    method.backward(loss_map, outputs, grad_accum_rounds=4)
    loss, da, db = by_hand(data["latents"], scheme, precondition, kind)
    line: Any = method.student.transformer
    tolerance = 1e-6 if kind == torch.float32 else 1e-12
    assert loss_map["total_loss"].item() == pytest.approx(loss, rel=tolerance)
    assert line.a.grad.item() == pytest.approx(da / 4, rel=tolerance)
    assert line.b.grad.item() == pytest.approx(db / 4, rel=tolerance)


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
    assert method.draw_timesteps(1, 3).item() == pytest.approx(1000 * SHIFT * 0.001 / (1 + (SHIFT - 1) * 0.001))
    monkeypatch.setattr(method, "_draw_u", lambda count: torch.zeros(count))
    assert method.draw_timesteps(2, 3).tolist() == [1000.0, 1000.0]


def test_mode_sampling_by_hand() -> None:
    assert mode_sampled(torch.tensor([0.0, 1.0]), 1.29).tolist() == [1.0, 0.0]
    assert mode_sampled(torch.tensor(0.5), 1.29).item() == pytest.approx(0.5)  # cos^2(pi/4) = 1/2
    assert mode_sampled(torch.tensor(1 / 3), 1.0).item() == pytest.approx(1 - 1 / 3 - (3 / 4 - 1 + 1 / 3))  # cos^2(pi/6) = 3/4


@pytest.mark.parametrize("scale", [-1.0, 1.75])
def test_mode_sampling_covers_the_whole_range_once_at_its_bounds(scale: float) -> None:
    found = mode_sampled(torch.linspace(0, 1, 1001, dtype=torch.float64), scale)
    assert found[0] == 1.0 and found[-1] == 0.0 and (found.diff() <= 1e-12).all()


@pytest.mark.parametrize(
    ("scheme", "low", "high"),
    [
        ("uniform", 0.25, 0.75),
        ("logit_normal", 1 / (1 + math.exp(0.6744898 * 0.8 - 0.3)), 1 / (1 + math.exp(-0.6744898 * 0.8 - 0.3))),
        ("mode", 1 - 0.75 - 1.2 * (math.cos(math.pi * 0.375) ** 2 - 0.25), 1 - 0.25 - 1.2 * (math.cos(math.pi * 0.125) ** 2 - 0.75)),
    ],
)
def test_quartiles_of_the_weighting_schemes_are_those_of_their_formulas(scheme: str, low: float, high: float) -> None:
    method = make(weighting_scheme=scheme, **SCHEMES[scheme])
    method.cuda_generator.manual_seed(0)
    entries = method.schedule.index(method.draw_timesteps(4000, 1)).double() / 1000
    found = entries.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64))
    assert found.tolist() == pytest.approx([low, high], abs=0.025)


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
    assert method.stepped_parts(1) == ["student"]
    assert len(method.get_optimizers(1)) == len(method.get_lr_schedulers(1)) == 1
