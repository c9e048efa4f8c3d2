"""Owns `python -m trainers.sample RUN|FOLDER --prompt TEXT`: videos from a run's weights or from an exported folder, as mp4.

A run is sampled as its own validation does it. A folder with a whole pipeline goes through stock diffusers; one with an adapter
too, on its base model; one with a transformer alone, or of a causal network, is sampled as a run. A causal network goes on block by
block: each is decoded and encoded as soon as it is made. Must not change what it samples from.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from . import generation, media, parallel, trained
from .config import TrainConfig
from .config.runtime import ParallelConfig
from .config.validation import ValidationConfig
from .data.dataset import statistics
from .errors import UserError
from .export import told
from .export_weights import COMPONENT, LORA_FILE, lora_file
from .models import source, vsa_network
from .models import weights as model_weights
from .models.base import ModelBase
from .restoring import network_of, refuse_choice, training_of
from .sampling import few_step_solver
from .trained import Weights

Make = Callable[[str, int], Iterator[Tensor]]
"""(prompt, seed) -> a video [3, T, H, W] in [-1, 1] on the CPU, in one or more parts along T, as they are made."""


@dataclass(frozen=True)
class Asked:
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
    sampling = generation.sampling_of(train, settings, len(statistics(train.data)[0]))
    reference = generation.model_reference(train, settings.model, model.role)
    codec = generation.make_codec(reference, train, model.device, text=True, video=True)
    negative = None
    if sampling.guidance_scale != 1:
        negative = generation.negative_embedding(train, settings.negative_prompt, lambda: codec).embedding

    def make(prompt: str, seed: int) -> Iterator[Tensor]:
        (embedded,) = generation.embed([prompt], train, lambda: codec)
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


def maker_of(place_: Path, asked: Asked, *, step: int | None, weights: Weights, role: str) -> tuple[Make, ValidationConfig]:
    """What samples from a run or a folder, and how."""
    is_pipeline = (place_ / "model_index.json").is_file()
    if not trained.is_run(place_) and (is_pipeline or (place_ / LORA_FILE).is_file()) and not _is_causal(told_of := training_of(place_)):
        refuse_choice(place_, step, weights)
        settings = asked.over(told_of[0] if told_of else None)
        return by_stock_pipeline(_pipeline(place_, told_of, settings), settings, _sizes(asked, told_of)), settings
    if (place_ / LORA_FILE).is_file():
        raise UserError(f"{place_} is the adapter of a causal network, which stock pipelines do not sample", "export the run with --merge")
    found = network_of(place_, parallel.start(ParallelConfig()), step=step, weights=weights, role=role)
    settings = asked.over(found.train)
    if is_pipeline and settings.model is None:
        settings = settings.model_copy(update={"model": str(place_)})
    if trained.is_run(place_):
        sys.stderr.write(f"step {found.step}, {weights} weights of {role}\n")
    return as_validated(found.model, found.train, settings), settings


def _is_causal(told_of: tuple[TrainConfig, str, int] | None) -> bool:
    """Stock diffusers would let its frames look at later ones."""
    return told_of is not None and hasattr(told_of[0].models[told_of[1]], "num_frames_per_block")


def _sparse_again(network: Any, folder: Path, told_of: tuple[TrainConfig, str, int] | None) -> None:
    """What diffusers left out of a network that it loaded from `folder`, where that was trained with video sparse attention."""
    configured = getattr(told_of[0].models[told_of[1]], "attention", None) if told_of else None
    if (attention := vsa_network.wanted(configured, folder)) is not None:
        vsa_network.reinstall(network, folder, attention)


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
        base = source.resolve(reference, None if settings.model or student is None else student.revision)
    gpu = torch.cuda.is_available()
    try:
        pipeline = WanPipeline.from_pretrained(base, dtype=torch.bfloat16 if gpu else torch.float32, local_files_only=True)
        for name in (COMPONENT, *(("transformer_2",) if getattr(pipeline, "transformer_2", None) is not None else ())):
            _sparse_again(getattr(pipeline, name), model_weights.subfolder(base, name), told_of)
        if adapter.is_file():
            _load_adapters(pipeline, folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"diffusers cannot load {base}: {str(error).strip().splitlines()[0]}", "is it a whole Wan pipeline?") from None
    if settings.timesteps is not None:
        assert told_of is not None
        pipeline.scheduler = few_step_solver(settings.timesteps, told_of[0].flow_shift, stochastic=settings.solver == "sde")
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty())
    return pipeline.to("cuda" if gpu else "cpu")


def _sizes(asked: Asked, told_of: tuple[TrainConfig, str, int] | None) -> dict[str, int]:
    """For the stock pipeline, which has defaults of its own."""
    data = told_of[0].data if told_of else None
    sizes = {name: getattr(asked, name) or getattr(data, name, None) for name in ("num_frames", "height", "width")}
    if data is not None:
        sizes["max_sequence_length"] = data.text_len
    return {name: size for name, size in sizes.items() if size is not None}


# --- the command


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return told(lambda: _main(options))
    finally:
        parallel.stop()


def _main(options: argparse.Namespace) -> None:
    prompts = _prompts(options)
    count = len(prompts) * options.num_videos
    to = options.to or Path("sample.mp4" if count == 1 else "samples")
    targets = _targets(to, count)
    asked = Asked(**{name: getattr(options, name) for name in vars(Asked())})
    make, settings = maker_of(options.source, asked, step=options.step, weights=options.weights, role=options.role)
    shown = []
    for number, path in enumerate(targets):
        prompt, started, kept = prompts[number // options.num_videos], time.monotonic(), list[Tensor]()
        parts = _told(path, make(prompt, options.seed + number))
        media.write_mp4_parts(path, _also(kept, parts) if count > 1 else parts, settings.fps)
        shown += [(prompt, torch.cat(kept, 1))] if kept else []
        sys.stderr.write(f"{path}: {prompt} ({time.monotonic() - started:.1f} s)\n")
        sys.stdout.write(f"{path}\n")
    if shown:
        media.write_png(to / "sheet.png", media.contact_sheet(shown))


def _told(path: Path, parts: Iterator[Tensor]) -> Iterator[Tensor]:
    """Of a video in more than one part, how many frames there are after each but the first."""
    frames, started = 0, time.monotonic()
    for number, part in enumerate(parts):
        frames += part.shape[1]
        if number:
            sys.stderr.write(f"{path}: {frames} frames ({time.monotonic() - started:.1f} s)\n")
        yield part


def _also(kept: list[Tensor], parts: Iterator[Tensor]) -> Iterator[Tensor]:
    for part in parts:
        kept.append(part)
        yield part


def _prompts(options: argparse.Namespace) -> list[str]:
    found = list(options.prompt or [])
    if options.prompts is not None:
        try:
            found += [line.strip() for line in options.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {options.prompts}: {error}", "a text file with a prompt a line") from None
    if not found:
        raise UserError("no prompt", "--prompt TEXT, or --prompts FILE with one a line")
    return found


def _targets(to: Path, count: int) -> list[Path]:
    """Where the videos go; nothing is overwritten."""
    if count > 1 and to.suffix == ".mp4":
        raise UserError(f"{count} videos do not fit into {to}", "--to a folder")
    targets = [to] if count == 1 and to.suffix == ".mp4" else [to / f"{number:03d}.mp4" for number in range(count)]
    if there := [path for path in targets if path.exists()]:
        raise UserError(f"{there[0]} exists already", "give another --to")
    try:
        targets[0].parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {targets[0].parent}: {error.strerror}") from None
    return targets


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainers.sample", description="Videos from a run or an exported folder, as mp4.")
    add = parser.add_argument
    add("source", type=Path, help="a run's directory, or a folder that was exported or downloaded")
    add("--prompt", action="append", metavar="TEXT", help="may be given several times")
    add("--prompts", type=Path, metavar="FILE", help="a prompt a line")
    add("--to", type=Path, metavar="FILE.mp4|DIR", help="default: sample.mp4, or samples/ for several")
    add("--num-videos", type=_positive, default=1, help="of each prompt")
    add("--seed", type=int, default=0, help="of the first video; the next has seed + 1")
    add("--steps", dest="num_steps", type=_positive, help="default, here and below: as the run's validation")
    add("--timesteps", type=_timesteps, metavar="T,T,…", help="of a student of few steps, instead of its own: 1000,757,522")
    add("--solver", choices=["unipc", "euler", "sde", "ode"], help="many steps, or a student's few with fresh or implied noise")
    add("--guidance", dest="guidance_scale", type=float, help="s of u + s (c - u); 1: none")
    add("--negative", dest="negative_prompt", metavar="TEXT")
    add("--num-frames", type=_positive)
    add("--height", type=_positive)
    add("--width", type=_positive)
    add("--fps", type=_positive)
    add("--local-attn-size", type=_positive, metavar="N", help="of a causal student: latent frames that a block sees")
    add("--sink-frames", type=int, metavar="N", help="of a causal student: the first so many of them, however long the video")
    add("--model", help="base model of an adapter, or whose VAE and text encoder to use: a folder, a hub id, or shapes")
    add("--step", type=int, help="a run's checkpoint; default: the newest that verifies")
    add("--weights", choices=["live", "ema"], default="live")
    add("--role", default="student")
    return parser


def _timesteps(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


if __name__ == "__main__":
    sys.exit(main())
