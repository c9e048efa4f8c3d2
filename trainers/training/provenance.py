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
from ..config.attention import SparseAttention
from ..distributed.mesh import ParallelContext
from ..models.attention import kernel_packages


def numerics(parallel: ParallelContext, config: TrainConfig | None = None) -> dict[str, Any]:
    """Return everything outside of the configuration that numbers depend on: a resume is bitwise only where all of it is equal.

    Packages with kernels count where the configuration has a network that may use them, on a GPU.
    """
    on_gpu = parallel.device.type == "cuda"
    sparse = config is not None and any(isinstance(getattr(m, "attention", None), SparseAttention) for m in config.models.values())
    kernels = kernel_packages.versions() if on_gpu and sparse else {}
    device = torch.cuda.get_device_name(parallel.device) if on_gpu else platform.machine()
    return {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": device,
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__, **kernels},
    }


def config_digest(config: TrainConfig) -> str:
    """Return a digest of the whole configuration, defaults included."""
    return hashlib.sha256(json.dumps(config.resolved(), sort_keys=True).encode()).hexdigest()
