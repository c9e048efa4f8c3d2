"""Owns sampling with a causal network: block after block, each as soon as it is made, for any length.

Must not know runs, files or codecs. Each block is denoised as others denoise a whole video, with few steps or many, then written to a cache
that later blocks read: one for each prompt, and where there is guidance one more for the negative prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..diffusion.block_rollout import as_context, denoised
from ..diffusion.expert_denoising import steps_of
from ..diffusion.flow_schedule import FlowSchedule
from ..diffusion.frame_blocks import lengths
from ..diffusion.samplers import Predict, fresh_noise, guided, solve, solver

if TYPE_CHECKING:
    from ..models.base import ModelBase
    from .settings import Sampling


def streams(model: ModelBase) -> bool:
    """Return whether the network makes a video block by block."""
    return hasattr(model, "write_block")


@torch.no_grad()
def stream(
    model: Any,
    noise: Tensor,
    prompts: Tensor,
    negative: Tensor | None,
    sampling: Sampling,
    fresh: torch.Generator,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """Turn noise [B, T, C, H, W] into normalised latents and yield those of each block, [B, n, C, H, W].

    prompts are [B, L, D]; so is the negative one, for guidance. Later noise is drawn from `fresh`, block after block; `tick` is called
    after each pass. Collective where the network is sharded.
    """
    num_frames, size = noise.shape[1], (noise.shape[-2], noise.shape[-1])
    given = [prompts] if sampling.guidance_scale == 1 else [prompts, negative]
    contexts = [(text, model.open_cache(len(noise), text, num_frames, size, sampling.window)) for text in given]
    draw = partial(_drawn, fresh)
    denoiser = _BlockDenoiser(model, contexts, sampling, draw, tick)
    denoiser.let_go()
    schedule, start = FlowSchedule(sampling.flow_shift, noise.device), 0
    for block in noise.split(lengths(num_frames, model.num_frames_per_block), 1):
        clean = denoiser.denoised(block, start)
        yield clean
        if start + block.shape[1] < num_frames:
            shown, timesteps = as_context(schedule, clean, sampling.context_noise, draw)
            for text, cache in contexts:
                model.write_block(shown, timesteps, text, cache, start=start)
                tick()
        start += block.shape[1]


Context = tuple[Tensor, Any]
"""A prompt [B, L, D] with its cache."""
Contexts = list[Context]
"""Each prompt [B, L, D] with its cache; the negative one, where there is one, is the second."""


@dataclass(frozen=True)
class _BlockDenoiser:
    """Denoises a block given the cache of the blocks before it, by one sampler."""

    model: Any
    contexts: Contexts
    sampling: Sampling
    draw: Callable[[Tensor], Tensor]
    tick: Callable[[], None]

    def denoised(self, noise: Tensor, start: int) -> Tensor:
        """Turn noise [B, n, C, H, W] into the clean block that begins at frame `start`."""
        return self._in_many_steps(noise, start) if self.sampling.timesteps is None else self._in_few_steps(noise, start)

    def let_go(self) -> None:
        """Let go the cache of an expert that none of the steps is of."""
        if self.sampling.timesteps is not None:
            for _, cache in self.contexts:
                self._steps.let_go(cache, [len(self._timesteps) - 1])
        elif self.model.boundary is not None:
            stepping = solver(self._solver, self.sampling.flow_shift)
            stepping.set_timesteps(self.sampling.num_steps)
            for _, cache in self.contexts:
                cache.keep({bool(timestep >= self.model.boundary) for timestep in stepping.timesteps})

    def _in_few_steps(self, noise: Tensor, start: int) -> Tensor:
        """Denoise in the few steps that the student was trained with; see trainers/diffusion/block_rollout.py."""
        predict = partial(self._few_step_velocity, start)
        return denoised(predict, self._steps, noise, len(self._timesteps) - 1, self.draw, graded=False)

    def _in_many_steps(self, noise: Tensor, start: int) -> Tensor:
        """Denoise in many steps; a solver keeps a history, so each block gets its own."""
        both: list[Predict] = [partial(self._velocity, start, context) for context in self.contexts]
        predict = guided(both[0], both[-1], self.sampling.guidance_scale)
        return solve(predict, solver(self._solver, self.sampling.flow_shift), noise, self.sampling.num_steps, tick=self.tick)

    @property
    def _solver(self) -> Any:
        """The solver of many steps."""
        return self.sampling.solver

    @cached_property
    def _timesteps(self) -> Tensor:
        return torch.tensor(self.sampling.timesteps, dtype=torch.float32, device=self.contexts[0][0].device)

    @cached_property
    def _steps(self) -> Any:
        schedule = FlowSchedule(self.sampling.flow_shift, self._timesteps.device)
        return steps_of(self.model, schedule, self._timesteps, stochastic=self.sampling.solver == "sde")

    def _few_step_velocity(self, start: int, noisy: Tensor, number: int) -> Tensor:
        """Return the guided velocity of step `number`."""
        both: list[Predict] = [partial(self._velocity_of_step, number, start, context) for context in self.contexts]
        return guided(both[0], both[-1], self.sampling.guidance_scale)(noisy, self._timesteps[number])

    def _velocity_of_step(self, number: int, start: int, context: Context, noisy: Tensor, _timesteps: Tensor) -> Tensor:
        velocity: Tensor = self._steps.predict(self.model, number, noisy, context[0], context[1], start)
        self.tick()
        return velocity

    def _velocity(self, start: int, context: Context, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Return the velocity; where there are two experts that of the expert of these timesteps, which are all the same."""
        model, (prompt, cache) = self.model, context
        if model.boundary is not None:
            high = bool(timesteps[0] >= model.boundary)
            model, cache = model.expert(high), cache.expert(high)
        velocity: Tensor = model.predict_block(noisy, timesteps, prompt, cache, start=start)
        return velocity


def _drawn(generator: torch.Generator, like: Tensor) -> Tensor:
    return fresh_noise(like, generator)
