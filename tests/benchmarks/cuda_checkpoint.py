"""Owns whether an asynchronous checkpoint holds what was there when it was taken, and how long it stops the loop.

Training goes on while the checkpoint is written from (on CUDA: pinned) memory, so a copy that was still under way would show.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.cuda_checks import release
from tests.benchmarks.cuda_figures import LATENTS, PROMPT, TINY, Bench, Case, train_block, wait
from tests.benchmarks.cuda_flops import Sizes
from tests.benchmarks.cuda_rows import Check, checked
from trainers.checkpointing.saver import Checkpointer
from trainers.config.checkpoint import CheckpointConfig
from trainers.config.models.wan import WanArchitecture
from trainers.control import Control
from trainers.distributed.dtensor import local
from trainers.distributed.mesh import ParallelContext

LAYERS = 6
"""Of Wan 1.3B's 30: 300 million parameters, 3.7 GB of them and their moments."""
_SAVES = 2
"""The first pins the memory that the others use."""


def rows(parallel: ParallelContext, folder: Path, *, small: bool) -> list[Check]:
    architecture = WanArchitecture.model_validate(TINY if small else {"num_layers": LAYERS})
    sizes = Sizes(architecture, (3, 8, 8), 6) if small else Sizes(architecture, (3, *LATENTS[1:]), PROMPT)
    try:
        return [
            checked(
                f"asynchronous checkpoint of a Wan of {architecture.num_layers} layers, trained on meanwhile and loaded again",
                "bitwise, verified",
                lambda: _saved_and_loaded(parallel, folder, sizes),
            )
        ]
    finally:
        release()


def _saved_and_loaded(parallel: ParallelContext, folder: Path, sizes: Sizes) -> tuple[str, bool]:
    bench = Bench(train_block(Case("", student={"activation_checkpointing": "full"}), sizes.architecture), sizes, parallel)
    checkpointer = Checkpointer(folder, CheckpointConfig(), control=Control({}), facts={}, config_digest="")
    try:
        saves = [_save(bench, checkpointer, number) for number in range(1, _SAVES + 1)]
        taken, state = saves[-1].taken, bench.method.checkpoint_state()
        moved = len(_differing(state, taken))
        step = checkpointer.load(state)
        bench.method.load_checkpoint_state(state)
        differing = _differing(bench.method.checkpoint_state(), taken)
    finally:
        checkpointer.close()
    size_gb = sum(tensor.numel() * tensor.element_size() for tensor in taken.values()) / 1e9
    blocked = " and ".join(f"{save.blocked_s:.2f}" for save in saves)
    times = f"blocked {blocked} s, {saves[-1].whole_s:.1f} s until {size_gb:.2g} GB were published"
    if step != _SAVES or differing or not moved:
        return f"loaded step {step}; {len(differing)} tensors differ, {moved} had moved meanwhile; {times}", False
    return f"{len(taken)} tensors equal, {moved} had moved meanwhile; {times}", True


@dataclass(frozen=True)
class Save:
    blocked_s: float
    whole_s: float
    taken: dict[str, Tensor]
    """What it must hold, copied on the device just before."""


def _save(bench: Bench, checkpointer: Checkpointer, number: int) -> Save:
    bench.step()
    state = bench.method.checkpoint_state()
    taken = {key: local(tensor).clone() for key, tensor in _tensors(state).items()}
    wait(bench.method.device)
    started = time.monotonic()
    checkpointer.save(number, state)
    blocked_s = time.monotonic() - started
    bench.step()
    checkpointer.wait()
    if checkpointer.last_published != number:
        raise RuntimeError(f"save {number} was not published; its cause stands in the log")
    return Save(blocked_s, time.monotonic() - started, taken)


def _differing(state: dict[str, Any], taken: dict[str, Tensor]) -> list[str]:
    found = _tensors(state)
    assert found.keys() == taken.keys()
    return [key for key, tensor in found.items() if not torch.equal(local(tensor), taken[key])]


def _tensors(state: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for key, value in state.items():
        if isinstance(value, dict):
            flat |= _tensors(value, f"{prefix}{key}.")
        elif isinstance(value, Tensor):
            flat[f"{prefix}{key}"] = value
    return flat
