"""Owns which device a rank computes on, and that float32 there is float32. A GPU that the job was given and that torch cannot use is an
error, never a reason for the CPU.

A launcher says by TRAINER_GPUS how many GPUs this node's ranks were given (0: the CPU is meant, whatever is there). Without it a rank
takes a GPU where torch sees one, else the CPU, and says so.
"""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import torch

from .. import allocator
from ..config.counting import counted
from ..errors import NodeError, UserError, first_line

log = logging.getLogger(__name__)

_MEANT = "write `device: cpu` into the profile where the CPU is meant"


def choose() -> torch.device:
    """Return this rank's device, set as the current one. NodeError where this node lacks a GPU that it should have; UserError where
    torch could not use one on any node."""
    _compute_float32_exactly()
    given = os.environ.get("TRAINER_GPUS")
    if given == "0":
        return torch.device("cpu")
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if given is not None and seen < int(given):
        raise _missing(int(given), seen)
    if not seen:
        if os.environ.get("RANK", "0") == "0":
            log.warning("no GPU is seen by torch %s: this runs on the CPU", torch.__version__)
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % seen)
    try:
        torch.cuda.set_device(device)
    except RuntimeError as error:
        raise NodeError(f"the GPU {device.index} of this node cannot be used: {first_line(error)}") from None
    text, wrong = allocator.told(_expandable_segments(device), torch.__version__)
    if wrong or os.environ.get("RANK", "0") == "0":
        log.log(logging.WARNING if wrong else logging.INFO, text, extra={"reported": wrong})
    return device


def _expandable_segments(device: torch.device) -> bool | None:
    """Return whether the allocator's segments grow; None where this version of torch does not say."""
    try:
        torch.empty(1, device=device)  # it reads its settings with the first allocation
        settings: dict[str, Any] = torch.cuda.memory._snapshot()["allocator_settings"]
    except (AttributeError, KeyError, TypeError, RuntimeError):  # nothing public says it
        return None
    found = settings.get("expandable_segments")
    return found if isinstance(found, bool) else None


def _compute_float32_exactly() -> None:
    """Turn TF32 off, which keeps 10 of the 23 bits of what is multiplied: cuDNN's convolutions use it unless they are told otherwise (Wan's
    patch embedding and VAE are such), and products do where the environment says so (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, as in NVIDIA's
    images), also those that stay in float32 in bf16 runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch 2.9 points to settings that do not go together with those that it reads itself
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")


def _missing(given: int, seen: int) -> Exception:
    """Return what is wrong where fewer GPUs are seen than were given: with torch or the environment on every node alike, or here."""
    job = f"{counted(given, 'GPU')} {'was' if given == 1 else 'were'} given to this node's ranks"
    if torch.version.cuda is None and torch.version.hip is None:
        return UserError(
            f"{job}, and torch {torch.__version__} is built for the CPU alone", f"install a build of torch for these GPUs, or {_MEANT}"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return UserError(f"{job}, and CUDA_VISIBLE_DEVICES={visible!r} hides them", f"remove it from env and setup, or {_MEANT}")
    return NodeError(f"{job}, and torch {torch.__version__} sees {seen}{_why(seen)}")


def _why(seen: int) -> str:
    """Return what CUDA says of a node on which it sees nothing."""
    if seen:
        return ""
    try:
        torch.cuda.init()
    except Exception as error:  # RuntimeError, AssertionError, AcceleratorError: by version
        return f": {first_line(error)}"
    return ""
