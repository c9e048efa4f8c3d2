"""Owns the losses, as pure functions. Must not import anything of ours, nor know where samples come from.

All are computed in float32 at least, whatever the network's compute type.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def velocity_loss(velocity: Tensor, noise: Tensor, clean: Tensor) -> Tensor:
    """mean((v - (eps - x0))^2) over everything."""
    return (wide(velocity) - (wide(noise) - wide(clean))).square().mean()


def clean_loss(predicted: Tensor, clean: Tensor) -> Tensor:
    """mean((x0_predicted - x0)^2) over everything."""
    return (wide(predicted) - wide(clean)).square().mean()
