"""Owns the comparison of a GPU's attention kernels with plain torch in float32, at the start of a run: output and gradients of queries,
keys and values, at activations of three sizes.

Must not know packages or networks. A kernel whose forward pass is right may have wrong gradients that show only where activations are
large, as in trained networks; training then goes wrong with nothing to see but its loss.

How far a right kernel may be from float32 is derived and not guessed: it rounds to its type the weights (of softmax), the output, the
gradients of the scores and the results, each by at most half a unit in the last place (2^-8 of a value, in bfloat16), and these errors
are independent. Their sum's root mean square, were each rounding as wrong as it can be, is the unit in which errors are counted here, tile
by tile; what rounds to nearest stays below one. TOLERATED of them are borne.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UserError, first_line

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""query, key, value -> output, [B, heads, S, head dim] each"""
SCALES = (1, 4, 16)
"""What queries and keys are multiplied by, from a standard normal distribution."""
TOLERATED = 2.0
_NAMES = ("the output", "dq", "dk", "dv")


@dataclass(frozen=True)
class Trial:
    """What a kernel is tried on."""

    reference: Attend
    """The same attention in plain torch; it is given float32."""
    mask: Tensor
    """[B, heads, S, S] bool: row attends to column."""
    head_dim: int
    tile: int
    """Tokens in a row that are compared by themselves: S is a multiple of it."""
    real: Tensor
    """[S] bool: which are tokens and not padding. What becomes of padding does not count."""


def plain(mask: Tensor) -> Attend:
    """Return attention under a mask by its formula, with the whole matrix of scores."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = (query @ key.mT * query.shape[-1] ** -0.5).masked_fill(~mask, -torch.inf)
        return scores.softmax(-1) @ value

    return attend


@torch.inference_mode(False)
@torch.enable_grad()
def fault(candidate: Attend, trial: Trial, dtype: torch.dtype) -> str:
    """Return in words how a kernel is wrong; "" where it is right. Waits for the device."""
    for scale in SCALES:
        parts, upstream = _inputs(trial, scale, dtype)
        expected = _with_gradients(trial.reference, [part.float() for part in parts], upstream.float())
        bounds = _tolerances(trial, [part.float() for part in parts], upstream.float(), expected, dtype)
        try:
            actual = _with_gradients(candidate, parts, upstream)
            _synchronise(upstream.device)
        except Exception as error:  # compilers and kernels raise what they like
            _end_if_unusable(upstream.device, error)
            return f"it fails with {type(error).__name__}: {first_line(error)}"
        if wrong := _worst(trial, actual, expected, bounds):
            return f"{wrong}, with queries and keys at {scale} times their usual size"
    return ""


def _inputs(trial: Trial, scale: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Return (query, key, value) and what comes back in the backward pass. Drawn on the CPU: the same on all machines."""
    generator = torch.Generator().manual_seed(scale)
    batch, heads, tokens = trial.mask.shape[:3]
    drawn = torch.randn(4, batch, heads, tokens, trial.head_dim, generator=generator).to(trial.mask.device)
    query, key, value, upstream = (drawn * trial.real[:, None]).unbind(0)
    return [(query * scale).to(dtype), (key * scale).to(dtype), value.to(dtype)], upstream.to(dtype)


def _with_gradients(attend: Attend, parts: list[Tensor], upstream: Tensor) -> list[Tensor]:
    leaves = [part.detach().clone().requires_grad_() for part in parts]
    output = attend(*leaves)
    return [part.float() for part in (output.detach(), *torch.autograd.grad(output, leaves, upstream))]


@torch.no_grad()
def _tolerances(trial: Trial, parts: list[Tensor], upstream: Tensor, expected: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the expected squares of errors of output, dq, dk and dv, each [B, heads, S, head dim], by the derivation above."""
    (query, key, value), (output, *gradients) = parts, expected
    unit, exact, scale = torch.finfo(dtype).eps / 2, torch.finfo(torch.float32).eps, trial.head_dim**-0.5
    scores = (query @ key.mT * scale).masked_fill(~trial.mask, -torch.inf)
    weights = scores.softmax(-1).nan_to_num()
    # of a weight, relative to it: its own rounding, and that of its score in float32
    of_weights = weights * (unit + exact * (query.abs() @ key.abs().mT) * scale)
    of_output = of_weights.square() @ value.square() + (unit * output).square()
    along = upstream @ value.mT - (upstream * output).sum(-1, keepdim=True)
    of_sums = (upstream.square() * of_output).sum(-1, keepdim=True)  # of the row's sum that the backward pass takes from the output
    of_scores = (of_weights * along).square() + (unit * weights * along).square()
    of_query = scale**2 * (of_scores @ key.square() + of_sums * (weights @ key).square())
    of_key = scale**2 * (of_scores + weights.square() * of_sums).mT @ query.square()
    of_value = of_weights.square().mT @ upstream.square()
    results = (of_query, of_key, of_value)
    return [of_output, *(squares + (unit * gradient).square() for squares, gradient in zip(results, gradients, strict=True))]


@torch.no_grad()
def _worst(trial: Trial, actual: list[Tensor], expected: list[Tensor], bounds: list[Tensor]) -> str:
    """Return which of output and gradients is wrong; "" where none is."""
    for name, ours, theirs, squares in zip(_NAMES, actual, expected, bounds, strict=True):
        found, borne = (_by_tile(part, trial).double().sqrt().flatten().cpu() for part in ((ours - theirs).square(), squares))
        if not found.isfinite().all():
            return f"{name} is not finite"
        if (worst := float(torch.where(found > 0, found / borne, 0.0).max())) > TOLERATED:
            return f"{name} is {worst:.3g} times as far from float32 as rounding explains ({TOLERATED:g} times are borne)"
    return ""


def _by_tile(values: Tensor, trial: Trial) -> Tensor:
    """Return the sums [B, heads, tiles] of the real tokens' values [B, heads, S, head dim]."""
    return values.masked_fill(~trial.real[:, None], 0.0).unflatten(2, (-1, trial.tile)).sum((3, 4))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _end_if_unusable(device: torch.device, error: Exception) -> None:
    """Raise UserError where a kernel has left the GPU so that nothing runs on it any more."""
    try:
        _synchronise(device)
    except Exception:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(
            f"attention: a kernel that was tried has left the GPU unusable ({what})",
            "attention.backend: gather for sparse attention, attention: dense for a block-causal network, until it is mended",
        ) from None
