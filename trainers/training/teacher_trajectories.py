"""Owns making a teacher's ODE trajectories with guidance, before training: what KD learns from (methods/README.md section 8).

A trajectory is a function of the teacher, the schedule, the prompt and its number, so any ranks may make any part of a cache, now or
after a stop. Must not know how a student is trained on them, nor where they lie (trajectory_cache.py).
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
    """A trajectory to make; `counts` False: another rank's, made again so that all ranks make equally many passes."""

    index: int
    counts: bool


def ensure(config: TrainConfig, parallel: ParallelContext, control: Control) -> bool:
    """Make what is missing of method.cache. Collective. False where a stop notice ended it; UserError where it cannot be used."""
    peers, folder = RankGroup(control), TrajectoryCache(config)
    if peers.from_rank_0(folder.is_complete):
        return True
    if "teacher" not in config.models:
        raise UserError(
            f"{folder.folder} holds {trajectory_metadata.count(folder.folder)} trajectories, which are not all, "
            "and there is no teacher to make the rest",
            "add models.teacher, or give a cache that is complete",
        )
    try:
        _Making(config, parallel, control, peers, folder).run()
    except StopRequested:
        return False
    peers.from_rank_0(folder.complete)
    return True


class _Making:
    """`done` trajectories are there, `missing` are not."""

    def __init__(self, config: TrainConfig, parallel: ParallelContext, control: Control, peers: RankGroup, folder: TrajectoryCache) -> None:
        self._config, self._parallel, self._control, self._peers, self._folder = config, parallel, control, peers, folder
        self._method = folder.method
        self._samples = open_samples(config.data, config.seed, "text")
        found = peers.from_rank_0(lambda: folder.open(len(self._samples)))
        self._timesteps: list[int] = found["timesteps"]
        self.missing: list[int] = peers.from_rank_0(lambda: folder.missing(found["total"]))
        self.done = found["total"] - len(self.missing)
        self._negative = self._read_negative()

    def run(self) -> None:
        """Until none is missing; the teacher is gone afterwards."""
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
        """This rank's batches; all ranks have as many, of as many trajectories each."""
        ranks, mine = self._parallel.data_parallel, self._parallel.data_rank
        together = self._method.teacher_batch_size * ranks
        jobs = [_Job(index, True) for index in self.missing]
        jobs += [_Job(self.missing[-1], False)] * (-len(jobs) % together)
        return [jobs[start : start + together][mine::ranks] for start in range(0, len(jobs), together)]

    @torch.no_grad()
    def _follow(self, teacher: ModelBase, jobs: Sequence[_Job], rows: Sequence[Row]) -> Tensor:
        """The states [B, S, T, C, H, W] at self._timesteps, and after them the clean end."""
        prompt = torch.stack([self._pad(torch.tensor(row.text)) for row in rows]).to(teacher.device)
        every, kept = denoising_steps.trajectory(self._method.trajectory_steps, self._config.flow_shift), list[Tensor]()

        def conditional(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return teacher.predict_velocity(noisy, timesteps, prompt)

        def unconditional(noisy: Tensor, timesteps: Tensor) -> Tensor:
            assert self._negative is not None
            return teacher.predict_velocity(noisy, timesteps, self._negative.to(noisy.device).expand_as(prompt))

        def seen(number: int, noisy: Tensor) -> None:
            self._tick()
            if every[number] in self._timesteps:
                kept.append(noisy)

        predict = guided(conditional, unconditional, self._method.teacher_guidance_scale)
        schedule = FlowSchedule(self._config.flow_shift, teacher.device)
        clean = sample(predict, schedule, self._noise(jobs).to(teacher.device), every, seen=seen)
        return torch.stack([*kept, clean], 1)

    def _noise(self, jobs: Sequence[_Job]) -> Tensor:
        """[B, T, C, H, W]: each trajectory's own, whoever makes it."""
        t, h, w = self._config.data.latent_shape
        shape = (t, len(statistics(self._config.data)[0]), h, w)
        generators = [torch.Generator().manual_seed(derived_seed("trajectory", job.index)) for job in jobs]
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

    def _read_negative(self) -> Tensor | None:
        """[text_len, D]."""
        if self._method.teacher_guidance_scale == 1:
            return None
        return self._pad(required(self._config.data, "method.teacher_guidance_scale").negative)

    def _pad(self, text: Tensor) -> Tensor:
        return pad(text, self._config.data.text_len)[0]

    def _tick(self) -> None:
        """Send a heartbeat, and raise StopRequested on all ranks where any has a stop notice."""
        self._control.progress("caching", self.done)
        self._parallel.raise_if_stopping(self._control.stop_requested)

    def _add(self, jobs: Sequence[_Job], rows: Sequence[Row], states: Tensor) -> None:
        """A disk that takes no more ends the run on all ranks; what is written stays, and counts."""
        problem, timesteps = "", np.array([*self._timesteps, 0], np.float32)
        for job, row, latents in zip(jobs, rows, states.cpu().numpy(), strict=True):
            try:
                if job.counts:
                    self._folder.add(job.index, TrajectorySample(str(job.index), latents, timesteps, row.text, row.caption, _DTYPE))
            except OSError as error:
                problem = f"{self._folder.path(job.index)} cannot be written: {error.strerror or error}"
        everyone: list[Any] = self._peers.gather((problem, sum(job.counts for job in jobs)))
        if problems := [text for text, _ in everyone if text]:
            raise UserError(problems[0], "make room, then resume: it goes on where it was")
        self.done += sum(count for _, count in everyone)
