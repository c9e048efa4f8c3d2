"""Owns reading list files: JSON, JSON lines, tables of text with whatever delimiter, a prompt a line. Must not look for videos.

A row that cannot be read stays in the list with what is wrong; a list that cannot be read is a UserError.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.counting import counted
from ..errors import UserError
from . import columns as columns_
from . import text_files
from .columns import CAPTION_COLUMNS, VIDEO_COLUMNS
from .entries import Columns, Rejected

DELIMITED = (".csv", ".tsv", ".tab", ".psv")
JSON_LINES = (".jsonl", ".ndjson")
TEXTS = (".txt", ".text")
SUFFIXES = (".json", *JSON_LINES, *DELIMITED)
"""Suffixes of lists of clips, or of prompts, in lower case; TEXTS are of prompts alone."""
_DELIMITERS = (",", ";", "\t", "|")
_BACKSLASHED = re.compile(r'\\"(?!\s*(?:[,;\t|\n]|$))')
"""A quote inside a field that is escaped by a backslash, as Spark writes it, and not doubled: no field can end there."""
_NONE = "\x1f"
"""A delimiter that no text has: a table of one column needs none."""


@dataclass(frozen=True)
class Row:
    """A row by its number in the list: a mapping, a plain prompt, or whatever stands there. `problem` says what is wrong with it."""

    number: int
    value: Any
    problem: Rejected | None = None


def rows(path: Path, columns: Columns) -> list[Row]:
    """Return the rows of a list; UserError where it cannot be read or is of another kind. Blank lines are none."""
    suffix = path.suffix.lower()
    if suffix in TEXTS:
        return [Row(number, line) for number, line in enumerate(text_files.lines(text_files.read(path))) if line]
    if suffix in DELIMITED:
        return list(_delimited(path, columns))
    if suffix in JSON_LINES:
        return _json_lines(path)
    if suffix == ".json":
        return _json(path)
    raise UserError(f"{path} is not a list of clips or prompts", f"known: {', '.join([*TEXTS, *SUFFIXES, '.parquet', '.arrow'])}")


def names(listed: list[Row]) -> list[str]:
    """Return the columns or keys that the rows have, in order."""
    return list(dict.fromkeys(key for row in listed[:1000] if isinstance(row.value, dict) for key in row.value))


# --- JSON


def _json(path: Path) -> list[Row]:
    text = text_files.read(path)
    try:
        value = _loads(text)
    except (ValueError, RecursionError) as error:
        by_line = _parsed(text)
        if len(by_line) > 1 and not any(row.problem for row in by_line):
            return by_line
        raise UserError(f"{path} is not JSON: {error}") from error
    listed = _entries_of(value)
    if listed is None:
        keys = f": it is a mapping of {', '.join(list(value)[:8])}" if isinstance(value, dict) and value else ""
        raise UserError(f"{path} is not a list{keys}", 'it is a list of {"path": "clip.mp4", "cap": "what it shows"}')
    return [Row(number, row) for number, row in enumerate(listed)]


def _loads(text: str) -> Any:
    """Parse JSON, in whose strings tabs and other control characters may stand as they are."""
    return json.loads(text, strict=False)


def _entries_of(value: Any) -> list[Any] | None:
    """Return the list that a JSON value is or holds: also {"clip.mp4": "what it shows"}, and a list as the only value of a mapping."""
    if isinstance(value, dict) and value:
        only = next(iter(value.values()))
        if len(value) == 1 and isinstance(only, list) and all(isinstance(row, dict) for row in only):
            return only
        if all(Path(name).suffix for name in value):
            return [{"path": name, **(row if isinstance(row, dict) else {"caption": row})} for name, row in value.items()]
    return value if isinstance(value, list) else None


def _json_lines(path: Path) -> list[Row]:
    text = text_files.read(path)
    by_line = _parsed(text)
    if by_line and text.lstrip().startswith("[") and all(row.problem for row in by_line):
        return _json(path)
    return by_line


def _parsed(text: str) -> list[Row]:
    filled = [(place, line) for place, line in enumerate(text_files.lines(text), 1) if line]
    return [_parsed_line(number, place, line) for number, (place, line) in enumerate(filled)]


def _parsed_line(number: int, place: int, line: str) -> Row:
    try:
        return Row(number, _loads(line))
    except (ValueError, RecursionError):
        return Row(number, None, Rejected("bad_entry", f"line {place} cannot be read as an entry"))


# --- tables of text


def _delimited(path: Path, columns: Columns) -> Iterator[Row]:
    text = text_files.read(path).lstrip(" \n")
    if _BACKSLASHED.search(text):
        text = text.replace('\\"', '""')
    delimiter = None
    if text[:4].lower() == "sep=":  # as Excel writes it
        delimiter, _, text = text[4:5], *text[5:].partition("\n")[1:]
    try:
        header = _header(text, delimiter, columns)
        yield from _records(text, *header)
        _check_quotes(text, header[0])
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV table: {error}") from error


def _header(text: str, delimiter: str | None, columns: Columns) -> tuple[str, list[str]]:
    """Return the delimiter and the columns' names: the delimiter that makes most sense of the first line."""
    best, score = (_NONE, [text.partition("\n")[0].strip().strip('"')]), (-1, -1)
    for number, candidate in enumerate((delimiter,) if delimiter else _DELIMITERS):
        header = [name.strip() for name in next(_reader(text, candidate), [])]
        sought = [(columns.caption, CAPTION_COLUMNS), *([(columns.video, VIDEO_COLUMNS)] if columns.needs_video else [])]
        found = sum(bool(columns_.find(header, *column)) for column in sought)
        rank = (found, len(header) if not found else -number)
        if len(header) > 1 and rank > score:
            best, score = (candidate, header), rank
    return best


def _records(text: str, delimiter: str, header: list[str]) -> Iterator[Row]:
    reader = _reader(text, delimiter)
    next(reader, None)
    filled = (fields for fields in reader if any(field.strip() for field in fields))
    for number, fields in enumerate(filled):
        values: list[str | None] = [*fields, *[None] * (len(header) - len(fields))]
        row = dict(zip(header, values, strict=False))
        extra = [field for field in fields[len(header) :] if field.strip()]
        message = (
            f"it has {counted(len(fields), 'field')} and the table {counted(len(header), 'column')}: "
            f"quote a caption with a {delimiter!r} in it"
        )
        yield Row(number, row, Rejected("bad_entry", message) if extra else None)


def _check_quotes(text: str, delimiter: str) -> None:
    """Raise csv.Error where a quote is never closed: its field would swallow the rest of the table."""
    try:
        for _ in _reader(text, delimiter, strict=True):
            pass
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise csv.Error("a quoted field has no closing quote") from error


def _reader(text: str, delimiter: str, *, strict: bool = False) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=strict)
