"""Owns the knobs of self-forcing, DMD2 on a causal student's own samples (methods/README.md section 7). Must not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeInt

from .. import causal_checks
from ..section import Problem
from . import dmd2

if TYPE_CHECKING:
    from ..train_block import TrainBlock


class Config(dmd2.Config):
    """Self-forcing (arXiv 2506.08009): DMD2 on videos that a causal student makes block by block from its own past."""

    kind: Literal["self-forcing"] = "self-forcing"  # type: ignore[assignment]
    """Chooses self-forcing."""
    rollout: Literal["simulate"] = "simulate"
    """Always simulate: the student's own samples, so that prompts are all the data it needs."""
    same_step_across_blocks: bool = True
    """Whether the one denoising step that has a gradient is drawn once for all blocks of a video, or for each block. All ranks draw the
    same."""
    last_step_only: bool = False
    """Give the gradient to the last of denoising_steps at each iteration, instead of one drawn at random."""
    renoise: Literal["sde", "ode"] = "sde"
    """How noise comes back between two denoising steps. sde: fresh noise. ode: the noise that the prediction implies. Validation and
    samples do the same."""
    context_noise: float = Field(0.0, ge=0, lt=1000)
    """Timestep at which a finished block is shown to later blocks; 0: clean."""
    start_gradient_frame: NonNegativeInt = 0
    """Blocks that start before this latent frame have no gradient, so that a long video needs less memory."""
    require_causal_start: bool = True
    """Refuse a student whose weights do not say that they were trained as a causal network of the same blocks."""

    @property
    def few_step_solver(self) -> Literal["sde", "ode"]:
        return self.renoise

    def problems(self, train: TrainBlock) -> list[Problem]:
        """Return what does not fit the rest of the train block."""
        problems = causal_checks.problems(train) + super().problems(train)
        frames = train.data.latent_shape[0]
        if not problems and self.start_gradient_frame > (last := self._last_start(train)):
            message = f"{self.start_gradient_frame}: no block has a gradient, the last of the {frames} latent frames starts at {last}"
            problems.append(Problem(("method", "start_gradient_frame"), message, f"at most {last}"))
        for role in ("teacher", "critic"):
            if getattr(train.models.get(role), "num_frames_per_block", None) is not None:
                message = f"the {role} scores whole videos: it must see all frames, not only earlier ones"
                problems.append(Problem(("models", role, "family"), message, "use family: wan"))
        return problems

    def _last_start(self, train: TrainBlock) -> int:
        """Return the first frame of the last block."""
        per_block = getattr(train.models.get("student"), "num_frames_per_block", 1)
        return int((train.data.latent_shape[0] - 1) // per_block * per_block)

    def missing_inputs(self, train: TrainBlock) -> list[Problem]:
        """Return what is missing, also where the student would not start as a causal network. Looks at the disk."""
        wrong = self.wrong_start(train)
        return super().missing_inputs(train) + ([] if wrong is None else [Problem(("models", "student", "init_from"), *wrong)])

    def wrong_start(self, train: TrainBlock) -> tuple[str, str] | None:
        """Return (what is wrong, hint) with the weights that the student starts from; else None."""
        if not self.require_causal_start or "student" not in train.models:
            return None
        wrong = causal_checks.wrong_start(train.models["student"])
        return wrong and (wrong[0], f"{wrong[1]}; or method.require_causal_start: false")
