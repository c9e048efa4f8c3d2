"""Owns the few steps of a student of two experts in use: each expert denoises in its own range of noise levels. Must not know roles.

The first expert leads from noise to the boundary, the second from there to the clean end (trainers/methods/README.md section 7): a step
of the first predicts the state at the boundary, x_b = x_t - (sigma_t - sigma_b) v, which is noised again for its next step; its last
step hands that state on as it is. A rollout that ends at a step of the first continues to the clean end along that step's own velocity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .block_rollout import Draw, FewSteps, Streaming
from .flow_schedule import NUM_TIMESTEPS, FlowSchedule


class ExpertSteps(FewSteps):
    """The steps of two experts: those at timesteps >= `boundary` are the first expert's."""

    def __init__(self, schedule: FlowSchedule, timesteps: Tensor, *, stochastic: bool, boundary: float) -> None:
        super().__init__(schedule, timesteps, stochastic=stochastic)
        self._sigma = boundary / NUM_TIMESTEPS
        self.num_high = int((timesteps >= boundary).sum())
        """How many are the first expert's. Waits for the device, once, where the timesteps are there."""

    def predict(self, model: Any, number: int, noisy: Tensor, prompt: Tensor, cache: Any, start: int) -> Tensor:
        high = number < self.num_high
        expert: Streaming = model.expert(high)
        return expert.predict_block(noisy, self._at(number, noisy), prompt, cache.expert(high), start=start)

    def onward(self, number: int, noisy: Tensor, velocity: Tensor, draw: Draw) -> Tensor:
        """Return the input of the next step; draws nothing where the state at the boundary is handed on."""
        if number >= self.num_high:
            return super().onward(number, noisy, velocity, draw)
        at_boundary, here = self._schedule.to_level(noisy, velocity, self._at(number, noisy), self._sigma), self._at(number + 1, noisy)
        if number == self.num_high - 1:
            return at_boundary
        if self._stochastic:
            return self._schedule.add_noise_above(at_boundary, draw(at_boundary), here, self._sigma)
        return super().onward(number, noisy, velocity, draw)  # Euler's method needs no stop at the boundary

    def let_go(self, cache: Any, later: Sequence[int]) -> None:
        """Let go the cache of an expert that predicts no later block, so that no block is written to it either."""
        cache.keep({number < self.num_high for last in later for number in range(last + 1)})


def steps_of(model: Any, schedule: FlowSchedule, timesteps: Tensor, *, stochastic: bool) -> FewSteps:
    """Return the steps in the form that suits the network: for one network, or for two experts."""
    boundary = getattr(model, "boundary", None)
    if boundary is None:
        return FewSteps(schedule, timesteps, stochastic=stochastic)
    return ExpertSteps(schedule, timesteps, stochastic=stochastic, boundary=boundary)
