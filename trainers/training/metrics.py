"""Owns the way of a step's numbers to the device, where they are averaged, and to the host. Must not make a step wait for the device.

Numbers are copied to the host while the next step is computed, and written when that one is recorded: one step late.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Record:
    """One step's numbers, in the order in which they are written."""

    step: int
    values: dict[str, Any]


def on_device(value: Any, device: torch.device) -> Tensor:
    """Return a number that a method reports (a tensor, here or on the host, or a plain number) as float64 on the device.

    One of the host is written there by a kernel that has it as its argument: a copy would wait for all that the device has to do.
    """
    if isinstance(value, Tensor) and value.device.type == device.type:
        return value.detach().double()
    return torch.full((), torch.as_tensor(value).detach().item(), dtype=torch.float64, device=device)


class DelayedMetrics:
    """Holds the newest step's numbers until they have reached the host."""

    def __init__(self) -> None:
        self._waiting: tuple[int, list[str], Tensor, Any, dict[str, Any]] | None = None

    def push(self, step: int, names: Iterable[str], numbers: Tensor, known: dict[str, Any]) -> Record | None:
        """Take a step's `numbers` [len(names)] (float64, on the device) and what is `known` on the host already; return the previous step's
        record."""
        previous = self.pop()
        copy_done = None
        if numbers.is_cuda:
            host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            numbers = host.copy_(numbers, non_blocking=True)
            copy_done = torch.cuda.Event()
            copy_done.record()
        self._waiting = step, list(names), numbers, copy_done, known
        return previous

    def pop(self) -> Record | None:
        """Return the record that is still held, if any; waits for its copy."""
        if self._waiting is None:
            return None
        (step, names, numbers, copy_done, known), self._waiting = self._waiting, None
        if copy_done is not None:
            copy_done.synchronize()
        return Record(step, {"step": step, **dict(zip(names, numbers.tolist(), strict=True)), **known})
