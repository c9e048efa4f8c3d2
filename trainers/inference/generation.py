"""Owns turning prompts into videos with a role's network: noise, a sampler, decoding. Must not know runs, files or ranks.

What a run shows while it trains and what is sampled from it afterwards are made here, by one code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..config import TrainConfig
from ..data import dataset
from ..diffusion.flow_schedule import FlowSchedule
from ..diffusion.samplers import fixed_noise, frame_noise, guided, sample, solve, solver
from ..models.base import ModelBase
from ..models.codecs.base import Codec
from ..seeding import derived_seed
from .settings import Sampling
from .streaming import stream, streams


def latents(
    model: ModelBase, prompt: Tensor, negative: Tensor | None, seed: int, sampling: Sampling, tick: Callable[[], None] = lambda: None
) -> Tensor:
    """Sample one video's normalised latents [C, T, H, W] in float32. prompt and negative are [L, D], padded.

    `tick` is called after each step. The noise, that of later steps too, follows from the seed alone, the same on any device. Collective
    where the network is sharded.
    """
    return torch.cat(list(latent_parts(model, prompt, negative, seed, sampling, tick)), 1)


def latent_parts(
    model: ModelBase, prompt: Tensor, negative: Tensor | None, seed: int, sampling: Sampling, tick: Callable[[], None] = lambda: None
) -> Iterator[Tensor]:
    """Sample as `latents` does and yield [C, n, H, W]: each block of a causal network as soon as it is made, all at once of another one."""
    draw = frame_noise if streams(model) else fixed_noise
    noise = draw(sampling.shape, seed).to(model.device)[None].transpose(1, 2)
    fresh = torch.Generator().manual_seed(derived_seed("few steps", seed))
    for part in _Denoiser(model, sampling, fresh, tick).parts(noise, prompt[None], negative):
        yield part.transpose(1, 2)[0]


def denoised(
    model: ModelBase,
    noise: Tensor,
    prompts: Tensor,
    negative: Tensor | None,
    sampling: Sampling,
    fresh: torch.Generator,
    tick: Callable[[], None] = lambda: None,
) -> Tensor:
    """Turn noise [B, T, C, H, W] into normalised latents of the same shape.

    prompts are [B, L, D], negative [L, D]; later noise is drawn from `fresh`.
    """
    return torch.cat(list(_Denoiser(model, sampling, fresh, tick).parts(noise, prompts, negative)), 1)


@dataclass(frozen=True)
class _Denoiser:
    """Turns noise into normalised latents with one network and one sampler; later noise is drawn from `fresh`."""

    model: ModelBase
    sampling: Sampling
    fresh: torch.Generator
    tick: Callable[[], None]

    def parts(self, noise: Tensor, prompts: Tensor, negative: Tensor | None) -> Iterator[Tensor]:
        """Yield latents [B, n, C, H, W]: the blocks of a causal network, or all frames at once."""
        if not streams(self.model):
            yield self._at_once(noise, prompts, negative)
            return
        on_device = [None if text is None else text.to(self.model.device).expand(len(noise), -1, -1) for text in (prompts, negative)]
        assert on_device[0] is not None
        yield from stream(self.model, noise, on_device[0], on_device[1], self.sampling, self.fresh, self.tick)

    @torch.no_grad()
    def _at_once(self, noise: Tensor, prompts: Tensor, negative: Tensor | None) -> Tensor:
        predict = guided(partial(self._velocity, prompts), partial(self._velocity, negative), self.sampling.guidance_scale)
        if self.sampling.timesteps is None:
            kind: Any = self.sampling.solver
            return solve(predict, solver(kind, self.sampling.flow_shift), noise, self.sampling.num_steps, tick=self.tick)
        schedule = FlowSchedule(self.sampling.flow_shift, noise.device)
        generator = self.fresh if self.sampling.solver == "sde" else None
        return sample(predict, schedule, noise, self.sampling.timesteps, generator=generator, on_step=lambda _number, _noisy: self.tick())

    def _velocity(self, prompts: Tensor | None, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Return the network's prediction of the velocity given prompts [B, L, D], or one prompt for all [L, D]."""
        assert prompts is not None, "guidance without a negative prompt"
        return self.model.predict_velocity(noisy, timesteps, prompts.to(self.model.device).expand(len(noisy), -1, -1))


def decode(codec: Codec, normalised: Tensor, train: TrainConfig) -> Tensor:
    """Decode normalised latents [C, T, H, W] to a video [3, T, H, W] in [-1, 1] on the CPU."""
    return codec.decode_video(_denormalised(normalised, train))


def decode_parts(codec: Codec, normalised: Iterator[Tensor], train: TrainConfig) -> Iterator[Tensor]:
    """Decode normalised latents part by part, [C, n, H, W] each, and yield their frames [3, m, H, W] in [-1, 1] on the CPU."""
    return codec.decode_parts(_denormalised(part, train) for part in normalised)


def _denormalised(normalised: Tensor, train: TrainConfig) -> Tensor:
    return dataset.unnormalised(normalised.float().cpu(), *dataset.statistics(train.data))
