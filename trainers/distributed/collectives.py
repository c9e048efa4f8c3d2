"""Owns how the ranks agree outside of the training loop: small collectives of plain objects on a gloo group of their own, and with whom DCP
(torch.distributed.checkpoint) reads and writes.

Must not know what a checkpoint holds, or tensors of the model. An error on rank 0 is raised on all ranks, so that none waits for a
collective that will not come.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..control import Control

log = logging.getLogger(__name__)
T = TypeVar("T")

_LIMIT = timedelta(hours=2)
"""How long a rank may wait for the slowest disk. A dead rank makes the others raise at once, and a hung one is the launcher's business."""


def taking_part(group: dist.ProcessGroup | None = None) -> dict[str, Any]:
    """Return the arguments that tell DCP who takes part: the ranks of `group` (all without one); a rank that is alone does without
    collectives.

    Gloo copies what is larger than 32 KiB, as plans are, by OpenMP in threads of its own, whose teams stay. Once a process has more such
    threads than cores, libgomp's no longer spin for each other: on two cores each later step took a third longer.
    """
    if dist.is_initialized() and dist.get_world_size(group) > 1:
        return {"process_group": group}
    # filtered here and not around the call, which DCP may make in another thread: it warns that no other rank takes part, as intended
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
    return {"no_dist": True}


class RankGroup:
    """The ranks of a run, as a group for small collectives. All ranks make it at once, after init_process_group, and use it from one thread
    at a time."""

    def __init__(self, control: Control) -> None:
        self.group = dist.new_group(backend="gloo", timeout=_LIMIT)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._control = control

    def from_rank_0(self, function: Callable[[], T]) -> T:
        """Return on all ranks what `function` returns on rank 0, or raise what it raises there. Collective."""
        answer: list[Any] = [None]
        if self.rank == 0:
            try:
                answer = [(function(), None)]
            except Exception as error:
                answer = [(None, error)]
        dist.broadcast_object_list(answer, src=0, group=self.group)
        value, failure = answer[0]
        if failure is not None:
            raise failure
        return value

    def gather(self, mine: T) -> list[T]:
        """Return every rank's object, by rank. Collective."""
        everyone: list[Any] = [None] * self.world_size
        dist.all_gather_object(everyone, mine, group=self.group)
        return everyone

    def all_true(self, mine: bool) -> bool:
        """Return whether it is true on all ranks. Collective."""
        agreed = torch.tensor([int(mine)])
        dist.all_reduce(agreed, op=dist.ReduceOp.MIN, group=self.group)
        return bool(agreed.item())

    def warn(self, text: str) -> None:
        """Log a warning, and send it to the launcher."""
        log.warning(text)
        self._control.report("warning", text=text)

    def end_if_superseded(self) -> None:
        """Exit if a later attempt has taken over. Call it before changing anything that others see: an attempt that was suspended while its
        successor started must change nothing."""
        if not self._control.is_current():
            log.error("a later attempt has taken over: this one ends without publishing anything")
            os._exit(1)
