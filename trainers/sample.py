"""Owns `python -m trainers.sample RUN|FOLDER --prompt TEXT`: videos from a run's weights or from an exported folder, as mp4.

A run is sampled as its own validation does it. A folder with a whole pipeline goes through stock diffusers; one with an adapter
too, on its base model; one with a transformer alone is sampled as a run. Must not change what it samples from.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from pydantic import ValidationError
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from . import generation, media, parallel, trained
from .checkpoint_state import SafeReader
from .config import TrainConfig
from .config.runtime import ParallelConfig
from .config.validation import ValidationConfig
from .data.dataset import statistics
from .errors import UserError
from .export import TRAINING, told
from .export_weights import COMPONENT, LORA_FILE
from .models import model_class, source
from .models.base import ModelBase
from .parallel import Parallel
from .trained import Checkpoint, Weights

Make = Callable[[str, int], Tensor]
"""(prompt, seed) -> video [3, T, H, W] in [-1, 1] on the CPU."""


@dataclass(frozen=True)
class Asked:
    """What the command line says; None: as the run's validation, else as diffusers' Wan pipeline does."""

    num_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: int | None = None
    model: str | None = None

    def over(self, validation: ValidationConfig | None) -> ValidationConfig:
        given = {name: value for name, value in vars(self).items() if value is not None}
        try:
            return ValidationConfig.model_validate({**(validation or ValidationConfig()).model_dump(), **given})
        except ValidationError as error:
            raise UserError("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from None


def restored(checkpoint: Checkpoint, role: str, weights: Weights, place: Parallel) -> ModelBase:
    """The role's network with a checkpoint's weights, as training and validation have it. Collective."""
    checkpoint.names(role, weights)  # fails early
    plain = checkpoint.config.models[role].model_copy(update={"activation_checkpointing": "none", "compile": False})
    model = _built(plain, role, checkpoint.config, place, adapted=getattr(plain, "lora", None) is not None)
    names = checkpoint.names(role, weights)
    state = {names[name][0]: tensor for name, tensor in get_model_state_dict(model.transformer).items() if name in names}
    dcp.load(state, storage_reader=SafeReader(checkpoint.folder))
    return model


def _built(config: Any, role: str, train: TrainConfig, place: Parallel, *, adapted: bool = False, load_weights: bool = False) -> ModelBase:
    model = model_class(config.family)(
        config, role, trainable=adapted, precision=train.precision, seed=train.seed, parallel=place, load_weights=load_weights
    )
    model.transformer.eval()
    return model


def as_validated(model: ModelBase, train: TrainConfig, settings: ValidationConfig) -> Make:
    """Our own sampler and codec, whatever the family."""
    sampling = generation.sampling_of(train, settings, len(statistics(train.data)[0]))
    reference = generation.model_reference(train, settings.model, model.role)
    codec = generation.make_codec(reference, train, model.device, text=True, video=True)
    negative = None
    if sampling.guidance_scale != 1:
        negative = generation.negative_embedding(train, settings.negative_prompt, lambda: codec).embedding

    def make(prompt: str, seed: int) -> Tensor:
        (embedded,) = generation.embed([prompt], train, lambda: codec)
        return generation.decode(codec, generation.latents(model, embedded.embedding, negative, seed, sampling), train)

    return make


def by_stock_pipeline(pipeline: Any, settings: ValidationConfig, sizes: dict[str, int]) -> Make:
    """diffusers' WanPipeline as it is."""

    def make(prompt: str, seed: int) -> Tensor:
        options: dict[str, Any] = {} if settings.negative_prompt is None else {"negative_prompt": settings.negative_prompt}
        frames = pipeline(
            prompt=prompt, num_inference_steps=settings.num_steps, guidance_scale=settings.guidance_scale,
            generator=torch.Generator().manual_seed(seed), output_type="pt", **sizes, **options,
        ).frames[0]  # fmt: skip
        video: Tensor = frames.float().cpu().transpose(0, 1) * 2 - 1
        return video

    return make


def maker_of(place_: Path, asked: Asked, *, step: int | None, weights: Weights, role: str) -> tuple[Make, ValidationConfig]:
    """What samples from a run or a folder, and how."""
    if trained.is_run(place_):
        checkpoint = trained.open_checkpoint(place_, step)
        settings = asked.over(checkpoint.config.callbacks.validation)
        sys.stderr.write(f"step {checkpoint.step}, {weights} weights of {role}\n")
        model = restored(checkpoint, role, weights, parallel.start(ParallelConfig()))
        return as_validated(model, checkpoint.config, settings), settings
    if step is not None or weights != "live":
        raise UserError(f"{place_} is no run: --step and --weights choose among a run's checkpoints", "leave them out")
    told_of = _training(place_)
    settings = asked.over(told_of[0].callbacks.validation if told_of else None)
    if (place_ / "model_index.json").is_file() or (place_ / LORA_FILE).is_file():
        return by_stock_pipeline(_pipeline(place_, told_of, settings), settings, _sizes(asked, told_of)), settings
    if told_of is None or not (place_ / COMPONENT).is_dir():
        raise UserError(
            f"{place_} is neither a run nor a folder that can be sampled", f"a pipeline has model_index.json, an export {TRAINING}"
        )
    train, trained_role = told_of
    own = train.models[trained_role].model_copy(
        update={"init_from": str(place_), "revision": None, "architecture": None, "lora": None, "activation_checkpointing": "none"}
    )
    model = _built(own, trained_role, train, parallel.start(ParallelConfig()), load_weights=True)
    kept = train.model_copy(update={"models": {**train.models, trained_role: own.model_copy(update={"init_from": None})}})
    return as_validated(model, kept, settings), settings


def _training(folder: Path) -> tuple[TrainConfig, str] | None:
    """What exported weights were trained as, and which role they are; None for others' folders."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if not (folder / TRAINING).is_file():
        return None
    try:
        found = json.loads((folder / TRAINING).read_text())
        return TrainConfig.model_validate(found["train"]), str(found["role"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {folder / TRAINING}: {str(error).splitlines()[0]}", "export again") from None


def _pipeline(folder: Path, told_of: tuple[TrainConfig, str] | None, settings: ValidationConfig) -> Any:
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
        if adapter.is_file():
            pipeline.load_lora_weights(folder, weight_name=LORA_FILE)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"diffusers cannot load {base}: {str(error).strip().splitlines()[0]}", "is it a whole Wan pipeline?") from None
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty())
    return pipeline.to("cuda" if gpu else "cpu")


def _sizes(asked: Asked, told_of: tuple[TrainConfig, str] | None) -> dict[str, int]:
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
    made = []
    for number, path in enumerate(targets):
        prompt, started = prompts[number // options.num_videos], time.monotonic()
        video = make(prompt, options.seed + number)
        media.write_mp4(path, video, settings.fps)
        made.append((prompt, video))
        sys.stderr.write(f"{path}: {prompt} ({time.monotonic() - started:.1f} s)\n")
        sys.stdout.write(f"{path}\n")
    if len(made) > 1:
        media.write_png(to / "sheet.png", media.contact_sheet(made))


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
    add("--guidance", dest="guidance_scale", type=float, help="s of u + s (c - u); 1: none")
    add("--negative", dest="negative_prompt", metavar="TEXT")
    add("--num-frames", type=_positive)
    add("--height", type=_positive)
    add("--width", type=_positive)
    add("--fps", type=_positive)
    add("--model", help="base model of an adapter, or whose VAE and text encoder to use: a folder, a hub id, or shapes")
    add("--step", type=int, help="a run's checkpoint; default: the newest that verifies")
    add("--weights", choices=["live", "ema"], default="live")
    add("--role", default="student")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


if __name__ == "__main__":
    sys.exit(main())
