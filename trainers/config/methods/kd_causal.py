"""Owns the knobs of knowledge distillation into a causal student (methods/README.md section 8). Must not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .. import causal_checks, denoising_steps
from ..section import Problem
from . import kd

if TYPE_CHECKING:
    from ..train_block import TrainBlock


class Config(kd.Config):
    """Knowledge distillation into a causal student; self-forcing starts from its export."""

    kind: Literal["kd-causal"] = "kd-causal"  # type: ignore[assignment]
    """Chooses knowledge distillation into a causal student."""
    clean_blocks: bool = True
    """Whether a block may also be shown clean, at timestep 0, as all earlier blocks are when the student samples; it has no loss then.
    false: every block is at one of t_list's timesteps before its 0."""

    def kept(self, train: TrainBlock) -> list[int]:
        """Return the timesteps that are kept; of a student of two experts also the boundary, where the first hands on to the second."""
        ratio = getattr(train.models.get("student"), "boundary_ratio", None)
        timesteps = super().kept(train)
        return timesteps if ratio is None else sorted({*timesteps, round(ratio * 1000)}, reverse=True)

    def problems(self, train: TrainBlock) -> list[Problem]:
        """Return what does not fit the rest of the train block."""
        return causal_checks.problems(train) + super().problems(train) + self._boundary_problems(train)

    def _boundary_problems(self, train: TrainBlock) -> list[Problem]:
        ratio = getattr(train.models.get("student"), "boundary_ratio", None)
        if ratio is None:
            return []
        boundary, valid = round(ratio * 1000), denoising_steps.trajectory(self.trajectory_steps, train.flow_shift)
        if boundary in self.t_list:
            message = f"{boundary} is the boundary itself, where the first expert has nothing left to do"
            return [Problem(("method", "t_list"), message, "timesteps above and below it")]
        if boundary not in valid or boundary != ratio * 1000:
            message = (
                f"the boundary of the student's experts, {ratio * 1000:g}, is not on the teacher's trajectory, whose state there is needed"
            )
            near = _near(valid, boundary)
            hint = f"another number of steps; {self.trajectory_steps} with flow_shift {train.flow_shift:g} have {near} near it"
            return [Problem(("method", "trajectory_steps"), message, hint)]
        return []


def _near(valid: list[int], timestep: int) -> str:
    return ", ".join(map(str, sorted(sorted(valid, key=lambda t: abs(t - timestep))[:2], reverse=True)))
