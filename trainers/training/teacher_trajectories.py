"""Owns making a teacher's ODE trajectories with guidance, before training: what KD learns from (trainers/methods/README.md section 8).

A trajectory is a function of the teacher, the schedule, the prompt and its number, so any rank may make any of them, now or after a
stop. Must not know how a student is trained on them, nor how they are stored (trajectory_store.py).
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import TrainConfig, denoising_steps, trajectory_metadata
from ..control import Control, StopRequested
from ..data.dataset import open_samples, pad, statistics
from ..data.parquet_rows import Row
from ..data.parquet_schema import TrajectorySample
from ..data.prompt_embeddings import required
from ..diffusion.flow_schedule import FlowSchedule
from ..diffusion.samplers import guided, sample
from ..distributed.collectives import RankGroup
from ..distributed.mesh import ParallelContext
from ..errors import UserError
from ..models import build_role
from ..models.base import ModelBase
from ..seeding import derived_seed
from .trajectory_store import TrajectoryCache

_DTYPE = "float16"


@dataclass(frozen=True)
class _Job:
    """One trajectory to make. `counts` False: another rank makes it, and this one repeats it so that all ranks make equally many passes."""

    index: int
    counts: bool


def ensure(config: TrainConfig, parallel: ParallelContext, control: Control) -> bool:
    """Make the trajectories that are missing in method.cache. Collective. Returns False where a stop notice ended it; UserError where the
    cache cannot be used."""
    group, folder = RankGroup(control), TrajectoryCache(config)
    if group.from_rank_0(folder.is_complete):
        return True
    if "teacher" not in config.models:
        raise UserError(
            f"{folder.folder} holds {trajectory_metadata.count(folder.folder)} trajectories, which are not all, "
            "and there is no teacher to make the rest",
            "add models.teacher, or give a cache that is complete",
        )
    try:
        _Production(config, parallel, control, group, folder).run()
    except StopRequested:
        return False
    group.from_rank_0(folder.complete)
    return True


class _Production:
    """Makes the missing trajectories of one cache: the first `done` of the total are stored, those in `missing` are not."""

    def __init__(self, config: TrainConfig, parallel: ParallelContext, control: Control, group: RankGroup, folder: TrajectoryCache) -> None:
        self._config, self._parallel, self._control, self._group, self._folder = config, parallel, control, group, folder
        self._method = folder.method
        self._samples = open_samples(config.data, config.seed, "text")
        metadata = group.from_rank_0(lambda: folder.open(len(self._samples)))
        self._timesteps: list[int] = metadata["timesteps"]
        self.missing: list[int] = group.from_rank_0(lambda: folder.missing(metadata["total"]))
        self.done = metadata["total"] - len(self.missing)
        self._negative = self._read_negative()

    def run(self) -> None:
        """Make trajectories until none is missing; the teacher's memory is free afterwards."""
        if not self.missing:
            return
        teacher = build_role(self._config, "teacher", self._parallel, load_weights=True)
        for jobs in self._shares():
            rows = [self._samples.usable((0, job.index % len(self._samples)))[0] for job in jobs]
            self._add(jobs, rows, self._follow(teacher, jobs, rows))
        del teacher
        gc.collect()
        if self._parallel.device.type == "cuda":
            torch.cuda.empty_cache()

    def _shares(self) -> list[list[_Job]]:
        """Return this rank's batches; all ranks have equally many, of equally many trajectories each."""
        ranks, mine = self._parallel.data_parallel, self._parallel.data_rank
        together = self._method.teacher_batch_size * ranks
        jobs = [_Job(index, True) for index in self.missing]
        jobs += [_Job(self.missing[-1], False)] * (-len(jobs) % together)
        return [jobs[start : start + together][mine::ranks] for start in range(0, len(jobs), together)]

    @torch.no_grad()
    def _follow(self, teacher: ModelBase, jobs: Sequence[_Job], rows: Sequence[Row]) -> Tensor:
        """Return the states [B, S, T, C, H, W] of the teacher's trajectories at self._timesteps, with the clean end last."""
        prompt = torch.stack([self._pad(torch.tensor(row.text)) for row in rows]).to(teacher.device)
        every, kept = denoising_steps.trajectory(self._method.trajectory_steps, self._config.flow_shift), list[Tensor]()

        def conditional(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return teacher.predict_velocity(noisy, timesteps, prompt)

        def unconditional(noisy: Tensor, timesteps: Tensor) -> Tensor:
            assert self._negative is not None
            return teacher.predict_velocity(noisy, timesteps, self._negative.to(noisy.device).expand_as(prompt))

        def keep(number: int, noisy: Tensor) -> None:
            self._heartbeat()
            if every[number] in self._timesteps:
                kept.append(noisy)

        predict = guided(conditional, unconditional, self._method.teacher_guidance_scale)
        schedule = FlowSchedule(self._config.flow_shift, teacher.device)
        clean = sample(predict, schedule, self._noise(jobs).to(teacher.device), every, on_step=keep)
        return torch.stack([*kept, clean], 1)

    def _noise(self, jobs: Sequence[_Job]) -> Tensor:
        """Draw the starting noise [B, T, C, H, W]: each trajectory's own, whichever rank makes it."""
        t, h, w = self._config.data.latent_shape
        shape = (t, len(statistics(self._config.data)[0]), h, w)
        generators = [torch.Generator().manual_seed(derived_seed("trajectory", job.index)) for job in jobs]
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

    def _read_negative(self) -> Tensor | None:
        """Return the negative prompt's embedding [text_len, D]; None without guidance."""
        if self._method.teacher_guidance_scale == 1:
            return None
        return self._pad(required(self._config.data, "method.teacher_guidance_scale").negative)

    def _pad(self, text: Tensor) -> Tensor:
        return pad(text, self._config.data.text_len)[0]

    def _heartbeat(self) -> None:
        """Send a heartbeat, and raise StopRequested on all ranks where any has a stop notice."""
        self._control.progress("caching", self.done)
        self._parallel.raise_if_stopping(self._control.stop_requested)

    def _add(self, jobs: Sequence[_Job], rows: Sequence[Row], states: Tensor) -> None:
        """Store the batch. A disk that takes no more ends the run on all ranks; what is written stays, and counts."""
        problem, timesteps = "", np.array([*self._timesteps, 0], np.float32)
        for job, row, latents in zip(jobs, rows, states.cpu().numpy(), strict=True):
            try:
                if job.counts:
                    self._folder.add(job.index, TrajectorySample(str(job.index), latents, timesteps, row.text, row.caption, _DTYPE))
            except OSError as error:
                problem = f"{self._folder.path(job.index)} cannot be written: {error.strerror or error}"
        everyone: list[Any] = self._group.gather((problem, sum(job.counts for job in jobs)))
        if problems := [text for text, _ in everyone if text]:
            raise UserError(problems[0], "make room, then resume: it goes on where it was")
        self.done += sum(count for _, count in everyone)
