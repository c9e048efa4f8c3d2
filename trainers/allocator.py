"""Owns the default of torch's allocator on GPUs: segments that grow. Must not import torch, which reads this with its first allocation.

Without them what the allocator takes from a GPU is 10 to 50% more than what lies in it, since a step's tensors of many sizes leave holes.
A setting of the person's own is never changed.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

NAME = "PYTORCH_CUDA_ALLOC_CONF"
"""The variable that all versions read; by its newer name PYTORCH_ALLOC_CONF some (2.9) take no expandable_segments, and do not say so."""
NAMES = ("PYTORCH_ALLOC_CONF", NAME, "PYTORCH_HIP_ALLOC_CONF")
EXPANDABLE = "expandable_segments:True"


def prefer_expandable_segments(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the default, unless the person has set any of the variables, or the CPU is meant."""
    if environment.get("TRAINER_GPUS") != "0" and not any(name in environment for name in NAMES):
        environment[NAME] = EXPANDABLE


def told(expandable: bool | None, version: str, environment: MutableMapping[str, str] = os.environ) -> tuple[str, bool]:
    """Return (what to say of the allocator, whether it is a warning). `expandable`: what torch's allocator says of itself, if anything."""
    setting = next((f"{name}={environment[name]}" for name in NAMES if name in environment), "torch's defaults")
    asks = "expandable_segments:true" in setting.lower()
    if asks and expandable is False:
        why = "this GPU or driver has no expandable segments" if NAME in setting else f"set {NAME} in its place"
        return f"torch {version} does not follow {setting}: {why}", True
    return f"memory of the GPU is allocated by {setting}{'' if asks else ', without expandable segments'}", False
