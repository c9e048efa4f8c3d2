"""Owns the task of writing others' parquet files again: one sample a row group, float32, every row checked.

Must not encode anything. A row group is read once and its rows are taken one after the other. Columns that the schema does not have are
left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..config.counting import counted
from ..data import parquet_files
from ..data.parquet_schema import T2V, TEXT_ONLY, TRAJECTORY, array_columns, decode_array
from ..errors import UserError, first_line
from ..sources.entries import Rejected
from .task_loop import Outcome

_SCHEMAS = (T2V, TRAJECTORY, TEXT_ONLY)
_UNREADABLE = (OSError, pa.ArrowException)


@dataclass(frozen=True)
class _Stored:
    schema: pa.Schema
    columns: Mapping[str, object]

    def row(self) -> Mapping[str, object]:
        return self.columns


@dataclass(frozen=True)
class _Place:
    """A row of a row group; or a whole file, with what is wrong with it."""

    file: Path
    group: int = 0
    row: int = 0
    problem: Rejected | None = None


class Rewrite:
    """The rows of the parquet files that training would read of `source`, in the order of their paths: never of what is held out."""

    def __init__(self, source: Path) -> None:
        files = parquet_files.find(source, called="the source", hint="rewrite reads the parquet files of a data set that is trained on")
        folder = source if source.is_dir() else source.parent
        self.names: list[str] = []
        self._places: list[_Place] = []
        schema = None
        for path in files:
            schema = self._add(path, path.relative_to(folder).as_posix(), schema) or schema
        if schema is None:
            raise UserError(f"none of {counted(len(files), 'parquet file')} in {source} can be read", str(self._places[0].problem))
        self.schema: pa.Schema = schema

    def _add(self, path: Path, name: str, expected: pa.Schema | None) -> pa.Schema | None:
        """Add the rows of a file and return its schema; None where it is not a whole parquet file."""
        try:
            metadata = pq.read_metadata(path)
        except _UNREADABLE as error:
            self.names.append(name)
            self._places.append(_Place(path, problem=Rejected("unreadable", first_line(error))))
            return None
        schema = _kind(path, metadata.schema.to_arrow_schema())
        if expected is not None and schema is not expected:
            raise UserError(f"{path} holds other columns than the files before it", "rewrite one kind of data at a time")
        for group in range(metadata.num_row_groups):
            for row in range(metadata.row_group(group).num_rows):
                self.names.append(f"{name}: row group {group}, row {row}")
                self._places.append(_Place(path, group, row))
        return schema

    def keys(self) -> list[tuple[str | None, str | None]]:
        """Return (id, caption) of each entry, as `mended_source` knows it by; of one that cannot be read, nothing."""
        found: list[tuple[str | None, str | None]] = []
        for place in self._places:
            try:
                row = {} if place.problem else _group(place.file, place.group, ("id", "caption")).slice(place.row, 1).to_pylist()[0]
            except _UNREADABLE:
                row = {}
            found.append((row.get("id"), row.get("caption")))
        return found

    def outcomes(self, indices: Sequence[int], waiting: Callable[[], None]) -> Generator[Outcome, None, None]:
        for index in indices:
            place = self._places[index]
            try:
                yield Outcome(place.problem or _Stored(self.schema, self._row(place)))
            except Rejected as problem:
                yield Outcome(problem)

    def _row(self, place: _Place) -> dict[str, object]:
        try:
            table = _group(place.file, place.group, tuple(self.schema.names))
            stored = table.slice(place.row, 1).to_pylist()[0]
        except _UNREADABLE as error:
            raise Rejected("unreadable", first_line(error)) from error
        row: dict[str, object] = {name: stored.get(name) for name in self.schema.names}
        for name in (column.removesuffix("_bytes") for column in self.schema.names if column.endswith("_bytes")):
            row |= _checked(name, stored)
        try:
            pa.Table.from_pylist([row], self.schema)
        except (pa.ArrowException, OverflowError) as error:  # others' idea of a width
            raise Rejected("bad_column", first_line(error)) from error
        return row


def _checked(name: str, stored: dict[str, Any]) -> dict[str, object]:
    data, shape, dtype = (stored.get(f"{name}_{part}") for part in ("bytes", "shape", "dtype"))
    if data is None or shape is None or dtype is None:
        raise Rejected("missing", f"{name} is missing")
    try:
        return array_columns(name, decode_array(data, shape, dtype))
    except (ValueError, TypeError) as error:
        raise Rejected("bad_array", f"{name} {error}") from error


def _kind(path: Path, schema: pa.Schema) -> pa.Schema:
    for known in _SCHEMAS:
        if all(name in schema.names for name in known.names if name.endswith(("_bytes", "_shape", "_dtype"))):
            return known
    raise UserError(f"{path} is none of the schemas that training reads", f"its columns: {', '.join(schema.names)}")


@functools.lru_cache(maxsize=1)
def _group(path: Path, group: int, columns: tuple[str, ...]) -> pa.Table:
    with pq.ParquetFile(path) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        return file.read_row_group(group, columns=there, use_threads=False)
