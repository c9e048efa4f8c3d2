"""Owns reading rows by number out of many parquet files, and how much of them is kept decoded. Must not judge what a row holds.

Parquet cannot read less than a row group. Data that fits into the cache is read once, small files whole. Of larger data a row group is read
at a time, and kept where it holds more than one row: the order of samples then goes through row groups one by one (`block_sizes`). Nothing
is open when the object is made or pickled: each loader process opens what it reads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..config import data_folder
from ..config.counting import counted
from ..config.data import Needs
from ..errors import UserError, first_line
from .parquet_files import ARRAYS, CAPTION, DAMAGED, File, find, read_footers
from .parquet_schema import Floats, decode_array

WHOLE_FILE_BYTES = 16 * 2**20
"""Size up to which a file is read at once where all data fits into the cache."""
OPEN_FILES = 16
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One stored sample; `place` names its file and row.

    `arrays` are by the names in parquet_files.ARRAYS; they may be shared and must not be changed.
    """

    arrays: dict[str, Floats]
    caption: str
    place: str

    @property
    def latents(self) -> Floats:
        """Return the latents as stored, not normalised: [C, T, H, W]."""
        return self.arrays["vae_latent"]

    @property
    def text(self) -> Floats:
        """Return the prompt's embedding [L, D], not padded."""
        return self.arrays["text_embedding"]


@dataclass(frozen=True)
class _Block:
    """The rows that are read at once: a row group, or with `group` None a whole file. `start` is the first row's number in its file."""

    file: int
    group: int | None
    start: int
    size: int
    nbytes: int


class Rows:
    """All rows below `folders`, each folder as often as it says, numbered by folder, then by file path."""

    def __init__(self, folders: Mapping[Path, int], needs: Needs, cache_bytes: int) -> None:
        self._cache_bytes = cache_bytes
        self._files: list[File] = []
        self._blocks: list[_Block] = []
        found = {path: find(path) for path in folders}
        self.remarks = [remark for path, files in found.items() for remark in data_folder.remarks(path, files)]
        """What of the folders may not be meant, a line each."""
        footers = [read_footers(files, needs) for files in found.values()]
        self._keeps_all = sum(sum(file.nbytes) for files in footers for file in files) <= cache_bytes
        order: list[int] = []
        for files, repeats in zip(footers, folders.values(), strict=True):
            order += repeats * self._add(files)
        self._order: Indices = np.array(order, np.int64)
        self._sizes: Indices = np.array([self._blocks[block].size for block in order], np.int64)
        self._end: Indices = np.cumsum(self._sizes)
        if not len(self):
            raise UserError(f"{counted(len(self._files), 'parquet file')} in {', '.join(map(str, folders))} and no rows")
        self._arrays = ARRAYS[needs]
        self.forget()

    def _add(self, files: list[File]) -> list[int]:
        """Add one folder's files and return the numbers of their blocks."""
        first = len(self._blocks)
        for file in files:
            self._blocks += _blocks(file, len(self._files), whole=self._keeps_all)
            self._files.append(file)
        return list(range(first, len(self._blocks)))

    @property
    def block_sizes(self) -> Indices | None:
        """Return the number of rows of each row group where samples must be drawn from few row groups at a time; None where any order reads
        as fast."""
        return None if self._keeps_all or self._sizes.max() == 1 else self._sizes

    @property
    def largest_block_bytes(self) -> int:
        return max(block.nbytes for block in self._blocks)

    def spread(self, count: int) -> list[int]:
        """Return about `count` rows from all over the data, out of a quarter as many blocks where these hold several rows."""
        if self.block_sizes is None:
            return sorted({index * len(self) // count for index in range(count)})
        blocks = sorted({number * len(self._sizes) // max(1, count // 4) for number in range(max(1, count // 4))})
        return [int(self._end[b] - self._sizes[b]) + row for b in blocks for row in range(min(4, int(self._sizes[b])))]

    def __len__(self) -> int:
        return int(self._end[-1]) if len(self._end) else 0

    def __getitem__(self, index: int) -> Row:
        """Return row `index`; UserError where it cannot be read, or is not what its columns say."""
        place = int(self._end.searchsorted(index, "right"))
        number, row = int(self._order[place]), index - int(self._end[place] - self._sizes[place])
        row_or_error = self._cached(number)[row]
        if isinstance(row_or_error, UserError):
            raise row_or_error.with_traceback(None)
        return row_or_error

    def _cached(self, number: int) -> list[Row | UserError]:
        rows = self._cache.get(number)
        if rows is not None:
            self._cache.move_to_end(number)
            return rows
        block = self._blocks[number]
        rows = self._read(block)
        if self._keeps_all or block.size > 1:  # a row group of one row: it is not read again before all others
            self._keep(number, rows)
        return rows

    def _keep(self, number: int, rows: list[Row | UserError]) -> None:
        self._cache[number] = rows
        self._held += self._blocks[number].nbytes
        while self._held > self._cache_bytes and len(self._cache) > 1:
            dropped, _ = self._cache.popitem(last=False)
            self._held -= self._blocks[dropped].nbytes

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_open", "_cache", "_held")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    def forget(self) -> None:
        """Close all files and drop the cache."""
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._cache: OrderedDict[int, list[Row | UserError]] = OrderedDict()
        self._held = 0

    def _read(self, block: _Block) -> list[Row | UserError]:
        path = self._files[block.file].path
        try:
            try:
                table = self._table(block)
            except OSError:  # a file system may fail once: a row that is given up for that would make the run another one
                self._open.pop(block.file, None)
                table = self._table(block)
            if table.num_rows != block.size:
                raise ValueError(f"there are {table.num_rows} rows of {block.size}")
        except DAMAGED as error:
            hint = "the file is damaged: write it again, or take it away"
            return [UserError(f"{path}: row {block.start + row} cannot be read: {first_line(error)}", hint) for row in range(block.size)]
        columns = {name: table.column(name) for name in table.column_names}
        return [self._row(columns, row, f"{path}: row {block.start + row}") for row in range(block.size)]

    def _table(self, block: _Block) -> pa.Table:
        opened, options = self._opened(block.file), {"columns": self._files[block.file].columns, "use_threads": False}
        return opened.read(**options) if block.group is None else opened.read_row_group(block.group, **options)

    def _row(self, columns: dict[str, pa.ChunkedArray], row: int, place: str) -> Row | UserError:
        try:
            arrays = {name: _decode(columns, name, row) for name in self._arrays}
            caption = columns[CAPTION][row].as_py() if CAPTION in columns else None
        except ValueError as error:
            return UserError(f"{place}: {error}")
        return Row(arrays, caption if isinstance(caption, str) else "", place)

    def _opened(self, number: int) -> pq.ParquetFile:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if len(self._open) == OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        self._open[number] = pq.ParquetFile(self._files[number].path, pre_buffer=False)
        return self._open[number]


def _blocks(file: File, number: int, *, whole: bool) -> list[_Block]:
    if whole and file.rows and file.path.stat().st_size <= WHOLE_FILE_BYTES:
        return [_Block(number, None, 0, sum(file.rows), sum(file.nbytes))]
    starts = np.cumsum([0, *file.rows])
    return [_Block(number, group, int(starts[group]), rows, file.nbytes[group]) for group, rows in enumerate(file.rows)]


def _decode(columns: dict[str, pa.ChunkedArray], name: str, row: int) -> Floats:
    data, shape, dtype = (columns[f"{name}_{part}"][row] for part in ("bytes", "shape", "dtype"))
    if not (data.is_valid and shape.is_valid and dtype.is_valid):
        raise ValueError(f"{name} is missing")
    try:
        return decode_array(data.as_buffer(), shape.as_py(), dtype.as_py())
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
