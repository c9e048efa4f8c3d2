"""A step's operations at full size, with one block a network: no more is computed than the passes that the method needs.

The short form of `python -m tests.gpu`, for the CPU build of torch.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from tests.benchmarks.cuda_flops import Sizes, attention, outside, weights
from tests.gpu import job, on_cpu
from trainers.config import TrainConfig, batching
from trainers.config.network_size import architecture_of

LAYERS = 1


SHORTER = {"self-forcing": ["train.data.num_frames=21"]}
"""Two blocks of frames, as each is a dozen passes."""


@pytest.mark.parametrize("preset", ["dfsft", "lora-a14b", "dmd2-vsa", "kd-causal-a14b", "self-forcing"])
def test_a_step_of_every_kind_runs_at_full_size(preset: str, tmp_path: Path) -> None:
    """On tensors without values: a step that reads one raises."""
    phases = on_cpu.phases(job.make(preset, tmp_path, layers=LAYERS, sets=SHORTER.get(preset, [])))
    assert all(phase.flops > 0 and phase.passes for phase in phases.values())


@pytest.mark.parametrize("preset", ["finetune", "kd", "dmd2"])
def test_the_operations_are_those_of_the_passes_that_are_needed(preset: str, tmp_path: Path) -> None:
    made = job.make(preset, tmp_path, layers=LAYERS)
    for phase in on_cpu.phases(made).values():
        assert phase.flops == pytest.approx(needed(made, phase.passes), rel=0.03)


def needed(made: job.Job, passes: dict[str, int]) -> float:
    """Return the operations of so many forward passes, and of the backward passes of those with gradient. A backward pass of attention is
    five products, as its kernel computes the scores once more; what is outside of the blocks is not recomputed."""
    config = TypeAdapter(TrainConfig).validate_python(made.train)
    total = 0.0
    for part, times in passes.items():
        section = config.models[part.partition(",")[0]]
        architecture = architecture_of(section.init_from)  # type: ignore[attr-defined]
        assert architecture is not None
        sizes = Sizes(architecture, config.data.latent_shape, config.data.text_len, batching(config, made.ranks).micro)
        blocks = weights(sizes) + attention(sizes)
        total += times * (outside(sizes) + blocks)
        if "no gradient" not in part:
            again = blocks if section.activation_checkpointing == "full" else 0.0  # type: ignore[attr-defined]
            total += times * (2 * (outside(sizes) + weights(sizes)) + 2.5 * attention(sizes) + again)
    return total
