"""Owns what a checkpoint records about how it was made, so that a resume can tell whether it will be bitwise.

Must not read or write checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import platform
from typing import Any

import diffusers
import torch

from ..config import TrainConfig
from ..distributed.mesh import ParallelContext


def numerics(parallel: ParallelContext) -> dict[str, Any]:
    """Return everything outside of the configuration that numbers depend on: a resume is bitwise only where all of it is equal."""
    device = torch.cuda.get_device_name(parallel.device) if parallel.device.type == "cuda" else platform.machine()
    return {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": device,
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
    }


def config_digest(config: TrainConfig) -> str:
    """Return a digest of the whole configuration, defaults included."""
    return hashlib.sha256(json.dumps(config.resolved(), sort_keys=True).encode()).hexdigest()
