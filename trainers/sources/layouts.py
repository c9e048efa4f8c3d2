"""Owns which layout a folder of clips or prompts has. Must not read captions.

Several may be there at once: `present` returns them in the order in which they are taken, those that were known first before others, so
that a folder means tomorrow what it meant today.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..config import folders
from ..config.data_folder import PREPROCESS_MARKER
from ..errors import UserError
from . import beside, list_files

MERGED = "videos2caption.json"
TABLES = (".parquet", ".arrow")
KNOWN = (
    f"known: videos/ with {MERGED}; metadata.csv or .jsonl with file_name and caption, also in train/; x.mp4 with x.txt, x.caption or "
    "x.json; merge.txt of FastVideo; prompts.txt with videos.txt; parquet or arrow files with video and caption columns; one list of any "
    "name, which the source may also be"
)
Kind = Literal["list", "tables", "beside", "merge", "lines", "splits", "any list"]
_FIRST = (MERGED, "metadata.jsonl", "metadata.csv")
_PROMPTS = ("prompts.txt", "prompt.txt", "captions.txt", "caption.txt")
_VIDEOS = ("videos.txt", "video.txt")
_MERGE = "merge.txt"
_EVALUATION = frozenset({"test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation", "holdout"})
_SHOWN = 4


@dataclass(frozen=True)
class Layout:
    """A layout that is there: the files that say so (lists, or tables), and what a person calls it."""

    kind: Kind
    name: str
    files: list[Path] = field(default_factory=list)


def files_below(folder: Path) -> list[Path]:
    """Return the visible files below a folder, without what a preprocessing wrote into its own source; UserError where it cannot be
    read."""
    try:
        found = [path for path in folders.files(folder) if path.is_file()]
        inner = {path.parent for path in found}
        outputs = {place for below in inner for place in (below, *below.parents) if place.is_relative_to(folder)}
        outputs = {place for place in outputs if (place / PREPROCESS_MARKER).is_dir()}
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error}", "every folder in it must be readable") from error
    return [path for path in found if not outputs.intersection(path.parents)] if outputs else found


def present(folder: Path, files: Sequence[Path], pairs: beside.Pairs, split: str | None, *, needs_video: bool) -> list[Layout]:
    """Return the layouts that a folder has, the one to take first."""
    top = {path.name.lower(): path for path in reversed(files) if path.parent == folder}
    first = [Layout("list", name, [folder / name]) for name in _FIRST if (folder / name) in set(top.values())]
    tables = [path for path in files if path.suffix.lower() in TABLES and of_split(path.relative_to(folder), split)]
    prompts = next((top[name] for name in _PROMPTS if name in top), None)
    videos = next((top[name] for name in _VIDEOS if name in top), None)
    more = [
        Layout("list", path.name, [path])
        for name, path in top.items()
        if path.name not in _FIRST and (name == MERGED or (path.stem.lower() == "metadata" and path.suffix.lower() in list_files.SUFFIXES))
    ]
    captioned, nested = pairs.captioned, _lists_in_folders(folder, files)
    by_texts = any(caption.suffix == ".txt" for clip in captioned for caption in pairs.clips[clip][:1])
    clips = [Layout("beside", f"{captioned[0].name} with {pairs.clips[captioned[0]][0].name}")] if captioned else []
    lines = [Layout("lines", f"{prompts.name} with {videos.name}", [prompts, videos])] if prompts and videos else []
    if prompts and not needs_video:
        lines = [Layout("lines", prompts.name, [prompts])]
    return [
        *first,
        *([Layout("tables", f"{tables[0].name} ({len(tables)} tables)", tables)] if tables else []),
        *(clips if by_texts else []),
        *more,
        *([Layout("merge", _MERGE, [top[_MERGE]])] if _MERGE in top else []),
        *lines,
        *([_of_lists(folder, nested)] if nested else []),
        *(clips if not by_texts else []),
    ]


def partner(path: Path) -> tuple[Path, Path] | None:
    """Return (prompts, videos) where a text file is one of the two and the other lies beside it."""
    there = {other.name.lower(): other for other in path.parent.iterdir()}
    prompts = next((there[name] for name in _PROMPTS if name in there), None)
    videos = next((there[name] for name in _VIDEOS if name in there), None)
    return (prompts, videos) if prompts and videos and path in (prompts, videos) else None


def of_split(path: Path, split: str | None) -> bool:
    """Return whether a file is of a split, by its folders or its name: test/a.mp4, test-00000-of-00002.parquet."""
    return split is None or split in path.parts[:-1] or re.split(r"[-.]", path.name)[0] == split


def settle_splits(folder: Path, layout: Layout, split: str | None) -> tuple[Layout, list[str]]:
    """Return the layout with those lists of folders that are read, and what to tell of others; any other layout stays as it is."""
    if layout.kind != "splits":
        return layout, []
    lists, remark = _choose_splits(folder, layout.files, split)
    return _of_lists(folder, lists), [remark] if remark else []


def _of_lists(folder: Path, lists: list[Path]) -> Layout:
    return Layout("splits", " and ".join(str(path.relative_to(folder)) for path in lists[:_SHOWN]), lists)


def _choose_splits(folder: Path, lists: list[Path], split: str | None) -> tuple[list[Path], str | None]:
    """Return which lists of a folder's folders are read, and a remark where some are not; UserError where that is not clear."""
    names = {path: path.parent.relative_to(folder).as_posix() for path in lists}
    if split is not None:
        chosen = [path for path in lists if of_split(path.relative_to(folder), split)]
        if not chosen:
            raise UserError(f"{folder} has no split {split}", f"its folders with a list: {', '.join(names.values())}")
        return chosen, None
    chosen = [path for path in lists if not _EVALUATION.intersection(path.relative_to(folder).parts)]
    left = [path for path in lists if path not in chosen]
    if not chosen and len(left) > 1:
        raise UserError(f"{folder} holds several splits: {', '.join(names.values())}", "preprocess.split says which")
    chosen, left = (chosen, left) if chosen else (left, [])
    if left:
        others = ", ".join(names[path] for path in left)
        return chosen, f"{', '.join(names[path] for path in chosen)} is read, {others} is not: preprocess.split says which to take"
    return chosen, None


def candidates(folder: Path, files: Sequence[Path], *, needs_video: bool) -> list[Path]:
    """Return the files in a folder that may be a list of any name."""
    suffixes = list_files.SUFFIXES if needs_video else (*list_files.SUFFIXES, *list_files.TEXTS)
    return [path for path in files if path.parent == folder and path.suffix.lower() in suffixes]


def unrecognised(folder: Path, files: Sequence[Path], *, needs_video: bool) -> UserError:
    """Return the error that says what lies in a folder, and what is known."""
    what = "lists no clips" if needs_video else "has no prompts"
    if not files:
        return UserError(f"{folder} {what}: it is empty", KNOWN)
    counts = Counter(path.suffix.lower() or "without suffix" for path in files).most_common()
    kinds = ", ".join(f"{number} {suffix}" for suffix, number in counts[:_SHOWN]) + (" and others" if len(counts) > _SHOWN else "")
    shown = ", ".join(path.relative_to(folder).as_posix() for path in files[:_SHOWN]) + (", ..." if len(files) > _SHOWN else "")
    lacks = " with captions" if needs_video and any(map(beside.is_clip, files)) else ""
    return UserError(f"{folder} {what}{lacks} that are recognised: it holds {kinds} ({shown})", KNOWN)


def _lists_in_folders(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Return the lists of known names in folders below, the outermost ones, one a folder."""
    lists: dict[Path, Path] = {}
    for path in files:
        metadata = path.stem.lower() == "metadata" and path.suffix.lower() in list_files.SUFFIXES
        if path.parent != folder and (metadata or path.name.lower() == MERGED):
            lists.setdefault(path.parent, path)
    return [path for place, path in lists.items() if not any(above in lists for above in place.parents)]
