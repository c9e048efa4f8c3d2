"""Owns knowledge distillation into a block-causal student: each block starts from its own state on the teacher's trajectory.

Self-forcing starts from such a student (trainers/methods/README.md section 8). The loss is KDMethod's. Only the states that a video is
made of differ, and clean blocks, which later ones look at, have no loss. Draws an index [B, blocks] for each micro-batch.

Two experts learn to denoise as trainers/diffusion/expert_denoising.py uses them: the first leads from its states to the trajectory's
state at the boundary, and that state is what the second starts from at its first step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..config import TrainConfig
from ..diffusion.flow_schedule import NUM_TIMESTEPS
from ..diffusion.frame_blocks import block_of_frame, lengths
from ..models.base import ModelBase
from .base import Batch, frames_per_block
from .kd import KDMethod


class KDCausalMethod(KDMethod):
    """KDMethod with a timestep for each block of a video."""

    def __init__(self, cfg: TrainConfig, role_models: dict[str, ModelBase]) -> None:
        super().__init__(cfg, role_models)
        config: Any = cfg.method
        self.per_block = frames_per_block(self.student, config.kind)
        steps = len(self.timesteps)
        if config.clean_blocks:
            self.timesteps = torch.cat([self.timesteps, self.timesteps.new_zeros(1)])
        # the steps of each of two experts, clean blocks with both; and the trajectory's timestep of the state that is shown at a step
        self._of_expert, self._shown_at = dict[bool | None, Tensor](), self.timesteps.clone()
        if self.ranges is not None and self.student.boundary is not None:
            for high in (True, False):
                chosen = [*range(*self.ranges.entries(high, steps)), *range(steps, len(self.timesteps))]
                self._of_expert[high] = torch.tensor(chosen, device=self.device)
            self._shown_at[self.ranges.low[0]] = self.student.boundary

    def states(self, batch: Batch, high: bool | None = None) -> tuple[Tensor, Tensor]:
        """Return (states [B, T, C, H, W], timesteps [B, T]), equal within a block."""
        count, frames = batch["trajectory_latents"].shape[0], batch["trajectory_latents"].shape[2]
        own = self._of_expert.get(high)
        shape, number = (count, len(lengths(frames, self.per_block))), len(self.timesteps) if own is None else len(own)
        index = torch.randint(0, number, shape, generator=self.cuda_generator, device=self.device)
        index = (index if own is None else own[index])[:, block_of_frame(frames, self.per_block, self.device)]
        return _stored_states(batch, (self.timesteps if own is None else self._shown_at)[index]), self.timesteps[index]

    def target(self, batch: Batch, noisy: Tensor, timesteps: Tensor, high: bool | None) -> Tensor:
        """Return the clean target; for the first of two experts the end of the straight line from its state through the trajectory's state
        at the boundary."""
        if not high or self.student.boundary is None:
            return super().target(batch, noisy, timesteps, high)
        handed_on = _stored_states(batch, torch.full_like(timesteps, self.student.boundary)).double()
        sigma = self.schedule.sigma(timesteps)[..., None, None, None]
        slope = (noisy.double() - handed_on) / (sigma - self.student.boundary / NUM_TIMESTEPS)
        return (noisy.double() - sigma * slope).to(noisy.dtype)

    def loss_weights(self, timesteps: Tensor) -> Tensor:
        """Return weights [B, T] with a mean of 1: clean frames count nothing, all others alike."""
        counts = (timesteps > 0).float()
        return counts / counts.mean().clamp(min=1 / counts.numel())


def _stored_states(batch: Batch, timesteps: Tensor) -> Tensor:
    """Return [B, T, C, H, W]: for each frame the trajectory's state at the frame's own timestep ([B, T])."""
    trajectories = batch["trajectory_latents"]
    nearest = (batch["trajectory_timesteps"][:, None] - timesteps[..., None]).abs().argmin(-1)
    count, frames = timesteps.shape
    every = torch.arange(count, device=timesteps.device)[:, None], torch.arange(frames, device=timesteps.device)[None]
    return trajectories[every[0], nearest, every[1]]
