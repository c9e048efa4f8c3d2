"""Owns the ways to make a video from a run or an exported folder: as its validation did, or through a stock pipeline.

Must not write files or change what it samples from.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from ..checkpointing import reader
from ..config import TrainConfig
from ..config.data import size_misfits
from ..config.export_folder import COMPONENT, LORA_FILE, WeightsKind, lora_file
from ..config.parallel import ParallelConfig
from ..config.stored_json import read_object
from ..config.validation import ValidationConfig
from ..data.dataset import statistics
from ..diffusion.samplers import few_step_solver
from ..distributed import devices, mesh
from ..errors import UserError, first_line
from ..models.attention import sparse_network
from ..models.base import ModelBase
from ..models.loading import diffusers_weights as model_weights
from ..models.loading import model_folder
from . import generation, prompt_encoding
from .settings import refuse, sampling_of
from .trained_network import TrainedAs, network_of, refuse_choice, sampled_training, training_of

Make = Callable[[str, int], Iterator[Tensor]]
"""Makes a video of (prompt, seed): [3, T, H, W] in [-1, 1] on the CPU, in one or more parts along T, as they are made."""


_SIZES = ("num_frames", "height", "width")
_WAN_STRIDE = (4, 8, 8)
"""Of the VAE of Wan2.1."""


@dataclass(frozen=True)
class SamplerOverrides:
    """Sampler settings of the command line. None: as the run's validation has it, else as diffusers' Wan pipeline."""

    solver: str | None = None
    num_steps: int | None = None
    timesteps: list[float] | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: int | None = None
    local_attn_size: int | None = None
    sink_frames: int | None = None
    model: str | None = None

    def over(self, train: TrainConfig | None) -> ValidationConfig:
        """Return the run's validation settings with these laid over; nothing of its sampler is left null. UserError where they
        contradict."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        before = (train.callbacks.validation if train else None) or ValidationConfig()
        if given.keys() & {"solver", "timesteps"}:  # another sampler: what was said of the one before does not hold
            many = self.solver in ("unipc", "euler")
            shift = before.flow_shift if many else None
            before = before.model_copy(update={"solver": None, "timesteps": None, "num_steps": None, "flow_shift": shift})
        few, trained_shift = (train.method.few_steps(train.flow_shift), train.flow_shift) if train else (None, 1.0)
        try:
            settings = ValidationConfig.model_validate({**before.model_dump(), **given})
            if wrong := settings.sampler_problem(few, trained_shift):
                raise UserError(f"{wrong[0]}: {wrong[1]}", wrong[2])
            if train is not None and (wrong := settings.window_problem(train.models.get("student"), train.data)):
                raise UserError(f"{wrong[0]}: {wrong[1]}", wrong[2])
            if train is None and settings.timesteps is not None:
                raise UserError(
                    "nothing tells the flow shift that these weights were trained with", "leave out --timesteps, or export them here"
                )
            return settings.filled(few, train.method.few_step_solver) if train else settings.filled(few)
        except ValidationError as error:
            raise UserError("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from None


def as_validated(model: ModelBase, train: TrainConfig, settings: ValidationConfig) -> Make:
    """Return what makes videos with this project's sampler and codec, as the run's validation does, whatever the model family."""
    sampling = sampling_of(train, settings, len(statistics(train.data)[0]))
    reference = prompt_encoding.model_reference(train, settings.model, model.role)
    codec = prompt_encoding.make_codec(reference, train, model.device, text=True, video=True)
    negative = None
    if sampling.guidance_scale != 1:
        negative = prompt_encoding.negative_embedding(train, settings.negative_prompt, lambda: codec).embedding

    def make(prompt: str, seed: int) -> Iterator[Tensor]:
        (embedded,) = prompt_encoding.embed([prompt], train, lambda: codec)
        return generation.decode_parts(codec, generation.latent_parts(model, embedded.embedding, negative, seed, sampling), train)

    return make


def by_stock_pipeline(pipeline: Any, settings: ValidationConfig, sizes: dict[str, int]) -> Make:
    """Return what makes videos with diffusers' WanPipeline, unchanged."""

    def make(prompt: str, seed: int) -> Iterator[Tensor]:
        torch.manual_seed(seed)  # a stochastic scheduler draws from the global generator
        options: dict[str, Any] = {} if settings.negative_prompt is None else {"negative_prompt": settings.negative_prompt}
        frames = pipeline(
            prompt=prompt, num_inference_steps=settings.num_steps, guidance_scale=settings.guidance_scale,
            generator=torch.Generator().manual_seed(seed), output_type="pt", **sizes, **options,
        ).frames[0]  # fmt: skip
        yield frames.float().cpu().transpose(0, 1) * 2 - 1

    return make


def check(source: Path, overrides: SamplerOverrides, *, step: int | None, weights: WeightsKind, role: str) -> None:
    """Raise UserError for what `maker_of` would refuse, as far as that can be known before weights are read and a device is taken."""
    if _is_for_stock(source):
        _stock_settings(source, overrides, step, weights)
        return
    _check_own(source, overrides)
    if reader.is_run(source):
        checkpoint = reader.open_checkpoint(source, step, verify=False)
        for network in checkpoint.networks(role):
            checkpoint.names(role, weights, network)
    else:
        sampled_training(source, step, weights)


def maker_of(
    source: Path, overrides: SamplerOverrides, *, step: int | None, weights: WeightsKind, role: str
) -> tuple[Make, ValidationConfig]:
    """Return what makes videos from a run or a folder, and the settings that it does so with. UserError where it is neither."""
    if _is_for_stock(source):
        settings, sizes = _stock_settings(source, overrides, step, weights)
        return by_stock_pipeline(_pipeline(source, training_of(source), settings), settings, sizes), settings
    _check_own(source, overrides)
    trained = network_of(source, mesh.start(ParallelConfig()), step=step, weights=weights, role=role)
    settings = overrides.over(trained.train)
    if (source / "model_index.json").is_file() and settings.model is None:
        settings = settings.model_copy(update={"model": str(source)})
    if reader.is_run(source):
        sys.stderr.write(f"step {trained.step}, {weights} weights of {role}\n")
    return as_validated(trained.model, trained.train, settings), settings


def _is_for_stock(source: Path) -> bool:
    """Say whether stock diffusers samples it: a whole pipeline or an adapter, and of no causal network."""
    holds_one = (source / "model_index.json").is_file() or (source / LORA_FILE).is_file()
    return holds_one and not reader.is_run(source) and not _is_causal(training_of(source))


def _stock_settings(
    source: Path, overrides: SamplerOverrides, step: int | None, weights: WeightsKind
) -> tuple[ValidationConfig, dict[str, int]]:
    """Return how a stock pipeline samples, and the sizes to give to it. UserError for sizes that it does not take."""
    refuse_choice(source, step, weights)
    training = training_of(source)
    settings, sizes = overrides.over(training.train if training else None), _sizes(overrides, training)
    refuse(size_misfits(_vae_stride(_base_of(source, training, settings)), **{name: sizes.get(name) for name in _SIZES}))
    return settings, sizes


def _check_own(source: Path, overrides: SamplerOverrides) -> None:
    """Raise UserError for sizes that this project's sampler does not take, sooner than the weights are loaded."""
    if (source / LORA_FILE).is_file():
        raise UserError(f"{source} is the adapter of a causal network, which stock pipelines do not sample", "export the run with --merge")
    if (train := _configured(source)) is not None:
        refuse(overrides.over(train).sizes(train.data).misfits())


def _configured(source: Path) -> TrainConfig | None:
    """Return the configuration of a run or of exported weights."""
    if reader.is_run(source):
        return reader.read_config(source)
    training = training_of(source)
    return None if training is None else training.train


def _is_causal(training: TrainedAs | None) -> bool:
    """Return whether the weights are of a causal network, whose frames stock diffusers would let look at later ones."""
    return training is not None and hasattr(training.section, "num_frames_per_block")


def _sparse_again(network: Any, folder: Path, training: TrainedAs | None) -> None:
    """Install again what diffusers left out of a network that it loaded from `folder` and that was trained with video sparse attention."""
    configured = getattr(training.section, "attention", None) if training else None
    if (attention := sparse_network.attention_of(configured, folder)) is not None:
        sparse_network.reinstall(network, folder, attention)


def _load_adapters(pipeline: Any, folder: Path) -> None:
    """Load the folder's adapter, or the adapters of both experts."""
    pipeline.load_lora_weights(folder, weight_name=LORA_FILE)
    if (second := folder / lora_file("transformer_2")).is_file():
        pipeline.load_lora_weights(folder, weight_name=second.name, load_into_transformer_2=True)


def _base_of(folder: Path, training: TrainedAs | None, settings: ValidationConfig) -> Path:
    """Return the folder of the whole pipeline: `folder` itself, or the base model of the adapter in it. UserError where none is known."""
    if not (folder / LORA_FILE).is_file():
        return folder
    section = None if training is None else training.section
    reference = settings.model or (None if section is None else section.init_from)
    if reference is None:
        raise UserError(f"{folder} is an adapter, and nothing tells of which model", "--model names its base: a folder or a hub id")
    return model_folder.resolve(reference, None if settings.model or section is None else section.revision)


def _pipeline(folder: Path, training: TrainedAs | None, settings: ValidationConfig) -> Any:
    from diffusers import WanPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    base, device = _base_of(folder, training, settings), devices.choose()
    try:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        pipeline = WanPipeline.from_pretrained(base, dtype=dtype, local_files_only=True)
        for name in (COMPONENT, *(("transformer_2",) if getattr(pipeline, "transformer_2", None) is not None else ())):
            _sparse_again(getattr(pipeline, name), model_weights.subfolder(base, name), training)
        if (folder / LORA_FILE).is_file():
            _load_adapters(pipeline, folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"diffusers cannot load {base}: {first_line(error)}", "is it a whole Wan pipeline?") from None
    if settings.timesteps is not None:
        assert training is not None
        pipeline.scheduler = few_step_solver(settings.timesteps, training.train.flow_shift, stochastic=settings.solver == "sde")
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty())
    return pipeline.to(device)


def _vae_stride(base: Path) -> tuple[int, int, int]:
    """Return the stride over time, height and width of the VAE of a pipeline's folder, as diffusers tells it."""
    try:
        config = read_object(base / "vae/config.json")
        halvings = config.get("temperal_downsample", (False, True, True))  # diffusers' spelling
        time = int(config.get("scale_factor_temporal") or 2 ** sum(halvings))
        space = int(config.get("scale_factor_spatial") or 2 ** len(halvings))
    except (OSError, ValueError, TypeError, AttributeError):  # no whole pipeline: what loads it says so
        return _WAN_STRIDE
    return time, space, space


def _sizes(overrides: SamplerOverrides, training: TrainedAs | None) -> dict[str, int]:
    """Return the sizes to give to the stock pipeline, which has defaults of its own."""
    data = training.train.data if training else None
    sizes = {name: getattr(overrides, name) or getattr(data, name, None) for name in _SIZES}
    if data is not None:
        sizes["max_sequence_length"] = data.text_len
    return {name: size for name, size in sizes.items() if size is not None}
