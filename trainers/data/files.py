"""Owns finding parquet files, checking that each is whole, and reading rows out of them. Must not know what a run does with a row.

parquet cannot read less than a row group. Small files are read whole and kept decoded; of big ones a row group is read at a time.
Nothing is open when the object is made or pickled: each loader process opens what it reads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError
from .schema import T2V, TRAINING_COLUMNS, Floats, decode_array

WHOLE_FILE_BYTES = 16 * 2**20
"""Files up to this size are read whole."""
CACHE_BYTES = 256 * 2**20
"""Decoded rows that one process keeps."""
OPEN_FILES = 16


@dataclass(frozen=True)
class Row:
    """One stored sample: un-normalised `latents` [C, T, H, W] and `text` [L, D]; `place` names its file and row."""

    latents: Floats
    text: Floats
    caption: str
    place: str

    @property
    def nbytes(self) -> int:
        return self.latents.nbytes + self.text.nbytes


class Rows:
    """All rows below `folder`, numbered in the order of their files' paths."""

    def __init__(self, folder: Path) -> None:
        self.paths = find(folder)
        with ThreadPoolExecutor(8) as pool:
            footers = list(pool.map(read_footer, self.paths))
        # one entry a block: what is read at once
        blocks = [block for file, rows in enumerate(footers) for block in _blocks(self.paths[file], file, rows)]
        self._file, self._group, sizes = (np.array(column, dtype=np.int64) for column in zip(*blocks, strict=True))
        self._end = np.cumsum(sizes)
        file_rows = [sum(rows) for rows in footers]
        self._file_start = np.cumsum([0, *file_rows])
        if not len(self):
            raise UserError(f"the {len(self.paths)} parquet files in {folder} hold no rows")
        self._forget()

    def __len__(self) -> int:
        return int(self._end[-1])

    def __getitem__(self, index: int) -> Row:
        block = int(self._end.searchsorted(index, "right"))
        start = int(self._end[block - 1]) if block else 0
        rows = self._cache.get(block)
        if rows is not None:
            self._cache.move_to_end(block)
        elif int(self._end[block]) - start == 1:  # a row group of one: nothing else would profit
            return next(self._read(block, start))
        else:
            rows = self._keep(block, list(self._read(block, start)))
        return rows[index - start]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_open", "_cache", "_cached_bytes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._cache: OrderedDict[int, list[Row]] = OrderedDict()
        self._cached_bytes = 0

    def _keep(self, block: int, rows: list[Row]) -> list[Row]:
        self._cache[block] = rows
        self._cached_bytes += sum(row.nbytes for row in rows)
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= sum(row.nbytes for row in dropped)
        return rows

    def _read(self, block: int, start: int) -> Iterator[Row]:
        file, group = int(self._file[block]), int(self._group[block])
        path = self.paths[file]
        try:
            opened, options = self._opened(file), {"columns": TRAINING_COLUMNS, "use_threads": False}
            table = opened.read(**options) if group < 0 else opened.read_row_group(group, **options)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"cannot read {path}: {_line(error)}", "the file is damaged: write it again, or take it away") from error
        first = start - int(self._file_start[file])
        for number in range(table.num_rows):
            yield _row({name: table.column(name)[number] for name in TRAINING_COLUMNS}, f"{path}: row {first + number}")

    def _opened(self, file: int) -> pq.ParquetFile:
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        if len(self._open) == OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        self._open[file] = pq.ParquetFile(self.paths[file], pre_buffer=False)
        return self._open[file]


def find(folder: Path) -> list[Path]:
    """The parquet files below `folder`, but for hidden ones (half-written files are hidden)."""
    if not folder.is_dir():
        raise UserError(f"data.path {folder} does not exist" if not folder.exists() else f"data.path {folder} is not a folder")
    found = [p for p in folder.rglob("*.parquet") if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if not found:
        raise UserError(f"no parquet files in {folder}", "data.path is a folder that preprocessing wrote")
    return sorted(found, key=lambda p: p.relative_to(folder).as_posix())


def read_footer(path: Path) -> list[int]:
    """The number of rows of each row group; a file that was cut off has no footer."""
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path} is not a whole parquet file: {_line(error)}", "it is damaged or half written: write it again, or take it away"
        ) from error
    schema = metadata.schema.to_arrow_schema()
    for name in TRAINING_COLUMNS:
        if name not in schema.names:
            raise UserError(f"{path} has no column {name!r}", "training reads the t2v schema that preprocessing writes")
        if _kind(schema.field(name).type) != _kind(T2V.field(name).type):
            raise UserError(f"{path}: the column {name!r} is {schema.field(name).type}, not {T2V.field(name).type}")
    return [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]


def _kind(column: pa.DataType) -> str:
    """The type without what makes no difference to a reader: how wide offsets are, what a list calls its elements."""
    if pa.types.is_list(column) or pa.types.is_large_list(column):
        return f"list<{column.value_type}>"
    return str(column).removeprefix("large_")


def _blocks(path: Path, file: int, rows: list[int]) -> list[tuple[int, int, int]]:
    """(file, row group or -1 for all, number of rows) of each block."""
    if path.stat().st_size <= WHOLE_FILE_BYTES:
        return [(file, -1, sum(rows))]
    return [(file, group, count) for group, count in enumerate(rows)]


def _row(columns: dict[str, pa.Scalar], place: str) -> Row:
    return Row(_values(columns, "vae_latent", place), _values(columns, "text_embedding", place), columns["caption"].as_py() or "", place)


def _values(columns: dict[str, pa.Scalar], name: str, place: str) -> Floats:
    data, shape, dtype = (columns[f"{name}_{part}"] for part in ("bytes", "shape", "dtype"))
    if not (data.is_valid and shape.is_valid and dtype.is_valid):
        raise UserError(f"{place}: {name} is missing")
    try:
        return decode_array(data.as_buffer(), shape.as_py(), dtype.as_py())
    except ValueError as error:
        raise UserError(f"{place}: {name} {error}") from error


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
