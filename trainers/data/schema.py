"""Owns the t2v parquet format: column names and types, arrays <-> bytes, writing files. Must not know what encodes or trains.

An array is three columns: `<name>_bytes` (C order, little-endian), `<name>_shape`, `<name>_dtype`. Readers honour the dtype;
float32 is written. One sample is one row group: parquet reads nothing smaller, so a bigger group is read whole for each sample.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Floats = npt.NDArray[np.float32]

FOLDER = "combined_parquet_dataset"
PROMPTS = "prompts.safetensors"
"""Embeddings that no sample holds, beside FOLDER: `empty` (classifier-free guidance) and `negative`."""


def _array(name: str) -> list[tuple[str, pa.DataType]]:
    return [(f"{name}_bytes", pa.binary()), (f"{name}_shape", pa.list_(pa.int64())), (f"{name}_dtype", pa.string())]


T2V = pa.schema(
    [
        ("id", pa.string()),
        *_array("vae_latent"),
        *_array("text_embedding"),
        ("file_name", pa.string()),
        ("caption", pa.string()),
        ("media_type", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("num_frames", pa.int64()),
        ("duration_sec", pa.float64()),
        ("fps", pa.float64()),
    ]
)
TRAINING_COLUMNS = [name for name in T2V.names if name.startswith(("vae_latent", "text_embedding"))] + ["caption"]

_DTYPES = {"float32": "<f4", "float16": "<f2", "float64": "<f8", "bfloat16": "<u2"}


@dataclass(frozen=True)
class Sample:
    """One clip as it is stored: un-normalised `latents` [C, T, H, W], `text` [L, D] without padding."""

    id: str
    latents: Floats
    text: Floats
    file_name: str
    caption: str
    width: int
    height: int
    duration_s: float
    fps: float

    def row(self) -> dict[str, object]:
        return {
            "id": self.id,
            **_array_columns("vae_latent", self.latents),
            **_array_columns("text_embedding", self.text),
            "file_name": self.file_name,
            "caption": self.caption,
            "media_type": "video",
            "width": self.width,
            "height": self.height,
            "num_frames": self.latents.shape[1],  # the latents' frames: what readers of this format expect
            "duration_sec": self.duration_s,
            "fps": self.fps,
        }


def _array_columns(name: str, array: Floats) -> dict[str, object]:
    return {f"{name}_bytes": array.astype("<f4").tobytes(), f"{name}_shape": list(array.shape), f"{name}_dtype": "float32"}


def decode_array(data: bytes | memoryview | pa.Buffer, shape: list[int], dtype: str) -> Floats:
    """The stored array as float32, its own memory; ValueError says what is wrong with it."""
    if dtype not in _DTYPES:
        raise ValueError(f"has the unknown dtype {dtype!r}; known: {', '.join(_DTYPES)}")
    if any(size <= 0 for size in shape):
        raise ValueError(f"has the shape {shape}")
    stored = np.dtype(_DTYPES[dtype])
    wanted, found = int(np.prod(shape)) * stored.itemsize, memoryview(data).nbytes
    if wanted != found:
        raise ValueError(f"has {found} bytes, but its shape {shape} of {dtype} takes {wanted}")
    flat = np.frombuffer(data, stored)
    if dtype == "bfloat16":  # numpy has none: it is the upper half of a float32
        flat = (flat.astype("<u4") << 16).view("<f4")
    with np.errstate(over="ignore"):  # a float64 too big for float32 becomes inf, and is refused as such
        values: Floats = flat.astype(np.float32, copy=True).reshape(shape)
    if not np.isfinite(values).all():
        raise ValueError("holds values that are not finite")
    return values


class PartWriter:
    """Writes samples to `folder` as part-00000.parquet, part-00001.parquet, …; a file has its name only once it is whole."""

    def __init__(self, folder: Path, rows_per_file: int) -> None:
        self._folder, self._rows_per_file = folder, rows_per_file
        self._parts = self._rows = 0
        self._writer: pq.ParquetWriter | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if kind is None:
            self._publish()
        elif self._writer is not None:
            self._writer.close()
            self._temporary.unlink()

    def write(self, sample: Sample) -> None:
        if self._writer is None:
            # random floats do not compress into dictionaries, and statistics of them serve nobody
            options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
            self._writer = pq.ParquetWriter(self._temporary, T2V, **options)
        self._writer.write_table(pa.Table.from_pylist([sample.row()], T2V))
        self._rows += 1
        if self._rows == self._rows_per_file:
            self._publish()

    @property
    def _temporary(self) -> Path:
        return self._folder / f".part-{self._parts:05d}.parquet.tmp"

    def _publish(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        sync(self._temporary)
        self._temporary.rename(self._folder / f"part-{self._parts:05d}.parquet")
        sync(self._folder)
        self._writer, self._rows, self._parts = None, 0, self._parts + 1


def sync(path: Path) -> None:
    """Make a file or a folder's entries survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
