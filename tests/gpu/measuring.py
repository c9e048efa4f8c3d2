"""Owns how a step is measured: the allocator's peaks by stage, operations, passes, and what each role keeps. Must not build anything."""

from __future__ import annotations

import functools
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tests.gpu.figures import Kept
from trainers.distributed.dtensor import local
from trainers.methods.base import TrainingMethod
from trainers.training.trainer import Trainer

_STAGES = {
    "student_rollout": "student's rollout",
    "generator_loss": "generator's loss",
    "critic_rollout": "critic's rollout",
    "critic_loss": "critic's loss",
    "take_gradient": "backward",
}
"""Methods of a training method that are stages of a step, the inner of two where one calls the other."""
_AT_ONCE = {"backward": "backward", "single_train_step": "forward"}
"""Likewise, where a method's losses do not come in turn: they would not any more, if it had others of these two."""
_REST = "update"
"""The stage of all that is in none of these: clipping, optimizers, averages."""


class Stages:
    """The peaks of a step's memory: of what is allocated, by stage, and of what the allocator has taken from the device."""

    def __init__(self, method: TrainingMethod) -> None:
        self._within = [_REST]
        self.peaks: dict[str, int] = {}
        self.reserved = 0
        for name, label in {**_STAGES, **({} if method.takes_turns() else _AT_ONCE)}.items():
            if hasattr(method, name):
                setattr(method, name, self._watched(getattr(method, name), label))

    @property
    def peak(self) -> int:
        """The highest of all."""
        return max(self.peaks.values())

    def begin(self) -> None:
        """Forget what was before."""
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        self.peaks, self.reserved = {}, 0

    def settle(self) -> None:
        """Count the peak since the last change of stages as that of the stage under way."""
        label = self._within[-1]
        self.peaks[label] = max(self.peaks.get(label, 0), torch.cuda.max_memory_allocated())
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())
        torch.cuda.reset_peak_memory_stats()

    def _watched(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def stage(*inputs: Any, **named: Any) -> Any:
            self.settle()
            self._within.append(label)
            try:
                return function(*inputs, **named)
            finally:
                self.settle()
                self._within.pop()

        return stage


class Counting(TorchDispatchMode):
    """Counts floating-point operations by operator, with torch's formulas, of what is called inside. torch's own FlopCounterMode tries to
    take each operation apart first, which makes it several times as slow."""

    def __init__(self, formulas: dict[Any, Any] | None = None) -> None:
        super().__init__()
        self._formulas, self.counts = {**flop_registry, **(formulas or {})}, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = self._formulas.get(getattr(func, "overloadpacket", None))
        if formula is not None:
            name = str(func.overloadpacket).removeprefix("aten.")
            self.counts[name] += int(formula(*args, **(kwargs or {}), out_val=output))
        return output


@contextmanager
def passes(method: Any) -> Iterator[Counter[str]]:
    """Count the networks' forward passes inside, by role (of two experts: role.network), and those with gradient."""
    counted: Counter[str] = Counter()

    def hook_of(part: str) -> Callable[..., None]:
        def count(_module: nn.Module, _inputs: Any) -> None:
            counted[part if torch.is_grad_enabled() else f"{part}, no gradient"] += 1

        return count

    parts = {part: network for role in method.role_models for part, network in method.parts(role).items()}
    hooks = [network.register_forward_pre_hook(hook_of(part)) for part, network in parts.items()]
    try:
        yield counted
    finally:
        for hook in hooks:
            hook.remove()


def kept(trainer: Trainer) -> dict[str, Kept]:
    """Return what each role takes all the time on this rank."""
    averages = trainer.ema.state_dict() if trainer.ema is not None else {}
    return {role: _kept(trainer, role, averages) for role in trainer.method.role_models}


def _kept(trainer: Trainer, role: str, averages: dict[str, dict[str, Tensor]]) -> Kept:
    networks = trainer.method.parts(role)
    weights = [tensor for network in networks.values() for tensor in (*network.parameters(), *network.buffers())]
    own, state = {id(tensor) for tensor in weights}, list[Tensor]()
    for optimizer in trainer.method.all_optimizers():
        for parameter, values in optimizer.state.items():
            state += [value for value in values.values() if isinstance(value, Tensor) and id(parameter) in own]
    average = [tensor for part in networks for tensor in averages.get(part, {}).values()]
    return Kept(_bytes(weights), _bytes(state), _bytes(average))


def _bytes(tensors: list[Tensor]) -> int:
    """Return the memory of the tensors' parts on this rank, each counted once."""
    storages = {
        part.untyped_storage()._cdata: part.untyped_storage().nbytes() for part in map(local, tensors) if part.device.type != "meta"
    }
    return sum(storages.values())
