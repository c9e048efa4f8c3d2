"""Owns finding parquet files and checking, by their footers alone, that each is whole and holds the columns that a run reads.

Must not read rows, nor know what a run does with them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..config import data_folder
from ..config.counting import counted
from ..config.data import Needs
from ..errors import UserError, first_line

ARRAYS: dict[Needs, tuple[str, ...]] = {
    "latents": ("vae_latent", "text_embedding"),
    "text": ("text_embedding",),
    "trajectory": ("trajectory_latents", "trajectory_timesteps", "text_embedding"),
}
"""The arrays that are read of each row, by what the method needs; an array is the columns `<name>_bytes`, `<name>_shape`,
`<name>_dtype`."""
CAPTION = "caption"
"""The column of the prompt's text, read where it is there."""
DAMAGED = (OSError, pa.ArrowException, ValueError, LookupError, OverflowError, MemoryError)
"""Errors that pyarrow raises, and that its answers lead to, where bytes of a file are not what they were."""
_ROWS_A_BYTE = 1000
"""Rows that a byte of a file may hold at most, far more than any compression gives: a damaged count of rows would fill the memory."""
_PARTS = {"bytes": "binary", "shape": "list<int64>", "dtype": "string"}
_SCHEMAS: dict[Needs, str] = {
    "latents": "this method trains on clips: preprocess videos for it (the t2v schema)",
    "text": "this method trains on prompts: preprocess text for it, or take any preprocessed clips",
    "trajectory": "this method trains on sampling trajectories (the ode_trajectory_text_only schema)",
}


@dataclass(frozen=True)
class File:
    """A whole parquet file: the number of rows of each row group, and the bytes that the columns which are read take once decompressed."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[int, ...]
    nbytes: tuple[int, ...]


def columns(needs: Needs) -> list[str]:
    return [f"{array}_{part}" for array in ARRAYS[needs] for part in _PARTS]


def find(path: Path, called: str = "data.path", hint: str = "data.path is a folder that preprocessing wrote") -> list[Path]:
    """Return the parquet files that a data.path means, sorted, without hidden ones (half-written files are hidden).

    In what preprocessing wrote these are the samples alone: its holdout lies beside them and is not for training. UserError where there
    are none, or where the holdout of a data set below is among them.
    """
    try:
        if not path.exists():
            raise UserError(f"{called} {path} does not exist")
        files = data_folder.parquet_files(path)
    except OSError as error:
        raise UserError(f"cannot read {called} {path}: {error}", "every folder in it must be readable") from error
    if not files and path.is_file():
        raise UserError(f"{called} {path} is not a folder, nor a file called .parquet", hint)
    if not files:
        raise UserError(f"no parquet files in {data_folder.samples_root(path)}", hint)
    if (wrong := data_folder.held_out(path, files)) is not None:
        raise UserError(f"{called} {wrong[0]}", wrong[1])
    return files


def read_footers(paths: list[Path], needs: Needs) -> list[File]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda path: read_footer(path, needs), paths))


def read_footer(path: Path, needs: Needs) -> File:
    """Read the footer of a file; UserError where it was cut off (it has no footer) or lacks a column."""
    try:
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        names = list(schema.names)
    except DAMAGED as error:
        raise _not_whole(path, first_line(error)) from error
    required = columns(needs)
    _check_types(path, schema, required, needs)
    read = tuple(name for name in (*required, CAPTION) if name in names)
    try:
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        rows, nbytes = tuple(group.num_rows for group in groups), tuple(_bytes(group, read) for group in groups)
        size = path.stat().st_size
    except DAMAGED as error:
        raise _not_whole(path, first_line(error)) from error
    if sum(rows) != metadata.num_rows or min((*rows, *nbytes), default=0) < 0 or sum(rows) > _ROWS_A_BYTE * size:
        raise _not_whole(path, f"it cannot hold {counted(metadata.num_rows, 'row')} in {size} bytes")
    return File(path, read, rows, nbytes)


def _not_whole(path: Path, why: str) -> UserError:
    return UserError(f"{path} is not a whole parquet file: {why}", "it is damaged or half written: write it again, or take it away")


def _check_types(path: Path, schema: pa.Schema, required: list[str], needs: Needs) -> None:
    for name in (*required, CAPTION):
        if schema.names.count(name) > 1:
            raise UserError(f"{path} has {schema.names.count(name)} columns {name!r}", "write it again with one of them")
    for name in required:
        if name not in schema.names:
            raise UserError(f"{path} has no column {name!r}", _SCHEMAS[needs])
        kind = _PARTS[name.rpartition("_")[2]]
        if _kind(schema.field(name).type) != kind:
            raise UserError(f"{path}: the column {name!r} is {schema.field(name).type}, not {kind}", _SCHEMAS[needs])


def _kind(column: pa.DataType) -> str:
    """Return the type without what makes no difference to a reader: how wide offsets are, what a list calls its elements."""
    if pa.types.is_list(column) or pa.types.is_large_list(column):
        return f"list<{column.value_type}>"
    return str(column).removeprefix("large_")


def _bytes(group: pq.RowGroupMetaData, read: tuple[str, ...]) -> int:
    stored = (group.column(number) for number in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in stored if column.path_in_schema.partition(".")[0] in read)
