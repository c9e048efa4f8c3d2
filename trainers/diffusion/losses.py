"""Owns the losses, as pure functions. Must not import other modules of this package, nor know where samples come from.

All are computed in float32 at least, whatever the network's compute type. Latents are [B, T, C, H, W]; weights, where there are any, are
[B] or [B, T]: they multiply the mean over the other dimensions, before the mean over their own.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 at least."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def velocity_loss(velocity: Tensor, noise: Tensor, clean: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return mean((v - (eps - x0))^2) over everything."""
    return _mean_square(wide(velocity) - (wide(noise) - wide(clean)), weights)


def clean_loss(predicted: Tensor, clean: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return mean((x0_predicted - x0)^2) over everything."""
    return _mean_square(wide(predicted) - wide(clean), weights)


def regression_loss(predicted: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return 0.5 mean((x0_predicted - x0)^2) over everything: of a student's prediction against the end of its teacher's trajectory."""
    return 0.5 * clean_loss(predicted, target, weights)


def distribution_matching_loss(generated: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """Return 0.5 mean(g^2) with the gradient g / numel in `generated`, where g = (fake - real) / mean|generated - real| for each sample.

    `fake` and `real` are the critic's and the teacher's clean predictions of the noised `generated`, all [B, ...]; no gradient goes into
    them. It is 0.5 mse(G, stopgrad(G - g)) after DMD2 (arXiv 2405.14867), written out so that g is not rounded by adding it to G.
    """
    generated, fake, real = wide(generated), wide(fake).detach(), wide(real).detach()
    detached = generated.detach()
    scale = (detached - real).abs().flatten(1).mean(1).reshape(-1, *[1] * (real.ndim - 1))
    g = torch.nan_to_num((fake - real) / scale)
    return 0.5 * g.square().mean() + (g * (generated - detached)).mean()


def _mean_square(difference: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return difference.square().mean()
    return (difference.square().flatten(weights.ndim).mean(-1) * weights.to(difference.dtype)).mean()
