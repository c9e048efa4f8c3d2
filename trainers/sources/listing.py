"""Owns finding what there is to encode: (name, caption, video) of every entry of a folder or file. Must not decode or encode.

Known layouts: videos/ + videos2caption.json, x.mp4 + x.txt, metadata.jsonl or .csv, tables (parquet, arrow) with a video column. An entry
that lacks something stays in the list with what is wrong, so that it is counted; only a list that cannot be read is an error.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import hub_cache
from ..config.data_folder import PREPROCESS_MARKER as HIDDEN
from ..config.programs.preprocess import TextConfig, VideosConfig
from ..errors import UserError
from .entries import CAPTION_COLUMNS, VIDEO_COLUMNS, Columns, Entry, Listing, Rejected, inside, stem, text, value

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts")
TABLE_SUFFIXES = (".parquet", ".arrow")
_MERGED = "videos2caption.json"
_LAYOUTS = (
    f"known: videos/ with {_MERGED}; x.mp4 with x.txt; metadata.jsonl or metadata.csv with file_name and caption; "
    "parquet or arrow files with video and caption columns"
)


def locate(source: str, revision: str | None = None) -> Path:
    """Return the folder or file here; a Hugging Face id is looked up among the downloaded data sets, never on the network."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    if not hub_cache.is_id(source):
        raise UserError(f"the source {source} does not exist", "give a folder, a file, or the id of a Hugging Face dataset")
    try:
        return hub_cache.snapshot("dataset", source, revision)
    except hub_cache.NotHere as error:
        hint = "download it first, where there is internet, into that cache (HF_HOME moves it), or give a folder"
        raise UserError(f"the source {source} is no file or folder here, and {error}", hint) from None


def entries(path: Path, columns: Columns) -> list[Entry]:
    """Return all entries, in an order that does not change, with ids of their own. An entry without a caption has a problem."""
    listed = list(_read(path, columns))
    if not listed:
        raise UserError(f"{path} lists no clips" if columns.needs_video else f"{path} has no prompts", _LAYOUTS)
    return list(_numbered(_checked(entry) for entry in listed))


def read(path: Path, columns: Columns) -> Listing:
    """Return all entries with what the source was taken for; UserError where it holds none, or cannot be read."""
    return Listing(entries(path, columns))


def columns(config: VideosConfig | TextConfig) -> Columns:
    """Return the columns that a `preprocess` block names."""
    if isinstance(config, VideosConfig):
        return Columns(config.video_column, config.caption_column, config.split)
    return Columns(None, config.column, config.split, needs_video=False)


def _checked(entry: Entry) -> Entry:
    try:
        f"{entry.name}{entry.caption}".encode()
    except UnicodeEncodeError:
        name = entry.name.encode(errors="replace").decode()
        return Entry(name, name, "", problem=Rejected("bad_entry", "its name or caption is not Unicode text"))
    if entry.problem is None and not entry.caption.strip():
        return replace(entry, problem=Rejected("no_caption", "the caption is missing or empty"))
    return entry


def _numbered(listed: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries with ids that are unique: the second one of an id gets `-2`, and so on."""
    seen: set[str] = set()
    for entry in listed:
        name, number = entry.id, 1
        while name in seen:
            number += 1
            name = f"{entry.id}-{number}"
        seen.add(name)
        yield replace(entry, id=name)


def _read(path: Path, columns: Columns) -> Iterator[Entry]:
    if path.is_file():
        return _read_file(path, columns)
    for name in (_MERGED, "metadata.jsonl", "metadata.csv"):
        if (path / name).is_file():
            return _read_file(path / name, columns)
    files = _files(path)
    tables = [p for p in files if p.suffix in TABLE_SUFFIXES and _of_split(p.relative_to(path), columns.split)]
    if tables:
        from . import tables as reader

        return reader.entries(path, tables, columns)
    return _pairs(path, files)


def _files(folder: Path) -> list[Path]:
    """Return the files below a folder, without hidden ones and without what a preprocessing wrote into its own source."""
    outputs = [marker.parent for marker in folder.rglob(HIDDEN)]
    visible = (p for p in folder.rglob("*") if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    return sorted(p for p in visible if p.is_file() and not any(p.is_relative_to(output) for output in outputs))


def _of_split(path: Path, split: str | None) -> bool:
    return split is None or split in path.parts[:-1] or re.split(r"[-.]", path.name)[0] == split


def _read_file(path: Path, columns: Columns) -> Iterator[Entry]:
    if path.suffix in TABLE_SUFFIXES:
        from . import tables as reader

        return reader.entries(path.parent, [path], columns)
    readers = {".json": _json_rows, ".jsonl": _json_lines, ".csv": _csv_rows, ".txt": _text_lines}
    if path.suffix not in readers:
        raise UserError(f"{path} is not a list of clips or prompts", f"known: {', '.join([*readers, *TABLE_SUFFIXES])}")
    return _listed(path, readers[path.suffix](path), columns)


def _listed(path: Path, rows: Iterable[Any], columns: Columns) -> Iterator[Entry]:
    """Yield the entries of rows, which are mappings or plain captions; None is a row that could not be read."""
    videos = path.parent / "videos" if path.name == _MERGED else path.parent
    listed: set[Path] = set()
    for number, row in enumerate(rows):
        entry = _entry(f"{path.name}: entry {number}", row, videos, columns)
        if isinstance(entry.video, Path):
            listed.add(entry.video)
        yield entry
    if path.name == _MERGED and columns.needs_video and videos.is_dir():
        for video in sorted(p for p in videos.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p not in listed):
            name = video.relative_to(videos).as_posix()
            yield Entry(stem(name), name, "", video, Rejected("no_caption", f"{_MERGED} does not list it"))


def _entry(place: str, row: Any, videos: Path, columns: Columns) -> Entry:
    if isinstance(row, str) and not columns.needs_video:
        return Entry(place, place, row)
    if not isinstance(row, dict):
        return Entry(place, place, "", problem=Rejected("bad_entry", "it cannot be read as an entry"))
    caption = text(value(row, columns.caption, CAPTION_COLUMNS))
    if not columns.needs_video:
        return Entry(place, place, caption)
    name = value(row, columns.video, VIDEO_COLUMNS)
    if not isinstance(name, str) or not name:
        return Entry(place, place, caption, problem=Rejected("bad_entry", "it names no video"))
    return Entry(stem(name), name, caption, *inside(videos, name))


def _pairs(folder: Path, files: list[Path]) -> Iterator[Entry]:
    captions = {p.with_suffix("") for p in files if p.suffix == ".txt"}
    videos = [p for p in files if p.suffix.lower() in VIDEO_SUFFIXES]
    for video in videos:
        name = video.relative_to(folder).as_posix()
        caption = _read_text(video.with_suffix(".txt")).strip() if video.with_suffix("") in captions else ""
        yield Entry(stem(name), name, caption, video)
    for lonely in sorted(captions - {p.with_suffix("") for p in videos}) if videos else ():
        name = f"{lonely.relative_to(folder).as_posix()}.txt"
        yield Entry(name, name, "", problem=Rejected("missing", "there is no video of this name"))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error


def _json_rows(path: Path) -> list[Any]:
    try:
        rows = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise UserError(f"{path} is not a list", 'it is a list of {"path": "clip.mp4", "cap": "what it shows"}')
    return rows


def _json_lines(path: Path) -> Iterator[Any]:
    for line in _read_text(path).splitlines():
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def _csv_rows(path: Path) -> Iterator[Any]:
    try:
        yield from csv.DictReader(io.StringIO(_read_text(path)))
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV table: {error}") from error


def _text_lines(path: Path) -> list[str]:
    return [line.strip() for line in _read_text(path).rstrip().splitlines()]
