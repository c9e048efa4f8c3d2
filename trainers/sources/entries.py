"""Owns one clip or prompt as a source lists it, and why one cannot be used. Must not read files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

VIDEO_COLUMNS = ("video", "file_name", "video_path", "path")
CAPTION_COLUMNS = ("caption", "cap", "text", "prompt")


class Rejected(Exception):
    """An entry that cannot be used: `reason` is what is counted, the text is for a person."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason, self.text = reason, text

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Entry:
    """A clip or prompt of a source. `video` is a file, or a function that reads its bytes; `problem` says why it cannot be used."""

    id: str
    name: str
    caption: str
    video: Path | Callable[[], bytes | Path] | None = None
    problem: Rejected | None = None


@dataclass(frozen=True)
class Listing:
    """All entries of a source; `layout`: what it was taken for; `remarks`: what of it may not be meant, a line each for a person."""

    entries: list[Entry]
    layout: str = ""
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Columns:
    """The columns of a list or table to read; None: the first known name that it has."""

    video: str | None = None
    caption: str | None = None
    split: str | None = None
    needs_video: bool = True


def inside(folder: Path, name: str) -> tuple[Path | None, Rejected | None]:
    """Return the file that a list names, or a Rejected where it is not below the list's folder."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\0" in name:
        return None, Rejected("bad_entry", "its path leaves the folder of the videos")
    return folder / relative, None


def value(row: dict[str, Any], column: str | None, known: tuple[str, ...]) -> Any:
    return row.get(column) if column else next((row[name] for name in known if row.get(name) is not None), None)


def text(caption: Any) -> str:
    """Return a caption as text, of a list of captions the first; "" where there is none."""
    if isinstance(caption, list) and caption:
        caption = caption[0]
    return caption if isinstance(caption, str) else ""


def stem(name: str) -> str:
    """Return a video's id: its path without the suffix."""
    return PurePosixPath(name).with_suffix("").as_posix()
