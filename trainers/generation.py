"""Owns prompts -> videos with a role's network: embeddings, fixed noise, a sampler, decoding. Must not know runs, files or ranks.

What a run shows while it trains and what is sampled from it afterwards are made here, alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .block_by_block import stream, streams
from .blocks import Window
from .codecs import Codec, WanCodec
from .config import TrainConfig
from .config.validation import ValidationConfig
from .data import dataset
from .data.prompts import prompts as stored_prompts
from .data.shapes import ShapesCodec
from .errors import UserError
from .flow import FlowSchedule
from .models import source
from .models.base import COMPUTE_TYPES, ModelBase
from .randomness import derived_seed
from .sampling import fixed_noise, frame_noise, guided, sample, solve, solver

SHAPES = "shapes"
"""Stands for the moving-shapes task's codec where a model folder could."""


@dataclass(frozen=True)
class Sampling:
    """How a video is made of noise. `shape` is the latents' [C, T, H, W]; `timesteps` are a few-step student's, else None."""

    shape: tuple[int, int, int, int]
    num_steps: int
    guidance_scale: float
    solver: str
    flow_shift: float
    timesteps: tuple[float, ...] | None = None
    context_noise: float = 0.0
    """Of a causal network: the timestep at which a block is shown to later ones."""
    window: Window | None = None
    """Of a causal network; None: its own."""


def sampling_of(train: TrainConfig, validation: ValidationConfig, channels: int) -> Sampling:
    """As the run's validation samples: sizes are the data's where `validation` gives none, steps the student's."""
    validation = train.sampling(validation)
    data = validation.sizes(train.data)
    for wrong in data.misfits():
        raise UserError(f"{wrong.path[-1]}: {wrong.message}", wrong.hint)
    t, h, w = data.latent_shape
    shift = validation.flow_shift or train.flow_shift
    assert validation.num_steps is not None and validation.guidance_scale is not None and validation.solver is not None
    few = None if validation.timesteps is None else tuple(validation.timesteps)
    window = validation.window(train.models.get("student"), train.data)
    return Sampling(
        (channels, t, h, w), validation.num_steps, validation.guidance_scale, validation.solver, shift, few,
        getattr(train.method, "context_noise", 0.0), None if window is None else Window(*window),
    )  # fmt: skip


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
    return sample(predict, schedule, noise, sampling.timesteps, generator=generator, seen=lambda _number, _noisy: tick())


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
    mean, std = (values.reshape(-1, 1, 1, 1) for values in dataset.statistics(train.data))
    return normalised.float().cpu() * std + mean


# --- prompts and codecs


@dataclass(frozen=True)
class Embedded:
    """A prompt's text and its embedding [text_len, D]."""

    text: str
    embedding: Tensor


def model_reference(train: TrainConfig, asked: str | None, role: str = "student") -> tuple[str, str | None] | None:
    """(codec, revision): SHAPES, or the model whose VAE and text encoder belong to the data; None where nothing tells."""
    if asked is not None:
        return asked, None
    if train.data.prepare is not None:
        return SHAPES, None
    student: Any = train.models[role]
    return None if student.init_from is None else (student.init_from, student.revision)


def make_codec(reference: tuple[str, str | None] | None, train: TrainConfig, device: torch.device, *, text: bool, video: bool) -> Codec:
    if reference is None:
        raise UserError(
            "nothing tells whose VAE and text encoder belong to this data: the network did not start from a model",
            "callbacks.validation.model names a diffusers folder, a hub id, or shapes",
        )
    if reference[0] == SHAPES:
        return ShapesCodec()
    folder = source.resolve(*reference)
    return WanCodec(folder, device, COMPUTE_TYPES[train.precision] if device.type == "cuda" else torch.float32, text=text, video=video)


def embed(texts: Sequence[str], train: TrainConfig, codec: Callable[[], Codec]) -> list[Embedded]:
    """As the data's prompts are: taken from beside the data where they stand there; else `codec` is asked for, once."""
    stored = stored_prompts(train.data)
    known = {} if stored is None else {stored.texts[name]: value for name, value in stored.embeddings.items() if name in stored.texts}
    made: Codec | None = None
    found = []
    for text in texts:
        if text not in known:
            made = made or codec()
            known[text] = made.encode_text(text)
        found.append(Embedded(text, dataset.pad(known[text], train.data.text_len)[0]))
    return found


def validation_texts(train: TrainConfig, validation: ValidationConfig) -> list[str]:
    """The prompts asked for, else those that the data was preprocessed with."""
    if validation.prompts is not None:
        return list(validation.prompts)
    stored = stored_prompts(train.data)
    return [] if stored is None else [stored.texts[name] for name in stored.validation if name in stored.texts]


def of_samples(train: TrainConfig, count: int = 2) -> list[Embedded]:
    """The prompts of the first samples, for data that was preprocessed without validation prompts, as others' data sets are."""
    samples = dataset.ParquetDataset(train.data.model_copy(update={"text_dropout": 0.0}), train.seed, "text")
    rows = [samples[(0, index)] for index in range(min(count, len(samples)))]
    return [Embedded(row["caption"] or f"sample {index}", row["prompt"]) for index, row in enumerate(rows)]


def negative_embedding(train: TrainConfig, asked: str | None, codec: Callable[[], Codec]) -> Embedded:
    """Of the unconditional branch: the text asked for, else the data's own, else the codec's."""
    stored = stored_prompts(train.data)
    if asked is None and stored is not None and "negative" in stored.embeddings:
        text = stored.texts.get("negative", "")
        return Embedded(text, dataset.pad(stored.negative, train.data.text_len)[0])
    made = codec()
    return embed([made.negative_prompt if asked is None else asked], train, lambda: made)[0]
