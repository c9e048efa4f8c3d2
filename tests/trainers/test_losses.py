"""Promises of the losses: the formulas, in float32 at least."""

from __future__ import annotations

import torch

from trainers import losses


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
