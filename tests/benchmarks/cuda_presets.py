"""Owns the steps of a recipe at full size on one GPU, as one rank of its world makes them: seconds, memory beside the estimate, and whether
the host waits for the device.

The world is torch's fake process group (tests/gpu/world.py): shards have the size that they have in a run, and what the other ranks would
send is a copy of this rank's own, so that networks compute with numbers. Weights and batches are drawn on the device; no file is read.
What sending takes is not in the seconds.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch import Tensor, nn

from tests.benchmarks.cuda_figures import reserved_gb, wait
from tests.benchmarks.cuda_rows import Check, Figure
from tests.gpu import job, results, waits, world
from tests.gpu.trainer import SimulatedTrainer, steps_of
from trainers.config import TrainConfig
from trainers.config.memory_estimate import estimate
from trainers.distributed.dtensor import local
from trainers.models.loading import diffusers_weights

NEAR = 0.1
"""How far the memory that was taken may be from the estimate, relative to it."""
_SHORT_S, _MORE = 3.0, 4
"""Steps that take less are made so many times more, and the median counts."""
_WAITS = "called a synchronizing CUDA operation"


class DrawnTrainer(SimulatedTrainer):
    """A trainer whose batches are drawn on the host, once: power and speed of a GPU depend on the numbers."""

    def _batch(self) -> dict[str, Tensor]:
        drawn = super()._batch()
        for name in {"prompt", "latents", "trajectory_latents"} & drawn.keys():
            drawn[name] = torch.randn_like(drawn[name])
        return drawn

    def _batches(self, start_step: int) -> Any:
        rounds = next(super()._batches(start_step))
        while True:
            yield [dict(batch) for batch in rounds]


def rows(preset: str, *, layers: int | None = None, ranks: int | None = None, sets: Sequence[str] = ()) -> list[Check | Figure]:
    """Make a step of each kind of a recipe, after one that does not count. `layers`: blocks of each network, where not its own number."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        made = job.make(preset, Path(folder), ranks=ranks, sets=sets, layers=layers)
        stack.enter_context(_alone(made.ranks))
        (Path(folder) / "run").mkdir()
        whole = layers is None and ranks is None and not sets
        return _measured(made, Path(folder) / "run", f"{preset}, {layers} layers" if layers else preset, whole)


def _measured(made: job.Job, run_dir: Path, name: str, whole: bool) -> list[Check | Figure]:
    trainer = DrawnTrainer(made, run_dir)
    _draw_weights(trainer)
    steps = steps_of(trainer.method)
    places: list[str] = []
    for number in steps.values():  # compiles, tunes, and makes the optimizers' states
        trainer.make_step(number)
    estimated_gb = estimate(TypeAdapter(TrainConfig).validate_python(made.train), made.ranks).peak / 1e9
    found = [_figure(trainer, f"{name}: {kind}", kind, number, made, whole, places, estimated_gb) for kind, number in steps.items()]
    checks = [Check(f"{name}: where the host waits for the device", "; ".join(sorted(set(places))) or "nowhere", "nowhere", not places)]
    if trainer.parallel.device.type == "cuda":
        checks.append(_memory_check(name, max(figure.reserved_gb or 0.0 for figure in found), estimated_gb))
    return [*checks, *found]


def _figure(
    trainer: DrawnTrainer, name: str, kind: str, number: int, made: job.Job, whole: bool, places: list[str], estimated_gb: float
) -> Figure:
    """Make a step, noting its memory; then time it."""
    device = trainer.parallel.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with _noting_waits(device, places):
        taken = [_step_s(trainer, number)]
    peak_gb = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    reserved = reserved_gb()
    while len(taken) <= _MORE and taken[-1] < _SHORT_S and device.type == "cuda":
        taken.append(_step_s(trainer, number))
    stored = results.stored().get(made.preset) if whole else None
    phase = stored.phases[kind] if stored else None
    tokens = trainer.batching.micro * trainer.batching.accumulation
    note = f"{made.ranks} ranks' shards, {tokens} clips a rank"
    if phase and phase.peak and phase.reserved:
        note += f"; simulated peak {phase.peak / 1e9:.1f}, reserved {phase.reserved / 1e9:.1f} GB"
    operations = float(phase.flops) if phase else None
    step_s = sorted(taken)[len(taken) // 2]
    return Figure(name, step_s, None, operations, peak_gb, reserved, estimated_gb, note)


def _step_s(trainer: DrawnTrainer, number: int) -> float:
    wait(trainer.parallel.device)
    started = time.monotonic()
    trainer.make_step(number)
    wait(trainer.parallel.device)
    return time.monotonic() - started


def _memory_check(name: str, reserved: float, estimated: float) -> Check:
    off = reserved / estimated - 1
    return Check(
        f"{name}: reserved memory against the estimate",
        f"{reserved:.1f} of {estimated:.1f} GB: {off:+.1%}",
        f"{NEAR:.0%}",
        abs(off) <= NEAR,
    )


# --- a rank that is alone


@contextmanager
def _alone(ranks: int) -> Iterator[None]:
    """Inside, this process is the first of so many ranks; the others send what it has itself, and weights are not read."""
    gather, scatter = dist.all_gather_into_tensor, dist.reduce_scatter_tensor

    def gathered(output_tensor: Tensor, input_tensor: Tensor, *others: Any, **named: Any) -> Any:
        work = gather(output_tensor, input_tensor, *others, **named)
        parts = output_tensor.view(-1, *input_tensor.shape) if input_tensor.dim() else output_tensor
        own = parts[0].data_ptr() == input_tensor.data_ptr()
        if len(parts) > 1 or not own:
            parts[1 if own else 0 :].copy_(input_tensor)
        return work

    def scattered(output: Tensor, input: Tensor, *others: Any, **named: Any) -> Any:
        work = scatter(output, input, *others, **named)
        mine = input.view(-1)[: output.numel()]
        if mine.data_ptr() != output.data_ptr():
            output.view(-1).copy_(mine)
        return work

    with (
        world.first_rank_of(ranks),
        mock.patch.object(dist, "all_gather_into_tensor", gathered),
        mock.patch.object(dist, "reduce_scatter_tensor", scattered),
        mock.patch.object(diffusers_weights, "load", lambda *state_and_folder, **options: None),
    ):
        yield


@torch.no_grad()
def _draw_weights(trainer: DrawnTrainer) -> None:
    """Give all networks small numbers, with which no activation grows without bound."""
    for role in trainer.method.role_models:
        for network in trainer.method.parts(role).values():
            for parameter in network.parameters():
                nn.init.normal_(local(parameter), std=0.02)


# --- waiting


@contextmanager
def _noting_waits(device: torch.device, places: list[str]) -> Iterator[None]:
    """Note where the host waits for the device inside, but for the places that are declared (tests/gpu/waits.py)."""
    if device.type != "cuda":
        yield
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    declared = [file for file, _function in waits.DECLARED]
    for one in seen:
        if _WAITS in str(one.message) and not any(one.filename.endswith(file) for file in declared):
            places.append(f"{Path(one.filename).name}:{one.lineno}")
