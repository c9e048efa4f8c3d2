"""Owns access to sharded tensors: this rank's part, and which ranks hold the rest. Must not know what the tensors are."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part, which shares the tensor's memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_group(tensor: Tensor) -> dist.ProcessGroup | None:
    """Return the ranks that hold the other rows; None where all rows are here."""
    if isinstance(tensor, DTensor):
        for dimension, placement in enumerate(tensor.placements):
            if isinstance(placement, Shard) and tensor.device_mesh.size(dimension) > 1:
                assert placement.dim == 0, placement
                return tensor.device_mesh.get_group(dimension)
    return None


def replica(tensor: DTensor) -> tuple[int, int]:
    """Return (this rank's number among those that hold the same rows, how many these are)."""
    number, copies, coordinate = 0, 1, tensor.device_mesh.get_coordinate()
    for dimension, placement in enumerate(tensor.placements):
        if isinstance(placement, Replicate) and coordinate is not None:
            size = tensor.device_mesh.size(dimension)
            number, copies = number * size + coordinate[dimension], copies * size
    return number, copies


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor with all rows. Collective where other ranks hold some."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
