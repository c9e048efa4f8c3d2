"""Owns sampling with a causal network: block after block, each as soon as it is made, for as long as is asked for.

Each block is denoised as others denoise a whole video, with few steps or many, then written to a cache that later blocks read: one for
each prompt, and where there is guidance one more for the negative prompt. Must not know runs, files or codecs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
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

Denoise = Callable[[Tensor, int], Tensor]
"""(noise [B, n, C, H, W], the block's first frame) -> the clean block."""


def streams(model: ModelBase) -> bool:
    """Whether the network makes a video block by block."""
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
    """Noise [B, T, C, H, W], prompts [B, L, D] and, for guidance, a negative one -> normalised latents [B, n, C, H, W] of each block.

    `fresh`: where later noise comes from, block after block; `tick` is called after each pass. Collective where the network is sharded.
    """
    num_frames, size = noise.shape[1], (noise.shape[-2], noise.shape[-1])
    given = [prompts] if sampling.guidance_scale == 1 else [prompts, negative]
    contexts = [(text, model.open_cache(len(noise), text, num_frames, size, sampling.window)) for text in given]
    draw = partial(_drawn, fresh)
    denoise = (_few_steps if sampling.timesteps is not None else _many_steps)(model, contexts, sampling, draw, tick)
    schedule, start = FlowSchedule(sampling.flow_shift, noise.device), 0
    for block in noise.split(lengths(num_frames, model.num_frames_per_block), 1):
        clean = denoise(block, start)
        yield clean
        if start + block.shape[1] < num_frames:
            shown, timesteps = as_context(schedule, clean, sampling.context_noise, draw)
            for text, cache in contexts:
                model.write_block(shown, timesteps, text, cache, start=start)
                tick()
        start += block.shape[1]


Contexts = list[tuple[Tensor, Any]]
"""Each prompt [B, L, D] with its cache; the negative one, where there is one, is the second."""


def _few_steps(model: Any, contexts: Contexts, sampling: Sampling, draw: Callable[[Tensor], Tensor], tick: Callable[[], None]) -> Denoise:
    """As the student of few steps is trained; see trainers/diffusion/block_rollout.py."""
    device = contexts[0][0].device
    at = torch.tensor(sampling.timesteps, dtype=torch.float32, device=device)
    steps = steps_of(model, FlowSchedule(sampling.flow_shift, device), at, stochastic=sampling.solver == "sde")

    def denoise(noise: Tensor, start: int) -> Tensor:
        def one(noisy: Tensor, number: int, context: tuple[Tensor, Any]) -> Tensor:
            velocity = steps.predict(model, number, noisy, context[0], context[1], start)
            tick()
            return velocity

        def predict(noisy: Tensor, number: int) -> Tensor:
            both = [lambda noisy, _timesteps, context=context: one(noisy, number, context) for context in contexts]
            return guided(both[0], both[-1], sampling.guidance_scale)(noisy, at[number])

        return denoised(predict, steps, noise, len(at) - 1, draw, graded=False)

    return denoise


def _many_steps(model: Any, contexts: Contexts, sampling: Sampling, _draw: Callable[[Tensor], Tensor], tick: Callable[[], None]) -> Denoise:
    """As any network of many steps; a solver remembers, so each block gets its own."""
    kind: Any = sampling.solver

    def denoise(noise: Tensor, start: int) -> Tensor:
        both: list[Predict] = [partial(_predicted, model, start, *context) for context in contexts]
        predict = guided(both[0], both[-1], sampling.guidance_scale)
        return solve(predict, solver(kind, sampling.flow_shift), noise, sampling.num_steps, tick=tick)

    return denoise


def _predicted(model: Any, start: int, prompt: Tensor, cache: Any, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """By the expert of these timesteps, which are one, where there are two."""
    if model.boundary is not None:
        high = bool(timesteps[0] >= model.boundary)
        model, cache = model.expert(high), cache.expert(high)
    found: Tensor = model.predict_block(noisy, timesteps, prompt, cache, start=start)
    return found


def _drawn(generator: torch.Generator, like: Tensor) -> Tensor:
    return fresh_noise(like, generator)
