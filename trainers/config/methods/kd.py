"""Owns the knobs of knowledge distillation on a teacher's cached trajectories (methods/README.md section 8). Must not import torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from .. import denoising_steps, guidance
from .. import trajectory_metadata as cache
from ..data import DataConfig, Needs
from ..section import Problem
from .base import MethodConfig

if TYPE_CHECKING:
    from ..train_block import TrainBlock


class Config(MethodConfig):
    """Knowledge distillation: a student of a few steps learns from states of its teacher's many-step sampling trajectories."""

    kind: Literal["kd"] = "kd"
    """Chooses knowledge distillation."""
    trainable_roles: ClassVar[tuple[str, ...]] = ("student",)
    frozen_roles: ClassVar[tuple[str, ...]] = ("teacher",)
    optional_roles: ClassVar[tuple[str, ...]] = ("teacher",)
    preparing_roles: ClassVar[tuple[str, ...]] = ("teacher",)

    cache: str
    """Folder of the teacher's trajectories. They are made from the data's prompts before the first step; a run that was cut short goes on
    there, and other runs use them again."""
    t_list: list[int]
    """Timesteps of the teacher's trajectory that the student is trained and sampled at, descending, with 0 at the end: [995, 937, 833, 625,
    0]."""
    trajectory_steps: int = Field(48, ge=1, le=500)
    """Steps of the teacher's sampling, Euler steps at u = 1, 1 - 1/48, ... with train.flow_shift; their timesteps are cut to whole
    numbers."""
    teacher_guidance_scale: float = Field(6.0, ge=0)
    """Classifier-free guidance in the trajectories: s of u + s (c - u). Others write w of c + w (c - u): s = w + 1."""
    num_trajectories: PositiveInt | None = None
    """How many trajectories are made. null: one for each of the data's samples. More than these: prompts are used again, with other
    noise."""
    teacher_batch_size: PositiveInt = 1
    """Trajectories that a rank makes at once."""

    @property
    def needs(self) -> Needs:
        return "trajectory"

    def preparing_passes(self) -> int:
        """Return the teacher's passes for a trajectory: with guidance two a step, with and without the prompt."""
        return self.trajectory_steps * (1 if self.teacher_guidance_scale == 1 else 2)

    def few_steps(self, flow_shift: float) -> list[float]:
        """Return the timesteps that the student is trained and sampled at."""
        return [float(t) for t in self.t_list[:-1]]

    def training_data(self, train: TrainBlock) -> DataConfig:
        """Return the cache's samples as the data of the steps."""
        return train.data.model_copy(update={"path": str(Path(self.cache) / cache.SAMPLES), "source": None, "prepare": None})

    def read_folders(self, train: TrainBlock) -> Iterable[str]:
        """Return the folders of prompts, which are read only to make trajectories of them."""
        return () if cache.is_complete(Path(self.cache)) else train.data.folders

    def settings(self, train: TrainBlock) -> dict[str, Any]:
        """Return what the cache's trajectories must have been made with, as far as the configuration tells."""
        return {
            "flow_shift": train.flow_shift,
            "trajectory_steps": self.trajectory_steps,
            "teacher_guidance_scale": self.teacher_guidance_scale,
            "latents": list(train.data.latent_shape),
            "text_len": train.data.text_len,
            "timesteps": self.kept(train),
            "total": self.num_trajectories,
        }

    def kept(self, train: TrainBlock) -> list[int]:
        """Return the timesteps of the states that the student learns from."""
        return self.t_list[:-1]

    def problems(self, train: TrainBlock) -> list[Problem]:
        """Return what does not fit the rest of the train block."""
        problems = []
        wrong = self._wrong_list(train.flow_shift)
        if wrong := wrong or denoising_steps.one_sided(self.t_list[:-1], train.models.get("student")):
            problems.append(Problem(("method", "t_list"), *wrong))
        if train.data.text_dropout:
            message = "the teacher's trajectories belong to their prompts"
            problems.append(Problem(("data", "text_dropout"), message, "text_dropout: 0; guidance is in the trajectories already"))
        if getattr(train.models.get("teacher"), "architecture", None) is not None:
            message = "the teacher would start from random weights: there is nothing to distil from"
            problems.append(Problem(("models", "teacher", "architecture"), message, "set models.teacher.init_from to a trained model"))
        return problems

    def _wrong_list(self, flow_shift: float) -> tuple[str, str] | None:
        valid = denoising_steps.trajectory(self.trajectory_steps, flow_shift)
        listed = f"valid with trajectory_steps {self.trajectory_steps} and flow_shift {flow_shift:g}: {', '.join(map(str, valid))}"
        if len(self.t_list) < 2 or self.t_list[-1] != 0:
            return f"{self.t_list} does not end with 0, after at least one timestep", listed
        if off := [t for t in self.t_list[:-1] if t not in valid]:
            return f"{', '.join(map(str, off))}: not on the teacher's trajectory", listed
        wrong = denoising_steps.wrong(self.t_list[:-1], flow_shift, False, from_noise=True)
        return wrong and (wrong[0], listed)

    def missing_inputs(self, train: TrainBlock) -> list[Problem]:
        """Return the problem of a cache of something else, or of one that cannot be finished. Looks at the disk."""
        folder, teacher = Path(self.cache), train.models.get("teacher")
        try:
            metadata = cache.read(folder)
        except cache.NoCache as error:
            return [Problem(("method", "cache"), str(error), "give another folder")]
        digest = cache.local_digest(getattr(teacher, "references", ()))
        if metadata is not None and (wrong := cache.differences(metadata, {**self.settings(train), "teacher": digest})):
            message = f"the trajectories in {folder} were made otherwise: {wrong}"
            return [Problem(("method", "cache"), message, "give another folder, or what they were made with")]
        if cache.is_complete(folder):
            return []
        if teacher is None:
            there = f"{cache.count(folder)} of {metadata['total']} trajectories" if metadata else "nothing"
            message = f"{folder} holds {there}, and there is no teacher to make the rest"
            return [Problem(("models",), message, "add models.teacher, or give a cache that is complete")]
        return guidance.no_negative_prompt(train, self.teacher_guidance_scale)
