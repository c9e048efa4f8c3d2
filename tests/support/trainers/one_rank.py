"""Networks in a role on a world of one, for the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from tests.support.trainers.trainer_ranks import ARCHITECTURE
from trainers.config.models.wan import Config
from trainers.distributed.mesh import ParallelContext
from trainers.models.wan import Wan


@contextmanager
def one_rank() -> Iterator[ParallelContext]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1, 1, 1), mesh_dim_names=("replicate", "shard", "sequence"))
        yield ParallelContext(torch.device("cpu"), 0, 1, mesh, dist.new_group(backend="gloo"))
    finally:
        dist.destroy_process_group()


def wan(
    parallel: ParallelContext,
    *,
    precision: str = "fp32",
    seed: int = 1,
    role: str = "student",
    trainable: bool = True,
    load_weights: bool = True,
    **config: Any,
) -> Wan:
    """`config`: the model's section; without one, a small random network."""
    if "init_from" not in config:
        config = {"architecture": ARCHITECTURE, **config}
    made = Config.model_validate(config)
    return Wan(made, role, trainable=trainable, precision=precision, seed=seed, parallel=parallel, load_weights=load_weights)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """(noisy [2, 3, 4, 4, 4], timesteps [2], prompt [2, 6, 16]) for ARCHITECTURE."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, 4, 4, generator=generator), torch.tensor([937.5, 12.25]), torch.randn(2, 6, 16, generator=generator)
