"""Owns lists of clips in plain text: prompts.txt with videos.txt, a line a clip, and FastVideo's merge.txt. Must not read captions.

merge.txt has a line `FOLDER,LIST.json` for each set of clips.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..config.counting import counted
from ..errors import UserError
from . import layouts, list_files, listed, text_files
from .entries import Columns
from .list_files import Row
from .listed import Listed
from .video_paths import VideoPaths

_SET = re.compile(r".*\S\s*,\s*\S.*\.jsonl?", re.IGNORECASE)


def of_videos(path: Path, columns: Columns) -> Listed:
    """Return the entries of a text file that lists clips; UserError where its lines do not say which captions they have."""
    if (two := layouts.partner(path)) is not None:
        return side_by_side(*two, columns)
    if any(_SET.fullmatch(line) for line in text_files.lines(text_files.read(path))):
        return merged(path, columns)
    hint = "prompts.txt with videos.txt beside it, a line a clip; or lines FOLDER,LIST.json, as FastVideo's merge.txt has"
    raise UserError(f"{path} does not list clips with captions", hint)


def side_by_side(prompts: Path, videos: Path, columns: Columns) -> Listed:
    """Return the entries of two files whose lines belong together; UserError where their numbers differ."""
    left, right = (text_files.lines(text_files.read(path)) for path in (videos, prompts))
    if len(left) != len(right):  # blank lines between others may stand in one of them alone
        left, right = ([line for line in lines if line] for lines in (left, right))
    if len(left) != len(right):
        message = f"{prompts} has {counted(len(right), 'line')} and {videos.name} {len(left)}: which prompt is whose cannot be known"
        raise UserError(message, "they need a line for each clip, in the same order")
    pairs = [(number, video, prompt) for number, (video, prompt) in enumerate(zip(left, right, strict=True)) if video or prompt]
    rows = [Row(number, {"video": video, "caption": prompt}) for number, video, prompt in pairs]
    wanted = Columns("video", "caption", needs_video=columns.needs_video)
    return listed.entries(videos, rows, wanted, (videos.parent, videos.parent / "videos"))


def merged(path: Path, columns: Columns) -> Listed:
    """Return the entries of all the sets that a merge.txt names; UserError where a line names none."""
    found = Listed([], [])
    for number, line in enumerate(text_files.lines(text_files.read(path)), 1):
        if line:
            one = _set(f"{path}:{number}", path.parent, line, columns)
            found.entries += one.entries
            found.remarks += one.remarks
    return found


def _set(place: str, here: Path, line: str, columns: Columns) -> Listed:
    if _SET.fullmatch(line) is None:
        raise UserError(f"{place}: {line!r} names no set of clips", "a line is FOLDER,LIST.json")
    commas = [number for number, character in enumerate(line) if character == ","]
    halves = [(line[:comma].strip(), line[comma + 1 :].strip()) for comma in commas]
    paths = VideoPaths(here)
    for below, listing in halves:  # a name may have commas, too
        folder, file = paths.find(below).file, paths.find(listing).file
        if file is not None and file.is_file() and ((folder is not None and folder.is_dir()) or not columns.needs_video):
            folders = (folder or here, file.parent)
            return listed.entries(file, list_files.rows(file, columns), columns, folders, below.replace("\\", "/").strip("/"))
    lacking = [name for name in halves[-1] if paths.find(name).file is None] or list(halves[-1])
    raise UserError(f"{place}: {lacking[0]} does not exist", "paths in it are absolute, or start from its own folder")
