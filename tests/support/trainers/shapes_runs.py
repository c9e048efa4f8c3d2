"""Owns small runs of the moving shapes for the trainers' tests: clips with prompts, a train block, and what a validation wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch

from tests.support.trainers.trainer_ranks import ARCHITECTURE, tiny
from trainers.data.parquet_schema import PartWriter, Sample
from trainers.models.codecs.shapes import MODES, TRAINING, ShapesCodec

VALIDATION = {"every_steps": 2, "num_steps": 3, "guidance_scale": 2.0, "model": "shapes", "loss": {"num_samples": 3, "steps": [300, 700]}}
PROMPTS = ["a square moving right", "a cross moving down", "a cross moving right"]


def write_shapes(folder: Path) -> Path:
    """Write 12 clips of the shapes task with the prompts that a preprocessing leaves beside them; return the data's folder."""
    codec = ShapesCodec()
    with PartWriter(folder / "data", rows_per_file=12) as writer:
        for number in TRAINING[:12]:
            mode = MODES[number]
            latents = codec.encode_video(mode.pixels().expand(3, -1, -1, -1)).numpy()
            writer.write(Sample(mode.name, latents, codec.encode_text(mode.caption).numpy(), mode.name, mode.caption, 8, 8, 1.0, 8.0))
    texts = {"empty": "", "negative": "", **{f"validation.{n:03d}": text for n, text in enumerate(PROMPTS)}}
    safetensors.torch.save_file(
        {name: codec.encode_text(text) for name, text in texts.items()}, folder / "prompts.safetensors", {"texts": json.dumps(texts)}
    )
    return folder / "data"


def config(shapes: Path, validation: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a train block for such clips; `changes` are whole sections of it."""
    made = tiny(shapes, callbacks={"ema": {"decay": 0.5}}, data__num_frames=5, data__latents_mean=[-0.63] * 4, data__latents_std=[0.78] * 4)
    made["models"]["student"]["architecture"] = {**ARCHITECTURE, "text_dim": 32}
    if validation is not None:
        made["callbacks"]["validation"] = validation
    for key, value in changes.items():
        made[key] = value
    return made


def samples(run: Path, step: int) -> Path:
    return run / "samples" / f"step-{step:08d}"


def validation_of(run: Path, step: int) -> dict[str, Any]:
    """Return what the validation after a step wrote down."""
    found: dict[str, Any] = json.loads((samples(run, step) / "validation.json").read_text())
    return found
