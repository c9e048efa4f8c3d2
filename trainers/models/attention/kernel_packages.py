"""Owns which packages bring kernels of block-sparse attention, and which of their versions compute wrong gradients. Must not import a
package where there is no GPU: both look for one as soon as they are imported.

The Triton kernels of all vsa up to 0.0.5, and of fastvideo-kernel before 0.3.4, multiply the keys by the scale and round them to bfloat16
before the backward pass computes the scores again (FastVideo's pull request 1730): gradients are wrong, the more so the larger the
activations, and nothing says so. On Hopper cards (H100, H200) both packages use kernels of their own in CUDA, which are right.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import torch

from ...errors import first_line

Kernel = Callable[..., Any]
"""block_sparse_attn(query, key, value [B, heads, S, D], map [B, heads, N, N] bool, tokens of each tile [N]) -> (output, ...)"""
HINT = "install fastvideo-kernel 0.3.4 or newer for this GPU; or backend: auto, which takes another"


@dataclass(frozen=True)
class Package:
    """A package with kernels. Versions from `right_from` on are right on every card; None: no version is."""

    distribution: str
    module: str
    right_from: tuple[int, ...] | None
    hopper_kernels: Callable[[], bool]
    """Whether it would use kernels in CUDA on a Hopper card; elsewhere it uses Triton's."""

    def why_wrong(self, version: str) -> str:
        """Return why a version must not be used on this card; "" where nothing is known against it."""
        number = re.match(r"v?(\d+(?:\.\d+)*)", version)  # of 0.3.3+cu128 and 0.3.3.post1 as well; of 0.3.4rc1, the one after
        if number is None or (self.right_from is not None and tuple(map(int, number[1].split("."))) >= self.right_from):
            return ""
        if _is_hopper() and self.hopper_kernels():
            return ""
        return (
            f"{self.distribution} {version} gives wrong gradients on {_card()}: "
            "its Triton backward pass rounds scaled keys to bfloat16 (FastVideo PR #1730)"
        )


def _is_hopper() -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(0) == (9, 0)


def _card() -> str:
    return f"{torch.cuda.get_device_name(0)} (compute capability {'.'.join(map(str, torch.cuda.get_device_capability(0)))})"


def _fastvideo_kernel_has_its_own() -> bool:
    """Return whether fastvideo-kernel was built with its kernels for Hopper, and no variable makes it use Triton's in their place."""
    if "1" in (os.environ.get("FASTVIDEO_VSA_TRITON"), os.environ.get("FASTVIDEO_KERNEL_VSA_FORCE_TRITON")):
        return False
    try:
        built = importlib.import_module("fastvideo_kernel._C.fastvideo_kernel_ops")
    except Exception:  # a package that was built for another machine may raise anything
        return False
    return hasattr(built, "block_sparse_fwd") and hasattr(built, "block_sparse_bwd")


PACKAGES = (
    Package("fastvideo-kernel", "fastvideo_kernel.block_sparse_attn", (0, 3, 4), _fastvideo_kernel_has_its_own),
    Package("vsa", "vsa", None, lambda: True),
)
"""Newest first."""


@cache
def found() -> tuple[Kernel | None, str]:
    """Return (the first package's kernel that may be used here, ""), or (None, why those that are installed may not; "" where none is)."""
    if not torch.cuda.is_available():
        return None, ""
    refused = []
    for package in PACKAGES:
        version = _installed(package.distribution)
        if wrong := package.why_wrong(version):
            refused.append(wrong)
            continue
        try:
            return importlib.import_module(package.module).block_sparse_attn, ""
        except Exception as error:  # a package that was built for another machine may raise anything
            if version:
                refused.append(f"{package.distribution} {version} cannot be imported ({type(error).__name__}: {first_line(error)})")
    return None, "; ".join(refused)


def versions() -> dict[str, str]:
    """Return the installed packages' versions, whether they may be used here or not."""
    found = {package.distribution: _installed(package.distribution) for package in PACKAGES}
    return {name: version for name, version in found.items() if version}


def _installed(distribution: str) -> str:
    """Return the installed version; "" where it is not installed, or its version is not recorded: then only its results tell."""
    try:
        return metadata.version(distribution) or ""
    except metadata.PackageNotFoundError:
        return ""
