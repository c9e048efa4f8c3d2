"""Owns the ways to make a video from a run or an exported folder: as its validation did, or through a stock pipeline."""

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
from ..config.export_folder import COMPONENT, LORA_FILE, WeightsKind, lora_file
from ..config.parallel import ParallelConfig
from ..config.validation import ValidationConfig
from ..data.dataset import statistics
from ..diffusion.samplers import few_step_solver
from ..distributed import mesh
from ..errors import UserError, first_line
from ..models.attention import sparse_network
from ..models.base import ModelBase
from ..models.loading import diffusers_weights as model_weights
from ..models.loading import model_folder
from . import generation, prompt_encoding
from . import settings as settings_
from .trained_network import network_of, refuse_choice, training_of

Make = Callable[[str, int], Iterator[Tensor]]
"""(prompt, seed) -> a video [3, T, H, W] in [-1, 1] on the CPU, in one or more parts along T, as they are made."""


@dataclass(frozen=True)
class SamplerOverrides:
    """What the command line says; None: as the run's validation, else as diffusers' Wan pipeline does."""

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
        """Laid over the run's validation; nothing of its sampler is left null."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        before = (train.callbacks.validation if train else None) or ValidationConfig()
        if given.keys() & {"solver", "timesteps"}:  # another sampler: what was said of the one before does not hold
            many = self.solver in ("unipc", "euler")
            shift = before.flow_shift if many else None
            before = before.model_copy(update={"solver": None, "timesteps": None, "num_steps": None, "flow_shift": shift})
        few, trained_shift = (train.method.few_steps(train.flow_shift), train.flow_shift) if train else (None, 1.0)
        try:
            found = ValidationConfig.model_validate({**before.model_dump(), **given})
            if wrong := found.sampler_problem(few, trained_shift):
                raise UserError(f"{wrong[0]}: {wrong[1]}", wrong[2])
            if train is not None and (wrong := found.window_problem(train.models.get("student"), train.data)):
                raise UserError(f"{wrong[0]}: {wrong[1]}", wrong[2])
            if train is None and found.timesteps is not None:
                raise UserError(
                    "nothing tells the flow shift that these weights were trained with", "leave out --timesteps, or export them here"
                )
            return found.filled(few, train.method.few_step_solver) if train else found.filled(few)
        except ValidationError as error:
            raise UserError("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from None


def as_validated(model: ModelBase, train: TrainConfig, settings: ValidationConfig) -> Make:
    """Our own sampler and codec, whatever the family."""
    sampling = settings_.sampling_of(train, settings, len(statistics(train.data)[0]))
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
    """diffusers' WanPipeline as it is."""

    def make(prompt: str, seed: int) -> Iterator[Tensor]:
        torch.manual_seed(seed)  # a stochastic scheduler draws from the global generator
        options: dict[str, Any] = {} if settings.negative_prompt is None else {"negative_prompt": settings.negative_prompt}
        frames = pipeline(
            prompt=prompt, num_inference_steps=settings.num_steps, guidance_scale=settings.guidance_scale,
            generator=torch.Generator().manual_seed(seed), output_type="pt", **sizes, **options,
        ).frames[0]  # fmt: skip
        yield frames.float().cpu().transpose(0, 1) * 2 - 1

    return make


def maker_of(place_: Path, asked: SamplerOverrides, *, step: int | None, weights: WeightsKind, role: str) -> tuple[Make, ValidationConfig]:
    """What samples from a run or a folder, and how."""
    is_pipeline = (place_ / "model_index.json").is_file()
    if not reader.is_run(place_) and (is_pipeline or (place_ / LORA_FILE).is_file()) and not _is_causal(told_of := training_of(place_)):
        refuse_choice(place_, step, weights)
        settings = asked.over(told_of[0] if told_of else None)
        return by_stock_pipeline(_pipeline(place_, told_of, settings), settings, _sizes(asked, told_of)), settings
    if (place_ / LORA_FILE).is_file():
        raise UserError(f"{place_} is the adapter of a causal network, which stock pipelines do not sample", "export the run with --merge")
    found = network_of(place_, mesh.start(ParallelConfig()), step=step, weights=weights, role=role)
    settings = asked.over(found.train)
    if is_pipeline and settings.model is None:
        settings = settings.model_copy(update={"model": str(place_)})
    if reader.is_run(place_):
        sys.stderr.write(f"step {found.step}, {weights} weights of {role}\n")
    return as_validated(found.model, found.train, settings), settings


def _is_causal(told_of: tuple[TrainConfig, str, int] | None) -> bool:
    """Stock diffusers would let its frames look at later ones."""
    return told_of is not None and hasattr(told_of[0].models[told_of[1]], "num_frames_per_block")


def _sparse_again(network: Any, folder: Path, told_of: tuple[TrainConfig, str, int] | None) -> None:
    """What diffusers left out of a network that it loaded from `folder`, where that was trained with video sparse attention."""
    configured = getattr(told_of[0].models[told_of[1]], "attention", None) if told_of else None
    if (attention := sparse_network.attention_of(configured, folder)) is not None:
        sparse_network.reinstall(network, folder, attention)


def _load_adapters(pipeline: Any, folder: Path) -> None:
    """One, or one an expert."""
    pipeline.load_lora_weights(folder, weight_name=LORA_FILE)
    if (second := folder / lora_file("transformer_2")).is_file():
        pipeline.load_lora_weights(folder, weight_name=second.name, load_into_transformer_2=True)


def _pipeline(folder: Path, told_of: tuple[TrainConfig, str, int] | None, settings: ValidationConfig) -> Any:
    from diffusers import WanPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    adapter = folder / LORA_FILE
    base = folder
    if adapter.is_file():
        student: Any = told_of[0].models[told_of[1]] if told_of else None
        reference = settings.model or (None if student is None else student.init_from)
        if reference is None:
            raise UserError(f"{folder} is an adapter, and nothing tells of which model", "--model names its base: a folder or a hub id")
        base = model_folder.resolve(reference, None if settings.model or student is None else student.revision)
    gpu = torch.cuda.is_available()
    try:
        pipeline = WanPipeline.from_pretrained(base, dtype=torch.bfloat16 if gpu else torch.float32, local_files_only=True)
        for name in (COMPONENT, *(("transformer_2",) if getattr(pipeline, "transformer_2", None) is not None else ())):
            _sparse_again(getattr(pipeline, name), model_weights.subfolder(base, name), told_of)
        if adapter.is_file():
            _load_adapters(pipeline, folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"diffusers cannot load {base}: {first_line(error)}", "is it a whole Wan pipeline?") from None
    if settings.timesteps is not None:
        assert told_of is not None
        pipeline.scheduler = few_step_solver(settings.timesteps, told_of[0].flow_shift, stochastic=settings.solver == "sde")
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty())
    return pipeline.to("cuda" if gpu else "cpu")


def _sizes(asked: SamplerOverrides, told_of: tuple[TrainConfig, str, int] | None) -> dict[str, int]:
    """For the stock pipeline, which has defaults of its own."""
    data = told_of[0].data if told_of else None
    sizes = {name: getattr(asked, name) or getattr(data, name, None) for name in ("num_frames", "height", "width")}
    if data is not None:
        sizes["max_sequence_length"] = data.text_len
    return {name: size for name, size in sizes.items() if size is not None}
