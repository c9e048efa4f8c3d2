"""Owns how a video is sampled: solver, steps, guidance, size, as one value. Must not sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..config import Problem, TrainConfig
from ..config.validation import ValidationConfig
from ..diffusion.frame_blocks import Window
from ..errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How a video is made of noise; `shape` is that of its latents [C, T, H, W]; `timesteps` are set for a student of few steps alone."""

    shape: tuple[int, int, int, int]
    num_steps: int
    guidance_scale: float
    solver: str
    flow_shift: float
    timesteps: tuple[float, ...] | None = None
    context_noise: float = 0.0
    """The timestep at which a block of a causal network is shown to later ones."""
    window: Window | None = None
    """The attention window of a causal network; None: the network's own."""


def sampling_of(train: TrainConfig, validation: ValidationConfig, channels: int) -> Sampling:
    """Return how the run's validation samples: sizes are the data's where `validation` gives none, steps the student's."""
    validation = train.sampling(validation)
    data = validation.sizes(train.data)
    refuse(data.misfits())
    t, h, w = data.latent_shape
    shift = validation.flow_shift or train.flow_shift
    assert validation.num_steps is not None and validation.guidance_scale is not None and validation.solver is not None
    few = None if validation.timesteps is None else tuple(validation.timesteps)
    window = validation.window(train.models.get("student"), train.data)
    return Sampling(
        (channels, t, h, w), validation.num_steps, validation.guidance_scale, validation.solver, shift, few,
        getattr(train.method, "context_noise", 0.0), None if window is None else Window(*window),
    )  # fmt: skip


def refuse(misfits: Sequence[Problem]) -> None:
    """Raise UserError that names all sizes of a sample which cannot be made, where there are any."""
    if misfits:
        message = "; ".join(f"{wrong.path[-1]}: {wrong.message}" for wrong in misfits)
        raise UserError(message, "; ".join(f"{wrong.path[-1]}: {wrong.hint}" if len(misfits) > 1 else wrong.hint for wrong in misfits))
