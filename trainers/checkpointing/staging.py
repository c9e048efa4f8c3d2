"""Owns the copy of a run's state that a save writes while training goes on: this rank's share, in host memory kept from save to save.

Where several ranks hold the same rows of sharded tensors (`shard: 1`, or several groups of shards), each copies and writes some of the
tensors, and no two the same: else every rank of a node would pin the whole state in host memory, and DCP would then choose one to write.

Must not know where the state is written. torch's own stager cannot be kept: in some of the versions that we admit it closes itself
after its first use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Set
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner
from torch.distributed.tensor import DTensor

from ..distributed.dtensor import replica


class StagedPlanner(DefaultSavePlanner):
    """DCP's plan of a save that writes sharded tensors' staged values; the tensor in the state only tells its place in the whole. What
    another rank has staged is not in it."""

    def __init__(self, shards: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._shards = shards

    def create_local_plan(self) -> Any:
        plan = super().create_local_plan()
        self.plan = dataclasses.replace(plan, items=[item for item in plan.items if self._is_staged(self.state_dict[item.index.fqn])])
        return self.plan

    def _is_staged(self, value: Any) -> bool:
        return not isinstance(value, DTensor) or id(value) in self._shards

    def lookup_object(self, index: Any) -> Any:
        value = self.state_dict[index.fqn]
        return self._shards[id(value)] if isinstance(value, DTensor) else super().lookup_object(index)


class Stager:
    """Copies states of one shape after another; what `stage` returned is overwritten by the next call. For one thread."""

    def __init__(self) -> None:
        self._on_gpu = torch.cuda.is_available()
        self._buffers: dict[tuple[Any, ...], Tensor] = {}

    @torch.no_grad()
    def stage(self, state: Mapping[str, Any]) -> tuple[dict[str, Any], StagedPlanner]:
        """Return a copy of `state` (tensors, plain values, mappings, lists and tuples of these) that training does not change, and the plan
        by which DCP writes it.

        Sharded tensors (DTensor) are in it as they are, for a mesh of GPUs holds no tensor of the host: the planner knows their values.
        """
        former, self._buffers = self._buffers, {}
        shards: dict[int, Tensor] = {}
        copy = self._copy(state, (), former, shards, _of_other_replicas(state))
        if self._on_gpu:
            torch.cuda.synchronize()
        self._release(former)
        return copy, StagedPlanner(shards)

    def close(self) -> None:
        """Free the memory; nothing that was staged may be in use any more."""
        self._release(self._buffers)

    def _copy(
        self, value: Any, path: tuple[Any, ...], former: dict[tuple[Any, ...], Tensor], shards: dict[int, Tensor], others: Set[int]
    ) -> Any:
        if isinstance(value, DTensor):
            if id(value) in others:
                return value
            shards[id(value)] = self._filled(path, value.to_local(), former)
            return value
        if isinstance(value, Tensor):
            return self._filled(path, value, former)
        if isinstance(value, Mapping):
            return {key: self._copy(item, (*path, key), former, shards, others) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._copy(item, (*path, index), former, shards, others) for index, item in enumerate(value))
        return value

    def _filled(self, path: tuple[Any, ...], source: Tensor, former: dict[tuple[Any, ...], Tensor]) -> Tensor:
        """Return the buffer of this place in the state, with the values of `source`; from a GPU they may still be on their way."""
        buffer = former.get(path)
        if buffer is not None and (buffer.shape, buffer.dtype) == (source.shape, source.dtype):
            del former[path]
        else:
            buffer = torch.empty_like(source, device="cpu")
            if self._on_gpu and buffer.nbytes:
                _pin(buffer)
        self._buffers[path] = buffer
        return buffer.copy_(source, non_blocking=self._on_gpu)

    def _release(self, buffers: dict[tuple[Any, ...], Tensor]) -> None:
        while buffers:
            _path, buffer = buffers.popitem()
            if self._on_gpu and buffer.nbytes:
                _unpin(buffer)


def _of_other_replicas(state: Mapping[str, Any]) -> set[int]:
    """Return the ids of the sharded tensors that another rank with the same rows writes. All ranks come to the same, without asking: each
    tensor goes to the one that has least so far."""
    by_path: dict[int, tuple[str, DTensor]] = {}
    for path, tensor in _sharded(state, ()):
        by_path.setdefault(id(tensor), (repr(path), tensor))
    others: set[int] = set()
    loads: dict[int, list[int]] = {}
    for _path, tensor in sorted(by_path.values(), key=lambda found: found[0]):
        number, copies = replica(tensor)
        load = loads.setdefault(copies, [0] * copies)
        writer = load.index(min(load))
        load[writer] += tensor.numel() * tensor.element_size()
        if writer != number:
            others.add(id(tensor))
    return others


def _sharded(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], DTensor]]:
    if isinstance(value, DTensor):
        yield path, value
    elif isinstance(value, (Mapping, list, tuple)):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _sharded(item, (*path, key))


def _pin(buffer: Tensor) -> None:
    """Lock the buffer's pages, so that a GPU writes into it at full speed. An allocation with pin_memory=True would be rounded up to a
    power of two bytes."""
    torch.cuda.check_error(int(torch.cuda.cudart().cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 1)))  # 1: for all devices


def _unpin(buffer: Tensor) -> None:
    torch.cuda.check_error(int(torch.cuda.cudart().cudaHostUnregister(buffer.data_ptr())))
