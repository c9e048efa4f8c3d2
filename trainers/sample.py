"""Owns `python -m trainers.sample RUN|FOLDER --prompt TEXT`: videos from a run's weights or from an exported folder, as mp4.

A run is sampled as its own validation does it. A folder with a whole pipeline goes through stock diffusers; one with an adapter
too, on its base model; one with a transformer alone, or of a causal network, is sampled as a run. A causal network goes on block by
block: each is decoded and encoded as soon as it is made. Must not change what it samples from.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from .command_line import Parser, exit_code_of
from .config.export_folder import WeightsKind
from .distributed import mesh
from .errors import UserError
from .inference import video_files
from .inference.video_makers import SamplerOverrides, maker_of
from .sources import prompt_files


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return exit_code_of(lambda: _main(options))
    finally:
        mesh.stop()


def _main(options: argparse.Namespace) -> None:
    prompts = _prompts(options)
    count = len(prompts) * options.num_videos
    to = options.to or Path("sample.mp4" if count == 1 else "samples")
    targets = _targets(to, count)
    overrides = SamplerOverrides(**{name: getattr(options, name) for name in vars(SamplerOverrides())})
    make, settings = maker_of(options.source, overrides, step=options.step, weights=options.weights, role=options.role)
    shown = []
    for number, path in enumerate(targets):
        prompt, started, kept = prompts[number // options.num_videos], time.monotonic(), list[Tensor]()
        parts = _announced(path, make(prompt, options.seed + number))
        video_files.write_mp4_parts(path, _keeping(kept, parts) if count > 1 else parts, settings.fps)
        shown += [(prompt, torch.cat(kept, 1))] if kept else []
        sys.stderr.write(f"{path}: {prompt} ({time.monotonic() - started:.1f} s)\n")
        sys.stdout.write(f"{path}\n")
    if shown:
        video_files.write_png(to / "sheet.png", video_files.contact_sheet(shown))


def _announced(path: Path, parts: Iterator[Tensor]) -> Iterator[Tensor]:
    """Pass a video's parts on and print, after each but the first, how many frames there are by then."""
    frames, started = 0, time.monotonic()
    for number, part in enumerate(parts):
        frames += part.shape[1]
        if number:
            sys.stderr.write(f"{path}: {frames} frames ({time.monotonic() - started:.1f} s)\n")
        yield part


def _keeping(kept: list[Tensor], parts: Iterator[Tensor]) -> Iterator[Tensor]:
    """Pass a video's parts on and append each to `kept`."""
    for part in parts:
        kept.append(part)
        yield part


def _prompts(options: argparse.Namespace) -> list[str]:
    prompts = list(options.prompt or [])
    if options.prompts is not None:
        prompts += prompt_files.read(options.prompts)
    if not prompts:
        raise UserError("no prompt", "--prompt TEXT, or --prompts FILE with one a line")
    return prompts


def _targets(to: Path, count: int) -> list[Path]:
    """Return the files of the videos, whose folder is made; UserError where one exists already."""
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
    parser = Parser(prog="python -m trainers.sample", description="Videos from a run or an exported folder, as mp4.")
    add = parser.add_argument
    add("source", type=Path, help="a run's directory, or a folder that was exported or downloaded")
    add("--prompt", action="append", metavar="TEXT", help="may be given several times")
    add("--prompts", type=Path, metavar="FILE", help="a prompt a line; or .jsonl, .json, .csv, as preprocess reads them")
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
    add("--weights", choices=get_args(WeightsKind), default="live")
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
