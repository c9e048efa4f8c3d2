"""Owns one clip or prompt as a source lists it, and why one cannot be used. Must not read files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .columns import CAPTION_COLUMNS, value

_UNDECODED = re.compile("[\udc80-\udcff]")


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
    layout: str
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Columns:
    """The columns of a list or table to read; None: the first known name that it has."""

    video: str | None = None
    caption: str | None = None
    split: str | None = None
    needs_video: bool = True


def text(caption: Any) -> str:
    """Return a caption as text: of a list the first that says something, of a mapping what it has under a known name, a number as it is
    written; "" where there is none."""
    if isinstance(caption, dict):
        return text(value(caption, None, CAPTION_COLUMNS))
    if isinstance(caption, list):
        return next(filter(None, map(text, caption)), "")
    if isinstance(caption, int | float) and not isinstance(caption, bool):
        return "" if math.isnan(caption) else str(caption)
    return caption.strip() if isinstance(caption, str) else ""


def wrong_text(words: str) -> Rejected | None:
    """Return why words are no text, or None. Bytes that are not UTF-8 are surrogates in them, as Python's surrogateescape leaves them."""
    if (byte := _UNDECODED.search(words)) is not None:
        before = words[max(0, byte.start() - 12) : byte.start()]
        where = f"after {before!r}" if before else "at its start"
        return Rejected("not_utf8", f"its caption is not UTF-8 text: byte 0x{ord(byte[0]) - 0xDC00:02x} {where}")
    if "\0" in words:
        return Rejected("not_utf8", "its caption is not UTF-8 text: it has NUL bytes, as UTF-16 has")
    return None


def stem(name: str) -> str:
    """Return a video's id: its path without the suffix."""
    try:
        return PurePosixPath(name).with_suffix("").as_posix()
    except ValueError:  # "." or "/"
        return name
