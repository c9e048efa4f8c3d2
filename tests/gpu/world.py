"""Owns a world of any size of which one rank is here: torch's fake process group in the place of NCCL and gloo, whose collectives leave
each rank with what it had. Must not know the trainers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore


@contextmanager
def first_rank_of(world_size: int) -> Iterator[None]:
    """Inside, whoever joins a process group is rank 0 of so many, whatever backend it names."""
    join, group = dist.init_process_group, dist.new_group

    def fake_join(*_backend: Any, **_options: Any) -> None:
        join("fake", store=FakeStore(), rank=0, world_size=world_size)

    def fake_group(ranks: list[int] | None = None, **_options: Any) -> Any:
        return group(ranks, backend="fake")

    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": "1"}
    with (
        mock.patch.dict(os.environ, variables),
        mock.patch.object(dist, "init_process_group", fake_join),
        mock.patch.object(dist, "new_group", fake_group),
    ):
        yield
