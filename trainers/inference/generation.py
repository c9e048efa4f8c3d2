"""Owns prompts -> videos with a role's network: embeddings, fixed noise, a sampler, decoding. Must not know runs, files or ranks.

What a run shows while it trains and what is sampled from it afterwards are made here, alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """One video's normalised latents [C, T, H, W] float32. prompt and negative [L, D], padded; `tick` is called after each step.

    Noise is the seed's alone, that of later steps too, the same on any device. Collective where the network is sharded.
    """
    return torch.cat(list(latent_parts(model, prompt, negative, seed, sampling, tick)), 1)


def latent_parts(
    model: ModelBase, prompt: Tensor, negative: Tensor | None, seed: int, sampling: Sampling, tick: Callable[[], None] = lambda: None
) -> Iterator[Tensor]:
    """The same, of a causal network block by block as they are made, else in one: [C, n, H, W] each."""
    draw = frame_noise if streams(model) else fixed_noise
    noise = draw(sampling.shape, seed).to(model.device)[None].transpose(1, 2)
    fresh = torch.Generator().manual_seed(derived_seed("few steps", seed))
    for part in _denoised_parts(model, noise, prompt[None], negative, sampling, fresh, tick):
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
    """Noise [B, T, C, H, W] -> normalised latents, alike. prompts [B, L, D], negative [L, D]; `fresh`: where later noise comes from."""
    return torch.cat(list(_denoised_parts(model, noise, prompts, negative, sampling, fresh, tick)), 1)


def _denoised_parts(
    model: ModelBase,
    noise: Tensor,
    prompts: Tensor,
    negative: Tensor | None,
    sampling: Sampling,
    fresh: torch.Generator,
    tick: Callable[[], None],
) -> Iterator[Tensor]:
    if not streams(model):
        yield _denoised_at_once(model, noise, prompts, negative, sampling, fresh, tick)
        return
    on_device = [None if text is None else text.to(model.device).expand(len(noise), -1, -1) for text in (prompts, negative)]
    assert on_device[0] is not None
    yield from stream(model, noise, on_device[0], on_device[1], sampling, fresh, tick)


@torch.no_grad()
def _denoised_at_once(
    model: ModelBase,
    noise: Tensor,
    prompts: Tensor,
    negative: Tensor | None,
    sampling: Sampling,
    fresh: torch.Generator,
    tick: Callable[[], None],
) -> Tensor:
    predict = guided(_conditioned(model, prompts), _conditioned(model, negative), sampling.guidance_scale)
    if sampling.timesteps is None:
        kind: Any = sampling.solver
        return solve(predict, solver(kind, sampling.flow_shift), noise, sampling.num_steps, tick=tick)
    schedule = FlowSchedule(sampling.flow_shift, noise.device)
    generator = fresh if sampling.solver == "sde" else None
    return sample(predict, schedule, noise, sampling.timesteps, generator=generator, on_step=lambda _number, _noisy: tick())


def _conditioned(model: ModelBase, prompts: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """[B, L, D], or one for all [L, D]."""

    def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
        assert prompts is not None, "guidance without a negative prompt"
        return model.predict_velocity(noisy, timesteps, prompts.to(model.device).expand(len(noisy), -1, -1))

    return predict


def decode(codec: Codec, normalised: Tensor, train: TrainConfig) -> Tensor:
    """Normalised latents [C, T, H, W] -> video [3, T, H, W] in [-1, 1] on the CPU."""
    return codec.decode_video(_denormalised(normalised, train))


def decode_parts(codec: Codec, normalised: Iterator[Tensor], train: TrainConfig) -> Iterator[Tensor]:
    """The same, of latents as they come, [C, n, H, W] each: their frames [3, m, H, W]."""
    return codec.decode_parts(_denormalised(part, train) for part in normalised)


def _denormalised(normalised: Tensor, train: TrainConfig) -> Tensor:
    return dataset.unnormalised(normalised.float().cpu(), *dataset.statistics(train.data))
