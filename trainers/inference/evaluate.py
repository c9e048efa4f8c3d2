"""Owns measuring samples of the moving-shapes task, one row a network and sampler: evaluation.json, evaluation.md, evaluation.png.

All rows start from the same noise and captions. One rank works; must not train.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.counting import counted
from ..config.parallel import ParallelConfig
from ..config.programs.evaluate import Config, RowConfig
from ..control import EXIT_FINISHED, EXIT_SAVED, Control, StopRequested
from ..data.dataset import pad, statistics, unnormalised
from ..distributed import mesh
from ..distributed.mesh import ParallelContext
from ..errors import UserError
from ..files import publish, publish_json
from ..models.codecs.shapes import MODES, ShapesCodec
from . import generation, video_files
from .settings import Sampling, sampling_of
from .shapes_quality import VALID_RMSE, Quality, quality
from .trained_network import TrainedNetwork, network_of
from .video_files import write_png
from .video_makers import SamplerOverrides

log = logging.getLogger(__name__)

CAPTIONS = list(dict.fromkeys(mode.caption for mode in MODES))


@dataclass(frozen=True)
class Row:
    """A measured row: how often the network was called for a video, and how good the samples are."""

    name: str
    calls: int
    quality: Quality
    shown: list[tuple[str, Tensor]]
    """A video [3, T, H, W] of each caption, behind its label."""


def run(config: Config, run_dir: Path, control: Control) -> int:
    """Measure all rows, write the files and return the exit code; EXIT_SAVED where a stop was requested. UserError on several ranks."""
    parallel = mesh.start(ParallelConfig())
    if parallel.world_size > 1:
        raise UserError("an evaluation runs on one rank", "--ranks 1")
    try:
        rows = [
            _row(name, row, config, parallel, _ticker(config, control, number)) for number, (name, row) in enumerate(config.rows.items())
        ]
    except StopRequested:
        mesh.stop()
        return EXIT_SAVED
    write_png(run_dir / "evaluation.png", video_files.contact_sheet([video for row in rows for video in row.shown]))
    text = table(rows, config.num_videos)
    publish(run_dir / "evaluation.md", lambda temporary: temporary.write_text(text))
    publish_json(run_dir / "evaluation.json", {row.name: {"calls": row.calls, **asdict(row.quality)} for row in rows})
    log.info("\n%s", text)
    mesh.stop()
    return EXIT_FINISHED


def _ticker(config: Config, control: Control, number: int) -> Callable[[int, int], None]:
    """Return what reports a row's progress, done / total, in videos; it raises StopRequested where a stop was requested."""

    def tick(done: int, of: int) -> None:
        count = number * config.num_videos + config.num_videos * done // of
        control.progress("evaluating", count, max_steps=len(config.rows) * config.num_videos)
        if control.stop_requested:
            raise StopRequested

    return tick


def _row(name: str, row: RowConfig, config: Config, parallel: ParallelContext, tick: Callable[[int, int], None]) -> Row:
    tick(0, 1)
    trained = network_of(Path(row.source), parallel, step=row.step, weights=row.weights, role=row.role)
    overrides = SamplerOverrides(solver=row.solver, num_steps=row.num_steps, timesteps=row.timesteps, guidance_scale=row.guidance_scale)
    settings = overrides.over(trained.train)
    mean, std = statistics(trained.train.data)
    sampling = sampling_of(trained.train, settings, len(mean))
    captions = [CAPTIONS[number % len(CAPTIONS)] for number in range(config.num_videos)]
    latents = samples(trained, sampling, captions, config, tick)
    videos = [ShapesCodec().decode_video(unnormalised(latents[k].float(), mean, std)) for k in range(len(CAPTIONS))]
    calls = sampling.num_steps * (2 if sampling.guidance_scale != 1 else 1)
    shown = [(f"{name}: {caption}", video) for caption, video in zip(CAPTIONS, videos, strict=True)]
    return Row(name, calls, quality(latents, captions, mean, std), shown)


def samples(trained: TrainedNetwork, sampling: Sampling, captions: list[str], config: Config, tick: Callable[[int, int], None]) -> Tensor:
    """Sample normalised latents [N, C, T, H, W] on the CPU, a video for each caption; the noise follows from the seed alone."""
    codec, device = ShapesCodec(), trained.model.device
    embedded = {text: pad(codec.encode_text(text), trained.train.data.text_len)[0] for text in ("", *CAPTIONS)}
    start, later = torch.Generator().manual_seed(config.seed), torch.Generator().manual_seed(config.seed + 1)
    c, t, h, w = sampling.shape
    noise = torch.randn(len(captions), t, c, h, w, generator=start)
    made, batches = [], range(0, len(captions), config.batch_size)
    for number, first in enumerate(batches):
        part = slice(first, first + config.batch_size)
        prompts, done = torch.stack([embedded[text] for text in captions[part]]), 0

        def step(number: int = number) -> None:
            nonlocal done
            done += 1
            tick(number * sampling.num_steps + min(done, sampling.num_steps), len(batches) * sampling.num_steps)

        negative = embedded[""] if sampling.guidance_scale != 1 else None
        made.append(generation.denoised(trained.model, noise[part].to(device), prompts, negative, sampling, later, step).cpu())
    return torch.cat(made).transpose(1, 2)


def table(rows: list[Row], count: int) -> str:
    """Return the rows as a table in Markdown."""
    lines = ["| sampler | network calls | rmse | valid | coverage |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        q: Any = row.quality
        lines.append(f"| {row.name} | {row.calls} | {q.rmse:.3f} | {q.valid:.0%} | {q.coverage:.0%} |")
    return (
        "\n".join(
            [
                *lines,
                "",
                (
                    f"{counted(count, 'video')} a row; valid: of the right class, and nearer "
                    f"than {VALID_RMSE:g} to a real video, in pixels of [-1, 1]"
                ),
            ]
        )
        + "\n"
    )
