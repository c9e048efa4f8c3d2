"""Owns the short form of a simulation, which needs no CUDA build of torch: the same trainer on the CPU with tensors that have no values
(FakeTensorMode). It counts operations and passes; there is no allocator, and no kernel of CUDA is chosen.

A step that reads a number from a tensor raises, as on a GPU it would wait for the device. What all ranks draw together is drawn on the
host for real.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from tests.gpu import measuring, stand_ins, world
from tests.gpu.figures import Phase
from tests.gpu.job import Job
from tests.gpu.trainer import SimulatedTrainer, steps_of
from trainers.diffusion import frame_blocks
from trainers.diffusion.expert_ranges import ExpertRanges
from trainers.methods.base import TrainingMethod
from trainers.methods.self_forcing import SelfForcingMethod
from trainers.models.attention import kv_cache
from trainers.training.metrics import DelayedMetrics

_ON_HOST = (
    (ExpertRanges, "draw"),
    (SelfForcingMethod, "exits"),
    (frame_blocks, "causal"),
    (frame_blocks, "teacher_forcing"),
)
"""What is decided on the host, by values that never were on a device."""


def _forward(query: Tensor, key: Tensor, *_: Any, **options: Any) -> int:
    """Return the operations of attention: two products."""
    return 2 * 2 * query.numel() * key.shape[2]


def _backward(_gradient: Tensor, query: Tensor, key: Tensor, *_: Any, **options: Any) -> int:
    """Return the operations of its backward pass: four products, and the scores once more."""
    return _forward(query, key) // 2 * 5


_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}
"""What torch counts of other kernels of attention and not of the CPU's."""


class _WithoutValues(SimulatedTrainer):
    """A trainer whose networks have no values, and so whatever a step computes from them; around the steps everything is as always."""

    def __init__(self, job: Job, run_dir: Path) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        super().__init__(job, run_dir)

    def _build_method(self, in_checkpoint: Set[str]) -> TrainingMethod:
        to_empty = nn.Module.to_empty  # where networks that were made without storage get theirs

        def without_values(*inputs: Any, **named: Any) -> Any:
            with self._mode:
                return to_empty(*inputs, **named)

        with mock.patch.object(nn.Module, "to_empty", without_values):
            method = super()._build_method(in_checkpoint)
        with self._mode:
            method.seed_optimizer_state_for_resume()
        return method

    def next_step(self) -> None:
        with self._mode:
            super().next_step()


def phases(job: Job) -> dict[str, Phase]:
    """Make a step of each kind of a job in this process; return its operations and passes."""
    with ExitStack() as stack:
        run_dir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(world.first_rank_of(job.ranks))
        operations = stack.enter_context(stand_ins.installed(gather=True))
        stack.enter_context(_decided_on_host())
        stack.callback(dist.destroy_process_group)
        _forget_cached()
        stack.callback(_forget_cached)
        trainer = _WithoutValues(job, run_dir)
        return {kind: _phase(trainer, operations, number) for kind, number in steps_of(trainer.method).items()}


def _phase(trainer: SimulatedTrainer, operations: stand_ins.Operations, number: int) -> Phase:
    operations.counts.clear()
    with measuring.Counting(_ATTENTION) as counting, measuring.passes(trainer.method) as passes:
        trainer.make_step(number)
    flops_by = {**counting.counts, **operations.counts}
    return Phase(number, flops=sum(flops_by.values()), flops_by=flops_by, passes=dict(passes))


def _forget_cached() -> None:
    """Empty the trainers' caches: what they hold is of one kind of tensors, and no use to the other."""
    for module in [module for name, module in sys.modules.items() if name.startswith("trainers.")]:
        for function in vars(module).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()


@contextmanager
def _decided_on_host() -> Iterator[None]:
    """Let the declared decisions see real values inside, and let no step's numbers be read."""
    with ExitStack() as stack:
        for owner, name in _ON_HOST:
            stack.enter_context(mock.patch.object(owner, name, _real(getattr(owner, name))))
        stack.enter_context(mock.patch.object(DelayedMetrics, "pop", lambda self: None))
        stack.enter_context(mock.patch.object(kv_cache, "_same_memory", lambda one, other: True))  # there is no memory
        yield


def _real(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def with_values(*inputs: Any, **named: Any) -> Any:
        with unset_fake_temporarily():
            return function(*inputs, **named)

    return with_values
