"""Owns the entries that the rows of a list make: each with its video and its caption, or with what is wrong. Must not read lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UserError
from . import columns as columns_
from .beside import is_clip
from .columns import CAPTION_COLUMNS, VIDEO_COLUMNS
from .entries import Columns, Entry, Rejected, stem, text
from .list_files import Row, names
from .video_paths import Found, VideoPaths

_SHOWN = 8


@dataclass
class Listed:
    """The entries of one list, in its order, and remarks on it."""

    entries: list[Entry]
    remarks: list[str]


def entries(path: Path, rows: Sequence[Row], columns: Columns, folders: Sequence[Path], below: str = "") -> Listed:
    """Return the entries of the list at `path`, whose videos lie in `folders`. Names get `below` before them: the folder of one of several
    lists. UserError where the rows have no column of the kind."""
    remarks = _check_columns(path, rows, columns)
    place = f"{below}/{path.name}" if below else path.name
    paths, found = VideoPaths(*folders), dict[int, Found]()
    listed: list[Entry] = []
    for row in rows:
        entry = _entry(f"{place}: entry {row.number}", row, columns)
        if columns.needs_video and entry.problem is None:
            found[len(listed)] = paths.find(entry.name)
            entry = _located(entry, found[len(listed)], below)
        listed.append(entry)
    remarks += _settle_moved(path, listed, found, folders[0])
    return Listed([entry for entry in listed if not is_apple_double(entry.name)], remarks)


def is_apple_double(name: str) -> bool:
    """Return whether a name is that of a file in which macOS keeps what other systems cannot: `._x` beside x."""
    return name.replace("\\", "/").rpartition("/")[2].startswith("._")


def check_columns(place: str, there: list[str], columns: Columns) -> tuple[list[str], list[str]]:
    """Return (columns with the video, columns with the caption) of those that are there; UserError that names them where one lacks."""
    video = columns_.find(there, columns.video, VIDEO_COLUMNS) if columns.needs_video else []
    caption = columns_.find(there, columns.caption, CAPTION_COLUMNS)
    lacking = [("the video", "video_column", columns.video)] if columns.needs_video and not video else []
    lacking += [] if caption else [("the caption", "caption_column" if columns.needs_video else "column", columns.caption)]
    if lacking:
        sought = " and ".join(f"{what} ({named})" if named else what for what, _, named in lacking)
        keys = " and ".join(f"preprocess.{key}" for _, key, _ in lacking)
        shown = ", ".join(map(repr, there[:_SHOWN])) + (f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else "")
        hint = f"{keys} {'says' if len(lacking) == 1 else 'say'} which it is"
        if any(is_clip(Path(name.strip())) for name in there):
            hint = f"a clip stands where the names of the columns belong: a first line such as {VIDEO_COLUMNS[1]},{CAPTION_COLUMNS[0]}"
        raise UserError(f"{place}: no column for {sought} is known among its columns: {shown}", hint)
    return video, caption


def _check_columns(path: Path, rows: Sequence[Row], columns: Columns) -> list[str]:
    """Return remarks on the columns that are taken; UserError where rows have none of the kind."""
    there = names(list(rows))
    if not there:
        return []  # plain prompts, or rows that each have a problem
    video, caption = check_columns(str(path), there, columns)
    return [
        f"{path.name}: {what} is taken from {taken[0]!r}, not from {', '.join(map(repr, taken[1:]))}"
        for what, taken, named in (("the video", video, columns.video), ("the caption", caption, columns.caption))
        if len(taken) > 1 and not named
    ]


def _entry(place: str, row: Row, columns: Columns) -> Entry:
    """Return the entry of a row, its video not looked for yet; the name of one that has no problem is the video's."""
    if isinstance(row.value, str) and not columns.needs_video:
        return Entry(place, place, row.value.strip())
    if not isinstance(row.value, dict):
        return Entry(place, place, "", problem=row.problem or Rejected("bad_entry", "it cannot be read as an entry"))
    caption = text(columns_.value(row.value, columns.caption, CAPTION_COLUMNS))
    if not columns.needs_video:
        return Entry(place, place, caption, problem=row.problem)
    name = columns_.value(row.value, columns.video, VIDEO_COLUMNS)
    if isinstance(name, dict):  # {"path": "a.mp4", "bytes": null}
        name = columns_.value(name, None, VIDEO_COLUMNS)
    name = str(name) if isinstance(name, int) and not isinstance(name, bool) else name
    if not isinstance(name, str) or not name.strip():
        return Entry(place, place, caption, problem=row.problem or Rejected("bad_entry", "it names no video"))
    return Entry(stem(name), name, caption, problem=row.problem)


def _located(entry: Entry, found: Found, below: str) -> Entry:
    name = f"{below}/{entry.name}" if below else entry.name
    return replace(entry, id=stem(f"{below}/{found.below}" if below else found.below), name=name, video=found.file, problem=found.problem)


def _settle_moved(path: Path, listed: list[Entry], found: dict[int, Found], folder: Path) -> list[str]:
    """Reject the entries whose path of another machine may mean another file, and return a remark on the others.

    Where C:\\set is left out of some paths, C:\\set\\cats is not left out of others; and two paths do not mean one file.
    """
    moved = {number: f for number, f in found.items() if f.moved_from is not None}
    roots = {f.moved_from for f in moved.values()}
    meant = defaultdict(set)
    for number, one in moved.items():
        meant[one.file].add(listed[number].name)
    for number, one in moved.items():
        assert one.moved_from is not None
        names_of_file = meant[one.file]
        if any(one.moved_from[:length] in roots for length in range(len(one.moved_from))):
            problem = Rejected("missing", f"it is not there, and {one.below} in {folder} seems to be another file")
        elif len(names_of_file) > 1:
            problem = Rejected("bad_entry", f"several paths would all be {one.below} in {folder}: {', '.join(sorted(names_of_file)[:3])}")
        else:
            continue
        listed[number] = replace(listed[number], video=None, problem=problem)
    used = [number for number in moved if listed[number].problem is None]
    if not used:
        return []
    return [
        f"{path.name}: {len(used)} paths of another place are read in {folder}: {listed[used[0]].name} is {moved[used[0]].file}",
    ]
