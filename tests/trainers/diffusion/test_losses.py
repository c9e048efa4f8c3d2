"""Promises of the losses: the formulas, in float32 at least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.diffusion import losses


def test_velocity_loss_by_hand() -> None:
    velocity, noise, clean = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])
    assert losses.velocity_loss(velocity, noise, clean).item() == ((1 - 2) ** 2 + (2 + 1) ** 2) / 2


def test_clean_loss_by_hand() -> None:
    assert losses.clean_loss(torch.tensor([1.0, 5.0]), torch.tensor([0.0, 2.0])).item() == (1 + 9) / 2


def test_bfloat16_is_widened_before_it_is_squared_and_float64_is_kept() -> None:
    value = torch.tensor([1.0078125], dtype=torch.bfloat16)  # its square takes more bits than bfloat16 has
    zero = torch.zeros(1)
    assert losses.velocity_loss(value, zero, zero).item() == 1.0078125**2
    assert losses.clean_loss(value.double(), zero.double()).dtype == torch.float64


def test_a_weight_multiplies_the_mean_of_its_frame_or_of_its_sample() -> None:
    clean = torch.zeros(2, 2, 1, 1, 2)
    predicted = torch.tensor([1.0, 3.0, 2.0, 2.0, 0.0, 0.0, 5.0, 1.0]).reshape(clean.shape)
    means = [5.0, 4.0, 0.0, 13.0]  # of the squares, frame by frame
    by_frame = torch.tensor([[1.0, 2.0], [3.0, 0.5]])
    assert losses.clean_loss(predicted, clean, by_frame).item() == (means[0] + 2 * means[1] + 3 * means[2] + 0.5 * means[3]) / 4
    by_sample = torch.tensor([2.0, 10.0])
    assert losses.clean_loss(predicted, clean, by_sample).item() == (2 * (5 + 4) / 2 + 10 * (0 + 13) / 2) / 2


def test_a_weight_of_one_changes_nothing() -> None:
    velocity, noise, clean = torch.randn(3, 2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    plain, weighted = losses.velocity_loss(velocity, noise, clean), losses.velocity_loss(velocity, noise, clean, torch.ones(2, 3))
    torch.testing.assert_close(weighted, plain, rtol=1e-6, atol=0)


def velocity(v: Tensor, weights: Tensor | None) -> Tensor:
    return losses.velocity_loss(v, NOISE.to(v.dtype), CLEAN.to(v.dtype), weights)


def clean(v: Tensor, weights: Tensor | None) -> Tensor:
    return losses.clean_loss(v, CLEAN.to(v.dtype), weights)


VALUES, NOISE, CLEAN = torch.randn(3, 2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WEIGHTS = torch.rand(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize(("loss", "target"), [(velocity, NOISE - CLEAN), (clean, CLEAN)])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_loss_and_gradient_are_those_derived_by_hand(
    loss: Callable[[Tensor, Any], Tensor], target: Tensor, weights: Tensor | None, kind: torch.dtype
) -> None:
    """L = sum_n w_n r_n^2 / N with r = prediction - target, so dL/dprediction_n = 2 w_n r_n / N."""
    prediction = VALUES.to(kind, copy=True).requires_grad_()
    found = loss(prediction, None if weights is None else weights.to(kind))
    found.backward()
    residual = VALUES - target
    each = 1.0 if weights is None else weights[:, :, None, None, None]
    tolerance = 1e-6 if kind == torch.float32 else 1e-13
    assert found.item() == pytest.approx((each * residual**2).sum().item() / residual.numel(), rel=tolerance)
    assert prediction.grad is not None
    torch.testing.assert_close(prediction.grad.double(), 2 * each * residual / residual.numel(), rtol=0, atol=tolerance)
