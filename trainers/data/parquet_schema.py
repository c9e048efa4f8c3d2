"""Owns the parquet formats: column names and types, arrays <-> bytes, writing files. Must not know what encodes or trains.

Three schemas (trainers/README.md, Data): `t2v` (latents and text), `text_only`, and `ode_trajectory_text_only` (a teacher's
trajectories). An array is three columns: `<name>_bytes` (C order, little-endian), `<name>_shape`, `<name>_dtype`. Readers honour the
dtype; float32 is written. One sample is one row group: parquet reads nothing smaller, so a bigger group is read whole for each sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..config.data_folder import SAMPLES
from ..files import publish_written

Floats = npt.NDArray[np.float32]

FOLDER = SAMPLES
PROMPTS = "prompts.safetensors"
"""The file beside FOLDER with embeddings that no sample holds: `empty` (classifier-free guidance), `negative`, `validation.000`, …"""


def _array(name: str) -> list[tuple[str, pa.DataType]]:
    return [(f"{name}_bytes", pa.binary()), (f"{name}_shape", pa.list_(pa.int64())), (f"{name}_dtype", pa.string())]


_FILE = [("file_name", pa.string()), ("caption", pa.string()), ("media_type", pa.string())]
_VIDEO = [("width", pa.int64()), ("height", pa.int64()), ("num_frames", pa.int64()), ("duration_sec", pa.float64()), ("fps", pa.float64())]

T2V = pa.schema([("id", pa.string()), *_array("vae_latent"), *_array("text_embedding"), *_FILE, *_VIDEO])
TEXT_ONLY = pa.schema([("id", pa.string()), *_array("text_embedding"), ("caption", pa.string())])
TRAJECTORY = pa.schema(
    [("id", pa.string()), *_array("text_embedding"), *_array("trajectory_latents"), *_array("trajectory_timesteps"), *_FILE]
)
TRAINING_COLUMNS = [name for name in T2V.names if name.startswith(("vae_latent", "text_embedding"))] + ["caption"]

_DTYPES = {"float32": "<f4", "float16": "<f2", "float64": "<f8", "bfloat16": "<u2", "int64": "<i8", "int32": "<i4"}


class Storable(Protocol):
    """A row of one of the schemas, which a file can hold."""

    @property
    def schema(self) -> pa.Schema: ...

    def row(self) -> Mapping[str, object]: ...


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

    schema: ClassVar[pa.Schema] = T2V

    def row(self) -> dict[str, object]:
        return {
            "id": self.id,
            **array_columns("vae_latent", self.latents),
            **array_columns("text_embedding", self.text),
            "file_name": self.file_name,
            "caption": self.caption,
            "media_type": "video",
            "width": self.width,
            "height": self.height,
            "num_frames": self.latents.shape[1],  # the latents' frames: what readers of this format expect
            "duration_sec": self.duration_s,
            "fps": self.fps,
        }


@dataclass(frozen=True)
class TextSample:
    """One prompt: `text` [L, D] without padding."""

    id: str
    text: Floats
    caption: str

    schema: ClassVar[pa.Schema] = TEXT_ONLY

    def row(self) -> dict[str, object]:
        return {"id": self.id, **array_columns("text_embedding", self.text), "caption": self.caption}


@dataclass(frozen=True)
class TrajectorySample:
    """A teacher's sampling trajectory, from noise to a clip: `latents` [S, T, C, H, W] before each step; `timesteps` [S]; `text` [L, D].

    Timestep 0 is the clip itself. float16 keeps three digits of latents in half of the space.
    """

    id: str
    latents: Floats
    timesteps: Floats
    text: Floats
    caption: str
    dtype: str = "float32"

    schema: ClassVar[pa.Schema] = TRAJECTORY

    def row(self) -> dict[str, object]:
        return {
            "id": self.id,
            **array_columns("text_embedding", self.text),
            **array_columns("trajectory_latents", self.latents, self.dtype),
            **array_columns("trajectory_timesteps", self.timesteps),
            "file_name": self.id,
            "caption": self.caption,
            "media_type": "text",
        }


def array_columns(name: str, array: Floats, dtype: str = "float32") -> dict[str, object]:
    return {f"{name}_bytes": array.astype(_DTYPES[dtype]).tobytes(), f"{name}_shape": list(array.shape), f"{name}_dtype": dtype}


def decode_array(data: bytes | memoryview | pa.Buffer, shape: list[int], dtype: str) -> Floats:
    """Return the stored array as float32, which must not be changed: it may be `data` itself. ValueError says what is wrong with it."""
    if dtype not in _DTYPES:
        raise ValueError(f"has the unknown dtype {dtype!r}; known: {', '.join(_DTYPES)}")
    if None in shape or any(size <= 0 for size in shape):  # a list of parquet may hold nulls
        raise ValueError(f"has the shape {shape}")
    stored = np.dtype(_DTYPES[dtype])
    needed, given = math.prod(shape) * stored.itemsize, memoryview(data).nbytes
    if needed != given:
        raise ValueError(f"has {given} bytes, but its shape {shape} of {dtype} takes {needed}")
    flat = np.frombuffer(data, stored)
    if dtype == "bfloat16":  # numpy has none: it is the upper half of a float32
        flat = (flat.astype("<u4") << 16).view("<f4")
    with np.errstate(over="ignore", invalid="ignore"):  # a float64 too big for float32 becomes inf, and is refused as such
        values: Floats = flat.astype(np.float32, copy=False).reshape(shape)
        finite = np.isfinite(values.sum()) or np.isfinite(values).all()  # the sum takes a tenth of the time, but may overflow
    if not finite:
        raise ValueError("holds values that are not finite")
    return values


class PartFile:
    """One parquet file in the making, a row group for each row; it has its name only once it is whole and on the disk."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.rows, self._schema = path, 0, schema
        self._temporary = path.with_name(f".{path.name}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # random floats do not compress into dictionaries, and statistics of them serve nobody
            self._writer = pq.ParquetWriter(self._temporary, schema, compression="zstd", use_dictionary=False, write_statistics=False)
        except OSError:
            self._temporary.unlink(missing_ok=True)
            raise

    def write(self, row: Mapping[str, object]) -> None:
        self._writer.write_table(pa.Table.from_pylist([row], self._schema))
        self.rows += 1

    def publish(self) -> int:
        """Give the file its name, durably, and return its size in bytes; where the disk refuses, nothing is left of it."""
        try:
            self._writer.close()
            publish_written(self._temporary, self.path)
        except BaseException:
            self.abandon()
            raise
        return self.path.stat().st_size

    def abandon(self) -> None:
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk does not take the end of a file that is gone
            self._writer.close()


class PartWriter:
    """Writes samples to `folder` as part-00000.parquet, part-00001.parquet, …; a file has its name only once it is whole."""

    def __init__(self, folder: Path, rows_per_file: int) -> None:
        self._folder, self._rows_per_file = folder, rows_per_file
        self._parts = 0
        self._open: PartFile | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if kind is None:
            self._publish()
        elif self._open is not None:
            self._open.abandon()

    def write(self, sample: Storable) -> None:
        if self._open is None:
            self._open = PartFile(self._folder / f"part-{self._parts:05d}.parquet", sample.schema)
        self._open.write(sample.row())
        if self._open.rows == self._rows_per_file:
            self._publish()

    def _publish(self) -> None:
        if self._open is not None:
            self._open.publish()
            self._open, self._parts = None, self._parts + 1
