"""Owns the trainer of a simulated rank: the real one, from `mesh.start` to its steps, on batches of zeros in the place of data.

Must not measure anything.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from tests.gpu.job import Job
from trainers import own_code, seeding
from trainers.config import TrainConfig
from trainers.control import Control
from trainers.distributed import mesh
from trainers.training.trainer import Trainer


class SimulatedTrainer(Trainer):
    """A job's trainer, on batches of zeros. It is made inside a world (world.py) with stand-ins (stand_ins.py)."""

    def __init__(self, job: Job, run_dir: Path) -> None:
        self._job = job
        config = own_code.with_own_sections(TypeAdapter(TrainConfig).validate_python(job.train))
        if config.deterministic:
            seeding.use_deterministic_kernels()
        super().__init__(config, run_dir, Control({}), mesh.start(config.parallel))

    def _batches(self, start_step: int) -> Generator[list[dict[str, Tensor]], None, None]:
        while True:
            yield [self._batch() for _ in range(self.batching.accumulation)]

    def _batch(self) -> dict[str, Tensor]:
        """Return one micro-batch as trainers.data.batches gives it."""
        micro, config, method = self.batching.micro, self.config, self.config.method
        t, h, w = config.data.latent_shape
        latents, index = (t, self._job.channels, h, w), torch.zeros(micro, dtype=torch.long)
        text = torch.zeros(micro, config.data.text_len, self._job.text_dim)
        batch = {"prompt": text, "prompt_mask": torch.ones(text.shape[:2]), "index": index}
        if method.needs == "latents":
            batch["latents"] = torch.zeros(micro, *latents)
        if method.needs == "trajectory":
            timesteps = torch.tensor([*method.kept(config), 0], dtype=torch.float32)  # type: ignore[attr-defined]
            batch["trajectory_timesteps"] = timesteps.expand(micro, -1).clone()
            batch["trajectory_latents"] = torch.zeros(micro, len(timesteps), *latents)
        return batch

    def make_step(self, number: int) -> None:
        """Make the step of this number, whichever was made before."""
        self.step = number - 1
        self.next_step()


def steps_of(method: Any) -> dict[str, int]:
    """Return for each kind of step the number of the first: of "critic" and "student" for a distillation, else of "step"."""
    if not hasattr(method, "student_steps"):
        return {"step": 1}
    interval: int = method.config.generator_update_interval
    return {"critic": 1, "student": interval} if interval > 1 else {"student": 1}
