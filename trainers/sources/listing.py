"""Owns finding what there is to encode: (name, caption, video) of every entry of a folder or file. Must not decode or encode.

An entry that lacks something stays in the list with what is wrong, so that it is counted; only a list that cannot be read is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..config import hub_cache
from ..config.data_folder import evaluation_splits
from ..config.programs.preprocess import TextConfig, VideosConfig
from ..errors import UserError
from . import beside, layouts, line_lists, list_files, listed
from .entries import Columns, Entry, Listing, Rejected, wrong_text
from .layouts import Layout
from .listed import Listed


def locate(source: str, revision: str | None = None) -> Path:
    """Return the folder or file here; a Hugging Face id is looked up among the downloaded data sets, never on the network."""
    path = Path(source).expanduser()
    try:
        if path.exists():
            return path
    except OSError as error:
        raise UserError(f"cannot read the source {source}: {error.strerror}") from error
    if not hub_cache.is_id(source):
        raise UserError(f"the source {source} does not exist", "give a folder, a file, or the id of a Hugging Face dataset")
    try:
        return hub_cache.snapshot("dataset", source, revision)
    except hub_cache.NotHere as error:
        hint = "download it first, where there is internet, into that cache (HF_HOME moves it), or give a folder"
        raise UserError(f"the source {source} is no file or folder here, and {error}", hint) from None


def columns(config: VideosConfig | TextConfig) -> Columns:
    """Return the columns that a `preprocess` block names."""
    if isinstance(config, VideosConfig):
        return Columns(config.video_column, config.caption_column, config.split)
    return Columns(None, config.column, config.split, needs_video=False)


def entries(path: Path, wanted: Columns) -> list[Entry]:
    """Return all entries, as `read` does, without remarks."""
    return read(path, wanted).entries


def read(path: Path, wanted: Columns) -> Listing:
    """Return all entries, in an order that does not change, with ids of their own. An entry without a caption has a problem.

    UserError where there are none, or a list cannot be read.
    """
    found = _read_file(path, wanted) if path.is_file() else _read_folder(path, wanted)
    checked = list(_numbered(_checked(entry) for entry in found.entries))
    if not checked:
        raise UserError(f"{path} lists no clips" if wanted.needs_video else f"{path} has no prompts", layouts.KNOWN)
    return replace(found, entries=checked)


def _checked(entry: Entry) -> Entry:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        name = entry.name.encode(errors="replace").decode()
        return Entry(name, name, "", problem=Rejected("bad_entry", "its name is not Unicode text"))
    if (wrong := wrong_text(entry.caption)) is not None:
        return replace(entry, caption="", problem=entry.problem or wrong)
    try:
        entry.caption.encode()
    except UnicodeEncodeError:
        return replace(entry, caption="", problem=Rejected("bad_entry", "its caption is not Unicode text"))
    if entry.problem is None and not entry.caption.strip():
        return replace(entry, problem=Rejected("no_caption", "the caption is missing or empty"))
    return entry


def _numbered(found: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries with ids that are unique: the second one of an id gets `-2`, and so on."""
    seen: set[str] = set()
    for entry in found:
        name, number = entry.id, 1
        while name in seen:
            number += 1
            name = f"{entry.id}-{number}"
        seen.add(name)
        yield replace(entry, id=name)


# --- one file


def _read_file(path: Path, wanted: Columns) -> Listing:
    if path.suffix.lower() in layouts.TABLES:
        return _tables(path.parent, [path], wanted)
    if path.suffix.lower() in list_files.TEXTS and wanted.needs_video:
        return _told(line_lists.of_videos(path, wanted), path.name)
    return _told(_list(path, wanted), path.name)


def _told(found: Listed, layout: str) -> Listing:
    return Listing(found.entries, layout, found.remarks)


def _list(path: Path, wanted: Columns, below: str = "") -> Listed:
    videos = path.parent / "videos"
    folders = (videos, path.parent) if path.name.lower() == layouts.MERGED else (path.parent, videos)
    return listed.entries(path, list_files.rows(path, wanted), wanted, folders, below)


def _tables(folder: Path, files: list[Path], wanted: Columns) -> Listing:
    from . import tables  # pyarrow, which most sources do without

    found = [entry for entry in tables.entries(folder, files, wanted) if not listed.is_apple_double(entry.name)]
    return Listing(found, f"{len(files)} tables")


# --- a folder


def _read_folder(folder: Path, wanted: Columns) -> Listing:
    files = layouts.files_below(folder)
    pairs = beside.pair(_of_split(folder, files, wanted.split))
    there = layouts.present(folder, files, pairs, wanted.split, needs_video=wanted.needs_video) or _any_list(folder, files, wanted)
    if not there:
        raise layouts.unrecognised(folder, files, needs_video=wanted.needs_video)
    chosen, told = layouts.settle_splits(folder, there[0], wanted.split)
    others = [other for other in there[1:] if (chosen.kind, other.kind) != ("merge", "splits")]  # the sets that it names
    found = _READERS[chosen.kind](folder, chosen, pairs, wanted)
    unread = {path.parent for path in there[0].files if path not in chosen.files}
    inside = [path for path in files if not unread.intersection(path.parents)]
    remarks = [*told, *found.remarks, *_left_out(inside, found.entries, chosen), *_splits(folder, pairs, chosen, wanted)]
    if others:
        remarks.append(f"{folder} is read by {chosen.name}; {' and '.join(other.name for other in others)} there is not read")
    return Listing(found.entries, chosen.name, remarks)


def _of_split(folder: Path, files: list[Path], split: str | None) -> list[Path]:
    """Return the files of a split where folders or names tell; else all."""
    return [path for path in files if layouts.of_split(path.relative_to(folder), split)] or files


def _any_list(folder: Path, files: Sequence[Path], wanted: Columns) -> list[Layout]:
    """Return the one list of whatever name in a folder whose columns are known; UserError where there are several."""
    usable = [path for path in layouts.candidates(folder, files, needs_video=wanted.needs_video) if _has_columns(path, wanted)]
    if len(usable) > 1:
        raise UserError(f"{folder} holds several lists: {', '.join(path.name for path in usable)}", f"source: {usable[0]} names one")
    return [Layout("any list", path.name, [path]) for path in usable]


def _has_columns(path: Path, wanted: Columns) -> bool:
    try:
        rows = list_files.rows(path, wanted)
        there = list_files.names(rows)
        if there:
            listed.check_columns(str(path), there, wanted)
    except UserError:
        return False
    return bool(there) or any(isinstance(row.value, str) for row in rows if not wanted.needs_video)


def _left_out(files: Sequence[Path], found: Sequence[Entry], chosen: Layout) -> list[str]:
    """Return a remark where clips lie there that no entry names."""
    if chosen.kind in ("beside", "tables"):
        return []
    named = {entry.video for entry in found}
    clips = [path for path in files if path.suffix.lower() in beside.VIDEO_SUFFIXES]
    left = [path for path in clips if path not in named]
    if not left or not named - {None}:
        return []
    some = f"{len(clips) - len(left)} of the {len(clips)} clips there"
    return [f"{chosen.name} names {some}; the others, such as {left[0].name}, are left out"]


def _splits(folder: Path, pairs: beside.Pairs, chosen: Layout, wanted: Columns) -> list[str]:
    """Return a remark where clips or tables of a split for testing are read with others."""
    files = {"beside": pairs.captioned, "tables": chosen.files}.get(chosen.kind, [])
    splits = [] if wanted.split else evaluation_splits(path.relative_to(folder) for path in files)
    return [f"what is of {' and '.join(splits)} is read, too: preprocess.split takes one split"] if splits else []


def _read_list(folder: Path, chosen: Layout, pairs: beside.Pairs, wanted: Columns) -> Listed:
    return _list(chosen.files[0], wanted)


def _read_tables(folder: Path, chosen: Layout, pairs: beside.Pairs, wanted: Columns) -> Listed:
    found = _tables(folder, chosen.files, wanted)
    return Listed(found.entries, found.remarks)


def _read_beside(folder: Path, chosen: Layout, pairs: beside.Pairs, wanted: Columns) -> Listed:
    return Listed(list(beside.entries(folder, pairs, wanted)), beside.remarks(pairs))


def _read_merge(folder: Path, chosen: Layout, pairs: beside.Pairs, wanted: Columns) -> Listed:
    return line_lists.merged(chosen.files[0], wanted)


def _read_lines(folder: Path, chosen: Layout, pairs: beside.Pairs, wanted: Columns) -> Listed:
    return line_lists.side_by_side(chosen.files[0], chosen.files[1], wanted) if wanted.needs_video else _list(chosen.files[0], wanted)


def _read_splits(folder: Path, chosen: Layout, pairs: beside.Pairs, wanted: Columns) -> Listed:
    found = Listed([], [])
    for path in chosen.files:
        one = _list(path, wanted, path.parent.relative_to(folder).as_posix())
        found.entries += one.entries
        found.remarks += one.remarks
    return found


_READERS: dict[layouts.Kind, Callable[[Path, Layout, beside.Pairs, Columns], Listed]] = {
    "list": _read_list,
    "any list": _read_list,
    "tables": _read_tables,
    "beside": _read_beside,
    "merge": _read_merge,
    "lines": _read_lines,
    "splits": _read_splits,
}
