"""Owns process groups, the device mesh (replicate x shard x sequence) and how a network is spread over it.

Must not know methods or checkpoints. Decisions of the loop go over a gloo group of their own, so that no step waits for a device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from ..config.parallel import ParallelConfig
from ..control import StopRequested
from ..errors import UserError
from . import devices

T = TypeVar("T")

_COLLECTIVE_TIMEOUT = timedelta(hours=24)
"""Practically none: the launcher decides when a silent rank hangs, and a dead one makes collectives raise at once."""


@dataclass(frozen=True)
class ParallelContext:
    """This rank among the others: its device, its position in the mesh, and the group over which decisions are agreed."""

    device: torch.device
    rank: int
    world_size: int
    mesh: DeviceMesh
    control_group: dist.ProcessGroup

    @property
    def data_parallel(self) -> int:
        """The number of ranks that see different samples."""
        return int(self.mesh["replicate"].size() * self.mesh["shard"].size())

    @property
    def data_rank(self) -> int:
        """This rank's number among those that see different samples."""
        return int(self.mesh.get_local_rank("replicate") * self.mesh["shard"].size() + self.mesh.get_local_rank("shard"))

    def any_rank(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set on any rank; the same answer on all. Collective."""
        values = torch.tensor([int(flag) for flag in flags], dtype=torch.int32)
        dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self.control_group)
        return [bool(value) for value in values.tolist()]

    def gather(self, mine: T) -> list[T]:
        """Return every rank's object, by rank. Collective."""
        everyone: list[Any] = [None] * self.world_size
        dist.all_gather_object(everyone, mine, group=self.control_group)
        return everyone

    def raise_if_stopping(self, stop_requested: bool) -> None:
        """Raise StopRequested on all ranks where any of them has got a stop notice. Collective."""
        if self.any_rank(stop_requested)[0]:
            raise StopRequested

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over ranks, on the device. All hold equally many samples, so it is the mean over the global batch."""
        dist.all_reduce(values)
        return values / self.world_size

    def on_first(self, function: Callable[[], None], waiting: Callable[[int], None]) -> None:
        """Run `function` on rank 0 while the others wait, calling waiting(seconds). Its UserError is raised on all ranks."""
        failure: list[Any] = [None]
        if self.rank == 0:
            try:
                function()
            except UserError as error:
                failure = [(error.message, error.hint)]
        self._wait_together(waiting)
        dist.broadcast_object_list(failure, src=0, group=self.control_group)
        if failure[0] is not None:
            raise UserError(*failure[0])

    def _wait_together(self, waiting: Callable[[int], None]) -> None:
        started = time.monotonic()
        arrived = dist.all_reduce(torch.zeros(1), group=self.control_group, async_op=True)
        while not arrived.is_completed():
            waiting(int(time.monotonic() - started))
            time.sleep(0.05)
        arrived.wait()


def start(config: ParallelConfig) -> ParallelContext:
    """Join the process group; without a launcher's environment variables, make a world of one rank. Collective."""
    device = devices.choose()
    rank, world_size = _number("RANK", 0), _number("WORLD_SIZE", 1)
    dist.init_process_group(**_backend(device), store=_store(), rank=rank, world_size=world_size, timeout=_COLLECTIVE_TIMEOUT)
    sizes = config.mesh(dist.get_world_size())
    mesh = init_device_mesh(device.type, sizes, mesh_dim_names=("replicate", "shard", "sequence"))
    control = dist.new_group(backend="gloo", timeout=_COLLECTIVE_TIMEOUT)
    return ParallelContext(device, dist.get_rank(), dist.get_world_size(), mesh, control)


def _backend(device: torch.device) -> dict[str, Any]:
    """Return the arguments that say by what ranks talk. With the device NCCL connects at once: what is wrong with a network is seen here,
    and not as a first step that never ends."""
    if device.type == "cuda":
        return {"backend": "cpu:gloo,cuda:nccl", "device_id": device}
    return {"backend": "gloo"}


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def shard(
    module: nn.Module,
    blocks: Iterable[nn.Module],
    parallel: ParallelContext,
    *,
    compute: torch.dtype | None,
    keep_float32: Iterable[nn.Module] = (),
) -> None:
    """Apply fully_shard to each block, then to the rest of `module`. Gradients are reduced in float32.

    Parameters keep their type, and are computed with in `compute` (None: the type they are kept in). Inputs are not cast, since
    bfloat16 would round timesteps (937.5 -> 936) and rotary angles: the caller casts what it means to cast.
    """
    if parallel.world_size == 1 and parallel.device.type == "cpu" and compute is None:
        return  # nothing to shard or to cast, and FSDP's hooks cost a small network a fifth of its step
    replicated = parallel.mesh["replicate"].size() > 1
    mesh = parallel.mesh["replicate", "shard"] if replicated else parallel.mesh["shard"]
    low = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in keep_float32:
        fully_shard(part, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    made: list[Any] = [fully_shard(block, mesh=mesh, mp_policy=low) for block in blocks]
    for earlier, block in pairwise(made):  # by itself FSDP does this in the first backward pass after forward passes alone
        block.set_modules_to_backward_prefetch([earlier])
    fully_shard(module, mesh=mesh, mp_policy=low)


def sync_gradients(module: nn.Module, enabled: bool) -> None:
    """Turn the reduction of gradients over ranks on or off: it is off for all but the last round of gradient accumulation."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(enabled)


def drop_gathered(module: nn.Module) -> None:
    """Free the gathered parameters that a forward pass without a backward pass leaves: they would outlive a change of the shards."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _store() -> dist.Store:
    """Connect to the rendezvous store. Rank 0 serves it on the launcher's listening socket, where it was given one: no other process
    can take that port meanwhile."""
    host, rank, world_size = os.environ.get("MASTER_ADDR", "127.0.0.1"), _number("RANK", 0), _number("WORLD_SIZE", 1)
    options: dict[str, Any] = {"world_size": world_size, "wait_for_workers": False, "timeout": timedelta(minutes=30)}
    if "TORCHELASTIC_USE_AGENT_STORE" in os.environ:  # torchrun serves one store to all its restarts
        served = dist.TCPStore(host, _number("MASTER_PORT", 0), is_master=False, **options)
        return dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", served)
    if rank == 0 and "TRAINER_LISTEN_FD" in os.environ:
        options["master_listen_fd"] = _number("TRAINER_LISTEN_FD", -1)
    return dist.TCPStore(host, _number("MASTER_PORT", 0), is_master=rank == 0, **options)  # port 0: a world of one takes any


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name, default))
