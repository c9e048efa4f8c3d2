"""Owns `python -m trainers.sample RUN|FOLDER --prompt TEXT`: videos from a run's weights or from an exported folder, as mp4.

A run is sampled as its own validation does it. A folder with a whole pipeline goes through stock diffusers; one with an adapter
too, on its base model; one with a transformer alone, or of a causal network, is sampled as a run. A causal network goes on block by
block: each is decoded and encoded as soon as it is made. Must not change what it samples from.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from .command_line import Parser, exit_code_of
from .config.counting import counted
from .config.export_folder import WeightsKind
from .distributed import mesh
from .errors import UserError
from .files import check_writable
from .inference import video_files
from .inference.video_makers import SamplerOverrides, check, maker_of
from .sources import prompt_files

_OTHER_KINDS = frozenset(
    {".apng", ".avi", ".flv", ".gif", ".jpeg", ".jpg", ".m2ts", ".m4v", ".mkv", ".mov", ".mpeg", ".mpg", ".mts", ".ogv", ".png", ".ts"}
    | {".3gp", ".mjpeg", ".npy", ".pt", ".safetensors", ".webm", ".webp", ".wmv", ".y4m"}
)
"""Suffixes of files, in lower case, that nobody gives to a folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        return exit_code_of(lambda: _main(_parser().parse_args(arguments)))
    finally:
        mesh.stop()


def _main(options: argparse.Namespace) -> None:
    if options.check_only == "options":
        return
    prompts = _prompts(options)
    count = len(prompts) * options.num_videos
    to = options.to or Path("sample.mp4" if count == 1 else "samples")
    targets = _targets(to, count)
    overrides = SamplerOverrides(**{name: getattr(options, name) for name in vars(SamplerOverrides())})
    choice = {"step": options.step, "weights": options.weights, "role": options.role}
    if options.check_only:
        check(options.source, overrides, **choice)
        return
    make, settings = maker_of(options.source, overrides, **choice)
    targets[0].parent.mkdir(parents=True, exist_ok=True)
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
            sys.stderr.write(f"{path}: {counted(frames, 'frame')} ({time.monotonic() - started:.1f} s)\n")
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
    """Return the files of the videos; UserError where one exists already, or `to` is named like a file of another kind."""
    kind = "" if to.is_dir() else to.suffix.lower()
    if kind in _OTHER_KINDS:
        raise UserError(f"{to}: videos are written as .mp4, not as {to.suffix}", f"--to {to.with_suffix('.mp4')}, or a folder")
    if count > 1 and kind == ".mp4":
        raise UserError(f"{count} videos do not fit into {to}", "--to a folder")
    targets = [to] if kind == ".mp4" else [to / f"{number:03d}.mp4" for number in range(count)]
    if there := [path for path in targets if path.exists()]:
        raise UserError(f"{there[0]} exists already", "give another --to")
    if wrong := next((path for path in targets[0].parents if path.exists() and not path.is_dir()), None):
        raise UserError(f"cannot write into {targets[0].parent}: {wrong} is a file", "give another --to")
    check_writable(targets[0].parent)  # now, not after the minutes that a video takes
    return targets


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m trainers.sample", description="Videos from a run or an exported folder, as mp4.")
    add = parser.add_argument
    add("source", type=Path, help="a run's directory, or a folder that was exported or downloaded")
    add("--prompt", action="append", metavar="TEXT", help="may be given several times")
    add("--prompts", type=Path, metavar="FILE", help="a prompt a line; or .jsonl, .json, .csv, as preprocess reads them")
    add("--to", type=Path, metavar="FILE.mp4|DIR", help="default: sample.mp4, or samples/ for several")
    add("--num-videos", type=_at_least(1), default=1, help="of each prompt")
    add("--seed", type=_at_least(0), default=0, help="of the first video; the next has seed + 1")
    add("--steps", dest="num_steps", type=_at_least(1), help="default, here and below: as the run's validation")
    add("--timesteps", type=_timesteps, metavar="T,T,…", help="of a student of few steps, instead of its own: 1000,757,522")
    add("--solver", choices=["unipc", "euler", "sde", "ode"], help="many steps, or a student's few with fresh or implied noise")
    add("--guidance", dest="guidance_scale", type=_scale, help="s of u + s (c - u); 1: none")
    add("--negative", dest="negative_prompt", metavar="TEXT")
    add("--num-frames", type=_at_least(1))
    add("--height", type=_at_least(1))
    add("--width", type=_at_least(1))
    add("--fps", type=_at_least(1))
    add("--local-attn-size", type=_at_least(1), metavar="N", help="of a causal student: latent frames that a block sees")
    add("--sink-frames", type=_at_least(0), metavar="N", help="of a causal student: the first so many of them, however long the video")
    add("--model", help="base model of an adapter, or whose VAE and text encoder to use: a folder, a hub id, or shapes")
    add("--step", type=_at_least(1), help="a run's checkpoint; default: the newest that verifies")
    add("--weights", choices=get_args(WeightsKind), default="live")
    add("--role", default="student")
    parser.add_check_only()
    return parser


def _timesteps(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of timesteps, such as 1000,757,522") from None


def _at_least(lowest: int) -> Callable[[str], int]:
    """Return what reads a whole number that is `lowest` or more."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < lowest:
            raise argparse.ArgumentTypeError(f"{text} is not {lowest} or more")
        return value

    return number


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
