"""Owns seeds: every random number of a run is a function of the run's seed and of what the number is for. Must not import other modules of
this package.

No generator state is carried from step to step, so a run that resumes draws what it would have drawn without the interruption, at any
world size.
"""

from __future__ import annotations

import hashlib
import os

import torch


def derived_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) for the purpose that `parts` name. A CPU generator uses its low 32 bits, a CUDA generator all of it."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_step(shared: torch.Generator, seed: int, step: int) -> None:
    """Seed the generator for draws of a step that all ranks must agree on."""
    shared.manual_seed(derived_seed("step", seed, step))


def seed_micro_batch(generator: torch.Generator, seed: int, step: int, index: int) -> None:
    """Seed the generators for one micro-batch. `index` counts the micro-batches of the whole global batch, so that the same samples meet
    the same noise at any world size.

    The global generators are seeded too: code that draws from them (dropout) is then as repeatable as the rest.
    """
    generator.manual_seed(derived_seed("micro-batch", seed, step, index))
    torch.manual_seed(derived_seed("global", seed, step, index))


def use_deterministic_kernels() -> None:
    """Make torch choose deterministic kernels. Call it before the first CUDA call: cuBLAS reads its workspace setting only then."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # filling costs a tenth of a step, and nothing here reads memory before writing it
    )
    torch.backends.cudnn.benchmark = False
