"""Owns small parquet files of training data by their footers: the columns, and as many rows as a test needs. Nothing can be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_samples(path: Path, rows: int, latents: Sequence[int] | None = (4, 5, 4, 4)) -> Path:
    """Write samples of clips whose latents are [C, T, H, W], of the moving shapes' size by default; None: of prompts alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {"text_embedding": [4, 32], **({} if latents is None else {"vae_latent": list(latents)})}
    table = {}
    for name, shape in columns.items():
        table[f"{name}_bytes"] = pa.array([b""] * rows, pa.binary())
        table[f"{name}_shape"] = pa.array([shape] * rows, pa.list_(pa.int64()))
        table[f"{name}_dtype"] = pa.array(["float32"] * rows, pa.string())
    pq.write_table(pa.table(table), path)
    return path
