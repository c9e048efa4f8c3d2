"""Owns whether this card computes as the trainers set it: kernels of attention against plain torch in float32 by the self-test that a run
makes, float32 without TF32, an allocator whose segments grow. And how fast a layer's video sparse attention is.

Must not build networks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from tests.benchmarks.cuda_checks import release
from tests.benchmarks.cuda_rows import Check, checked
from trainers.distributed import devices
from trainers.models.attention import block_causal, kernel_packages, masks, sparse_gpu

_HEADS, _TILE = (64, 128), 64
_EXACT = 1e-5
"""Relative error of a float32 product of this size; with TF32's 10 bits it is 3e-4."""


def settings(device: torch.device) -> list[Check]:
    """Check what `devices.choose` has set, by what the device then computes and takes."""
    return [
        checked("float32 products are float32", f"{_EXACT:.0e}", lambda: _error(device, _product)),
        checked("float32 convolutions are float32", f"{_EXACT:.0e}", lambda: _error(device, _convolution)),
        checked("the allocator's segments grow", "True", lambda: _segments(device)),
    ]


def _error(device: torch.device, of: Callable[[Tensor], Tensor]) -> tuple[str, bool]:
    drawn = torch.randn(2, 16, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = of(drawn.double())
    error = float((of(drawn.to(device)).cpu().double() - expected).norm() / expected.norm())
    return f"{error:.1e}", error <= _EXACT


def _product(drawn: Tensor) -> Tensor:
    flat = drawn.reshape(256, -1)
    return flat @ flat.mT


def _convolution(drawn: Tensor) -> Tensor:
    """As Wan's embedding of patches."""
    weight = torch.randn(64, 16, 1, 2, 2, generator=torch.Generator().manual_seed(1)).to(drawn)
    return torch.nn.functional.conv3d(drawn, weight, stride=(1, 2, 2))


def _segments(device: torch.device) -> tuple[str, bool]:
    if device.type != "cuda":
        return "no GPU", True
    found = devices._expandable_segments(device)
    return str(found), found is True


def kernels(device: torch.device) -> list[Check]:
    """Try each kernel as a run tries it before it is taken."""
    found = []
    for head_dim in _HEADS if device.type == "cuda" else _HEADS[:1]:
        of_flex = partial(masks.tried, block_causal.attend, device, torch.bfloat16, head_dim)
        found.append(_tried(f"block-causal by flex_attention, heads of {head_dim}", of_flex, device))
        of_tiles = partial(sparse_gpu.tried, sparse_gpu.attend_flex, device, torch.bfloat16, _TILE, head_dim)
        found.append(_tried(f"video sparse attention by flex_attention, heads of {head_dim}", of_tiles, device))
        kernel, why = kernel_packages.found()
        if kernel is not None:
            of_package = partial(sparse_gpu.tried, sparse_gpu.attend_kernel, device, torch.bfloat16, _TILE, head_dim)
            found.append(_tried(f"video sparse attention by a package, heads of {head_dim}", of_package, device))
        elif why:
            found.append(Check(f"the packages' kernels, heads of {head_dim}", why, "refused where known to be wrong", True))
    return found


def _tried(name: str, of: Callable[[], str], device: torch.device) -> Check:
    def make() -> tuple[str, bool]:
        if device.type != "cuda":
            return "not tried: no GPU", True
        wrong = of()
        return wrong or "right", not wrong

    try:
        return checked(f"{name}: output and gradients, q and k at 1, 4 and 16 times", "2 roundings", make)
    finally:
        release()
