"""Promises of Stager: training may go on at once, memory is taken once, and what the state no longer holds is let go."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.support.trainers.trainer_ranks import read, tiny
from trainers.checkpointing.staging import Stager


def state_of(weight: Tensor, **more: Any) -> dict[str, Any]:
    return {"roles": {"student": {"net": {"weight": weight}}}, "optimizers": [{"betas": (0.9, 0.95), "lr": 0.1}], **more}


def weight_in(staged: dict[str, Any]) -> Tensor:
    weight: Tensor = staged["roles"]["student"]["net"]["weight"]
    return weight


def test_a_staged_state_keeps_its_values_kinds_and_types_while_the_original_changes() -> None:
    weight = torch.nn.Parameter(torch.arange(6.0, dtype=torch.bfloat16).reshape(2, 3).t())
    original = state_of(weight, schedulers={"last_epoch": 3}, empty=torch.empty(0, 4))
    staged, _planner = Stager().stage(original)
    with torch.no_grad():
        weight.zero_()
    original["schedulers"]["last_epoch"] = 4
    original["optimizers"][0]["lr"] = 0.0
    assert weight_in(staged).tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert (weight_in(staged).dtype, weight_in(staged).requires_grad) == (torch.bfloat16, False)
    assert staged["optimizers"] == [{"betas": (0.9, 0.95), "lr": 0.1}]
    assert staged["schedulers"] == {"last_epoch": 3}
    assert staged["empty"].shape == (0, 4)


def test_the_next_state_is_staged_in_the_same_memory() -> None:
    stager = Stager()
    first = weight_in(stager.stage(state_of(torch.ones(5)))[0])
    second = weight_in(stager.stage(state_of(torch.full((5,), 2.0)))[0])
    assert second.data_ptr() == first.data_ptr()
    assert second.tolist() == [2.0] * 5


def test_a_tensor_of_another_shape_or_type_gets_memory_of_its_own() -> None:
    stager = Stager()
    stager.stage(state_of(torch.ones(5)))
    assert weight_in(stager.stage(state_of(torch.ones(2, 5)))[0]).tolist() == [[1.0] * 5] * 2
    assert weight_in(stager.stage(state_of(torch.ones(2, 5, dtype=torch.int64)))[0]).tolist() == [[1] * 5] * 2


def test_tensors_that_share_memory_are_staged_apart() -> None:
    whole = torch.arange(8.0)
    staged, _planner = Stager().stage({"first": whole[:4], "tied": {"again": whole[:4], "rest": whole[4:]}})
    whole.zero_()
    assert staged["first"].tolist() == staged["tied"]["again"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert staged["tied"]["rest"].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert staged["first"].untyped_storage().nbytes() == 4 * 4  # of the file too: a view would take its whole storage along


# --- several ranks that hold the same rows


def sharded_state(shapes: Iterable[tuple[int, ...]], replicate: int, shard: int) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (replicate, shard), mesh_dim_names=("replicate", "shard"))
    tensors = {f"weight{number}": DTensor.from_local(torch.full(shape, float(number)), mesh, [Replicate(), Shard(0)], run_check=False)
               for number, shape in enumerate(shapes)}  # fmt: skip
    return {"roles": {"student": tensors}, "optimizers": [{"lr": 0.1}, tensors["weight0"]], "plain": torch.ones(3)}


@pytest.mark.parametrize(("replicate", "shard"), [(8, 1), (2, 2), (1, 4), (3, 1)])
def test_ranks_that_hold_the_same_stage_and_write_a_share_each(replicate: int, shard: int) -> None:
    """Every rank in turn, in a world where nobody else is: what is staged follows from the state alone."""
    shapes = [(16, 8), (4, 4), (16, 8), (64, 8), (4,), (16, 8), (32, 4), (8, 8), (2, 2), (16, 8)]
    written: Counter[tuple[str, tuple[int, ...]]] = Counter()
    staged_bytes = []
    for rank in range(replicate * shard):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=replicate * shard)
        try:
            stager, state = Stager(), sharded_state(shapes, replicate, shard)
            copy, planner = stager.stage(state)
            planner.set_up_planner(copy, is_coordinator=rank == 0)
            items = [item for item in planner.create_local_plan().items if item.index.fqn.startswith("roles")]
            assert all(planner.lookup_object(item.index).unique().tolist() == [float(item.index.fqn[-1])] for item in items)
            written.update((item.index.fqn, tuple(item.index.offset)) for item in items)
            staged_bytes.append(sum(buffer.nbytes for buffer in stager._buffers.values()))
        finally:
            dist.destroy_process_group()
    assert set(written.values()) == {1} and len(written) == len(shapes) * shard
    whole, largest = sum(4 * math.prod(shape) for shape in shapes), 4 * 64 * 8
    twice = 4 * 16 * 8  # the tensor that the state holds in two places
    assert max(staged_bytes) <= whole / replicate + largest + twice + 4 * 3
    assert replicate > 1 or min(staged_bytes) >= whole


def test_a_checkpoint_of_ranks_that_hold_the_same_is_whole(runs: Any, data: Path, tmp_path: Path) -> None:
    """Written by two ranks without shards, it holds every value, and goes on as it would have on its own."""
    folders = {shard: runs.finish(tiny(data, parallel={"shard": shard}, max_steps=2), tmp_path / str(shard), world=2) for shard in (1, 2)}
    two, shards = (read(folder, 2) for folder in folders.values())
    assert two.keys() == shards.keys()
    for key, value in two.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, shards[key], rtol=0, atol=2e-6)
    sizes = [sum(path.stat().st_size for path in folders[1].glob(f"checkpoints/step-*/__{rank}_*")) for rank in (0, 1)]
    assert min(sizes) > 0.3 * sum(sizes)
