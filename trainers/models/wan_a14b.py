"""Owns Wan2.2 A14B as a role: two Wans, each with its own range of timesteps. Must not know any method.

Each expert is a whole role of one network, sharded by itself. All ranks must agree on an expert before a pass: see `ModelBase.expert`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..config.models.wan_a14b import HIGH, LOW
from ..diffusion.flow_schedule import NUM_TIMESTEPS
from ..distributed.mesh import ParallelContext
from .base import COMPUTE_TYPES, ModelBase, OneNetwork
from .loading import expert_folders
from .wan import Wan


class WanA14B(ModelBase):
    """A role of two experts: `transformer` predicts at timesteps >= `boundary`, `transformer_2` below, as in diffusers' WanPipeline."""

    expert_class: ClassVar[type[OneNetwork]] = Wan

    def __init__(
        self, config: Any, role: str, *, trainable: bool, precision: str, seed: int, parallel: ParallelContext, load_weights: bool
    ) -> None:
        self.config, self.role, self.trainable = config, role, trainable
        self.device, self.compute_type = parallel.device, COMPUTE_TYPES[precision]
        self.boundary, self._parallel = config.boundary_ratio * NUM_TIMESTEPS, parallel
        made = [
            self.expert_class(
                expert_folders.section_of(config, name),
                role,
                trainable=trainable,
                precision=precision,
                seed=seed,
                parallel=parallel,
                load_weights=load_weights,
                part=f"{role}.{name}",
            )
            for name in (HIGH, LOW)
        ]
        self.high, self.low = made

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {HIGH: self.high.transformer, LOW: self.low.transformer}

    def expert(self, high: bool | None) -> ModelBase:
        assert high is not None, "which of two experts predicts is for the caller to say"
        return self.high if high else self.low

    def on_step(self, step: int) -> None:
        for expert in (self.high, self.low):
            expert.on_step(step)

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        """Return the velocity at any timesteps, each predicted by its expert. Collective, and waits for the device: training steps call
        `expert`.

        An expert passes over the whole batch on all ranks as soon as any sample on any of them needs it.
        """
        above = timesteps >= self.boundary
        used = self._parallel.any_rank(bool(above.any()), not bool(above.all()))
        velocities = [
            self.expert(high).predict_velocity(noisy, timesteps, prompt) for high, needed in zip((True, False), used, strict=True) if needed
        ]
        if len(velocities) == 1:
            return velocities[0]
        return torch.where(above.reshape(*above.shape, *[1] * (noisy.ndim - above.ndim)), *velocities)
