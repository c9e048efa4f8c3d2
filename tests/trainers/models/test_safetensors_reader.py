"""Promises about reading weights: each rank's own part, in the order of the file, with no full copy, and what is wrong in words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from trainers.errors import UserError
from trainers.models.loading import diffusers_weights, safetensors_reader

STORED = {
    "blocks.10.weight": torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(1)),
    "blocks.2.weight": torch.randn(64, 33, generator=torch.Generator().manual_seed(2)).bfloat16(),
    "bias": torch.arange(3, dtype=torch.float16),
    "empty": torch.empty(0, 4),
    "number": torch.tensor(2.5, dtype=torch.float64),
    "patch.weight": torch.randn(6, 4, 1, 2, 2, generator=torch.Generator().manual_seed(3)),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(STORED, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(first byte, bytes) of each read."""
    seen: list[tuple[int, int]] = []
    real = os.preadv

    def counted(file: int, buffers: list[memoryview], start: int) -> int:
        seen.append((start, len(buffers[0])))
        return real(file, buffers, start)

    monkeypatch.setattr(os, "preadv", counted)
    return seen


@pytest.mark.parametrize("piece", [1, 100, 1 << 20])
def test_tensors_are_the_files_in_the_networks_own_types(folder: Path, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_reader, "_PIECE_BYTES", piece)
    state: dict[str, Tensor] = {name: torch.full(tensor.shape, torch.nan) for name, tensor in STORED.items()}
    state["blocks.2.weight"] = torch.full((33, 64), torch.nan).t()  # as it lies in memory
    diffusers_weights.load(state, folder)
    for name, tensor in STORED.items():
        assert state[name].equal(tensor.float()), name


def test_a_file_is_read_once_from_beginning_to_end_in_pieces(
    folder: Path, reads: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_reader, "_PIECE_BYTES", 500)
    diffusers_weights.load({name: torch.empty(tensor.shape) for name, tensor in reversed(STORED.items())}, folder)
    assert [start for start, _ in reads] == sorted(start for start, _ in reads)
    assert sum(size for _, size in reads) == (folder / "model.safetensors").stat().st_size
    assert max(size for start, size in reads[2:]) <= 500


@pytest.mark.parametrize("dimension", [0, 1])
def test_ranks_read_their_own_rows_and_nothing_twice(folder: Path, dimension: int, reads: list[tuple[int, int]]) -> None:
    """Every rank of four in turn, in a world where nobody else is. Columns are cut out of whole rows."""
    sharded = {name: tensor for name, tensor in STORED.items() if tensor.ndim > 1}
    for rank in range(4):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=4)
        try:
            mesh = init_device_mesh("cpu", (4,))
            state: dict[str, Any] = {
                name: distribute_tensor(torch.zeros(tensor.shape), mesh, [Shard(dimension)], src_data_rank=None)
                for name, tensor in sharded.items()
            }
            read(state, folder)
            for name, tensor in sharded.items():
                local: DTensor = state[name]
                expected = distribute_tensor(tensor.float(), mesh, [Shard(dimension)], src_data_rank=None)
                assert local.to_local().equal(expected.to_local()), (rank, name)
        finally:
            dist.destroy_process_group()
    if dimension == 0:
        assert sum(size for start, size in reads if start > 8) == sum(tensor.nbytes for tensor in sharded.values())  # but for headers


def read(state: dict[str, Any], folder: Path) -> None:
    """What diffusers_weights.load does, for one rank of a world that is not there."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import DefaultLoadPlanner

    reader = safetensors_reader.SafetensorsReader(diffusers_weights.files(folder))
    metadata, planner = reader.read_metadata(), DefaultLoadPlanner()
    planner.set_up_planner(state, metadata, is_coordinator=True)
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    reader.read_data(reader.prepare_local_plan(planner.create_local_plan()), planner).wait()
    assert isinstance(reader, dcp.StorageReader)


def test_a_file_that_becomes_shorter_while_it_is_read_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = safetensors_reader._starts

    def cut(file: int) -> dict[str, int]:
        starts = real(file)
        os.truncate(folder / "model.safetensors", 600)
        return starts

    monkeypatch.setattr(safetensors_reader, "_starts", cut)
    with pytest.raises(UserError, match=r"a file of weights in .* cannot be read \(rank 0\): the file has become shorter"):
        diffusers_weights.load({name: torch.empty(tensor.shape) for name, tensor in STORED.items()}, folder)
