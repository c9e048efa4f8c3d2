"""Owns the knobs of DMD2, distribution matching distillation to a few steps (methods/README.md section 5). Must not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from .. import denoising_steps as steps
from .. import guidance
from ..data import Needs
from ..section import Problem
from .base import MethodConfig

if TYPE_CHECKING:
    from ..train_block import TrainBlock


class Config(MethodConfig):
    """DMD2 (arXiv 2405.14867): a student of a few steps learns to make what its teacher finds likely. A critic follows the student."""

    kind: Literal["dmd2"] = "dmd2"
    """Chooses DMD2."""
    trainable_roles: ClassVar[tuple[str, ...]] = ("student", "critic")
    frozen_roles: ClassVar[tuple[str, ...]] = ("teacher",)

    denoising_steps: list[int | float]
    """Timesteps, 1000 to 0, that the student is trained and sampled at, descending and without the final 0: [1000, 757, 522] makes a
    student of three steps."""
    warp_denoising_steps: bool = False
    """Whether denoising_steps are counted before flow_shift is applied: 500 then stands for timestep 833.3 with flow_shift 5."""
    rollout: Literal["simulate", "data_latent"] = "simulate"
    """Where the student's inputs come from. simulate: its own samples from pure noise, so that prompts are all the data it needs.
    data_latent: clips with noise."""
    generator_update_interval: PositiveInt = 5
    """The student is updated at every so many iterations, the critic at each."""
    teacher_guidance_scale: float = Field(4.5, ge=0)
    """Classifier-free guidance of the teacher: s of u + s (c - u), with c the prediction for the prompt and u the one for the negative
    prompt. Others write w of c + w (c - u): s = w + 1."""
    score_flow_shift: PositiveFloat | None = None
    """flow_shift of the noise levels at which teacher and critic are compared. null: train.flow_shift."""
    min_timestep_ratio: float = Field(0.0, ge=0, le=1)
    """Lowest noise level at which teacher and critic are compared: timestep / 1000, after the shift."""
    max_timestep_ratio: float = Field(1.0, ge=0, le=1)
    """Highest noise level at which teacher and critic are compared: timestep / 1000, after the shift."""

    @model_validator(mode="after")
    def _window_holds_something(self) -> Config:
        if self.min_timestep_ratio >= self.max_timestep_ratio:
            raise ValueError(f"min_timestep_ratio {self.min_timestep_ratio:g} is not below max_timestep_ratio {self.max_timestep_ratio:g}")
        return self

    @property
    def needs(self) -> Needs:
        """Return what the method reads of a sample: clips only where they are noised."""
        return "latents" if self.rollout == "data_latent" else "text"

    def few_steps(self, flow_shift: float) -> list[float]:
        """Return the timesteps that the student is trained and sampled at."""
        return steps.timesteps(self.denoising_steps, flow_shift, self.warp_denoising_steps)

    def update_interval(self, role: str) -> int:
        return self.generator_update_interval if role == "student" else 1

    def problems(self, train: TrainBlock) -> list[Problem]:
        """Return what does not fit the rest of the train block."""
        problems = []
        from_noise = self.rollout == "simulate"
        wrong = steps.wrong(self.denoising_steps, train.flow_shift, self.warp_denoising_steps, from_noise=from_noise)
        if wrong := wrong or steps.one_sided(self.few_steps(train.flow_shift), train.models.get("student")):
            problems.append(Problem(("method", "denoising_steps"), *wrong))
        if self.generator_update_interval > train.max_steps:
            message = f"the student would never step: its interval is {self.generator_update_interval}, max_steps {train.max_steps}"
            problems.append(Problem(("method", "generator_update_interval"), message, "a smaller interval, or more steps"))
        for role in ("teacher", "critic"):
            if getattr(train.models.get(role), "architecture", None) is not None:
                message = f"the {role} would start from random weights: there is nothing to distil from"
                problems.append(Problem(("models", role, "architecture"), message, f"set models.{role}.init_from to a trained model"))
        return problems

    def missing_inputs(self, train: TrainBlock) -> list[Problem]:
        return guidance.no_negative_prompt(train, self.teacher_guidance_scale)
