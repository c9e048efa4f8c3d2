"""Small data sets on the disk for the tests of trainers.data: 10 samples in files of 4, of numbers that tell which sample it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch

from trainers.config.data import DataConfig
from trainers.data.batches import batches
from trainers.data.parquet_schema import FOLDER, PROMPTS, T2V, PartWriter, Sample
from trainers.errors import UserError

Row = dict[str, Any]
Array = np.ndarray[Any, Any]
ONE_RANK = {"rank": 0, "data_parallel": 1, "accumulation": 2, "micro": 2}


def latents(index: int) -> Array:
    """[2, 3, 1, 2] of different numbers, none of them rounded in half precision."""
    return np.arange(12, dtype=np.float32).reshape(2, 3, 1, 2) + 16 * index


def sample(index: int) -> Sample:
    text = np.full((1 + index % 3, 4), index + 1, np.float32)
    return Sample(f"s{index}", latents(index), text, f"{index}.mp4", f"caption {index}", 16, 8, 1.0, 8.0)


def write(folder: Path) -> Path:
    """10 samples, and prompts."""
    with PartWriter(folder / FOLDER / "worker_0", rows_per_file=4) as writer:
        for index in range(10):
            writer.write(sample(index))
    found = {"empty": torch.full((1, 4), -1.0), "negative": torch.full((3, 4), -2.0)}
    safetensors.torch.save_file(found, folder / PROMPTS)
    return folder


def part(data: Path, number: int = 1) -> Path:
    return data / FOLDER / "worker_0" / f"part-{number:05d}.parquet"


def rewrite(data: Path, change: Callable[[Row], Row], schema: pa.Schema = T2V) -> Path:
    """Applies `change` to the third row of the second file, the 7th of all; the file."""
    path = part(data)
    rows = pq.read_table(path).to_pylist()
    rows[2] = change(rows[2])
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=1)
    return path


def mutate(data: str, count: str) -> None:
    """Prints how many of so many damaged copies of a file were read whole, with rows in the place of bad ones, or refused (JSON)."""
    path, random, outcomes = part(Path(data)), np.random.RandomState(0), Counter[str]()
    whole = path.read_bytes()
    for trial in range(int(count)):
        damaged = bytearray(whole)
        for place in random.randint(0, len(whole), random.randint(1, 30)) if trial % 2 else [random.randint(len(whole))]:
            damaged[place] = random.randint(256)
        path.write_bytes(damaged)
        told: list[str] = []
        try:
            run(config(Path(data)), warn=told.append)
            outcomes["rows replaced" if told else "whole"] += 1
        except UserError:
            outcomes["refused"] += 1
    print(json.dumps(outcomes))


def config(path: Path | dict[str, int], **changes: Any) -> DataConfig:
    sizes = {"num_frames": 3, "height": 2, "width": 4, "vae_stride": (1, 2, 2), "text_len": 2, "global_batch_size": 4, "workers": 0}
    values = {"latents_mean": [1.0, 2.0], "latents_std": [0.5, 4.0], "check_statistics": False, "max_bad_share": 1}
    return DataConfig.model_validate({"path": path if isinstance(path, dict) else str(path), **values, **sizes, **changes})


def run(wanted: DataConfig, seed: int = 3, **changes: Any) -> list[list[dict[str, torch.Tensor]]]:
    """The batches of 5 steps of 2 rounds of 2 samples."""
    return list(batches(wanted, seed, **{**ONE_RANK, "start_step": 0, "max_steps": 5, **changes}))


def indices(steps: list[list[dict[str, torch.Tensor]]]) -> list[int]:
    return [index for step in steps for batch in step for index in batch["index"].tolist()]


def same(first: Any, second: Any) -> bool:
    flat = [[(k, v) for step in steps for batch in step for k, v in sorted(batch.items())] for steps in (first, second)]
    return len(flat[0]) == len(flat[1]) and all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(*flat, strict=True))
