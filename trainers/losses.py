"""Owns the losses, as pure functions. Must not import anything of ours, nor know where samples come from.

All are computed in float32 at least, whatever the network's compute type. Latents are [B, T, C, H, W]; weights, where there are
any, are [B] or [B, T] and multiply the mean over the rest of the dimensions before the mean over these.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def velocity_loss(velocity: Tensor, noise: Tensor, clean: Tensor, weights: Tensor | None = None) -> Tensor:
    """mean((v - (eps - x0))^2) over everything."""
    return _mean_square(wide(velocity) - (wide(noise) - wide(clean)), weights)


def clean_loss(predicted: Tensor, clean: Tensor, weights: Tensor | None = None) -> Tensor:
    """mean((x0_predicted - x0)^2) over everything."""
    return _mean_square(wide(predicted) - wide(clean), weights)


def _mean_square(difference: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return difference.square().mean()
    return (difference.square().flatten(weights.ndim).mean(-1) * weights.to(difference.dtype)).mean()
