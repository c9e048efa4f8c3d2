"""Owns entries that stand in parquet or arrow files, as Hugging Face datasets keep them. Must not decode videos.

Only captions and names are held; a video's bytes are read when they are needed, a row group at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from ..errors import UserError, first_line
from . import columns as columns_
from .columns import CAPTION_COLUMNS, VIDEO_COLUMNS
from .entries import Columns, Entry, Rejected, stem, text
from .video_paths import VideoPaths

_UNREADABLE = (OSError, pa.ArrowException)


def entries(folder: Path, files: list[Path], columns: Columns) -> Iterator[Entry]:
    """Yield the entries of all files; one that cannot be read is an entry with a problem. UserError where they have no such columns."""
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            yield from _of_file(folder, path, name, columns)
        except _UNREADABLE as error:
            yield Entry(name, name, "", problem=Rejected("unreadable", first_line(error)))


def _of_file(folder: Path, path: Path, name: str, columns: Columns) -> Iterator[Entry]:
    schema = _schema(path)
    caption = _column(path, schema, columns.caption, CAPTION_COLUMNS)
    video = _column(path, schema, columns.video, VIDEO_COLUMNS) if columns.needs_video else None
    captions = _read(path, [caption]).column(caption).to_pylist()
    names = _names(path, schema, video) if video else [None] * len(captions)
    paths = VideoPaths(path.parent, folder, path.parent / "videos")
    for row, (words, video_name) in enumerate(zip(captions, names, strict=True)):
        place = f"{name}: row {row}"
        if video is None:
            yield Entry(place, place, text(words))
        elif _is_text(schema.field(video).type):
            yield _named(paths, place, video_name, text(words))
        else:
            yield Entry(stem(video_name or place), video_name or place, text(words), functools.partial(_video, path, video, row))


def _named(paths: VideoPaths, place: str, name: str | None, caption: str) -> Entry:
    if not name:
        return Entry(stem(place), place, caption, problem=Rejected("missing", "it has no video"))
    found = paths.find(name)
    return Entry(stem(found.below), name, caption, found.file, found.problem)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _column(path: Path, schema: pa.Schema, named: str | None, known: tuple[str, ...]) -> str:
    found = columns_.find(schema.names, named, known)
    if found:
        return found[0]
    sought = named or " or ".join(known[:5])
    raise UserError(f"{path} has no column {sought}", f"its columns: {', '.join(schema.names)}; say which: video_column, caption_column")


def _names(path: Path, schema: pa.Schema, video: str) -> list[str | None]:
    """Return the file names that the cells hold; None for a cell without one."""
    kind = schema.field(video).type
    if _is_text(kind):
        return list(_read(path, [video]).column(video).to_pylist())
    if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return [None] * _num_rows(path)
    if path.suffix.lower() == ".parquet":  # the bytes beside it are left alone
        return [cell and cell["path"] for cell in _read(path, [f"{video}.path"]).column(video).to_pylist()]
    return [name for chunk in _arrow(path).column(video).chunks for name in chunk.field("path").to_pylist()]


def _video(path: Path, column: str, row: int) -> bytes | Path:
    """Return the bytes of one cell, or the file that it names; Rejected where there is neither."""
    try:
        cell: Any = _cell(path, column, row)
    except _UNREADABLE as error:
        raise Rejected("unreadable", first_line(error)) from error
    if isinstance(cell, dict):
        named, cell = cell.get("path"), cell.get("bytes")
        if cell is None and isinstance(named, str):
            found = VideoPaths(path.parent, path.parent / "videos").find(named)
            if found.file is None:
                raise found.problem or Rejected("missing", "it has no video")
            return found.file
    if not isinstance(cell, bytes):
        raise Rejected("missing", "it has no video")
    return cell


def _cell(path: Path, column: str, row: int) -> Any:
    if path.suffix.lower() == ".arrow":
        return _arrow(path).column(column)[row].as_py()
    file = _parquet(path)
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            return _group(path, group, column)[row].as_py()
        row -= rows
    raise IndexError(row)


def _schema(path: Path) -> pa.Schema:
    return _parquet(path).schema_arrow if path.suffix.lower() == ".parquet" else _arrow(path).schema


def _num_rows(path: Path) -> int:
    return int(_parquet(path).metadata.num_rows if path.suffix.lower() == ".parquet" else _arrow(path).num_rows)


def _read(path: Path, columns: list[str]) -> pa.Table:
    return _parquet(path).read(columns=columns, use_threads=False) if path.suffix.lower() == ".parquet" else _arrow(path).select(columns)


@functools.lru_cache(maxsize=2)
def _parquet(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path)


@functools.lru_cache(maxsize=1)
def _group(path: Path, group: int, column: str) -> pa.ChunkedArray:
    """Read one column of a row group and keep it: the rows of a group are read one after the other."""
    return _parquet(path).read_row_group(group, columns=[column], use_threads=False).column(column)


@functools.lru_cache(maxsize=2)
def _arrow(path: Path) -> pa.Table:
    """Map a file into memory: a table costs no memory until a cell is read."""
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
