"""Owns which column of a table, or key of an entry, names the video and which holds the caption. Must not read files."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

VIDEO_COLUMNS = (
    *("video", "file_name", "video_path", "path", "filename", "file", "file_path", "filepath", "videopath", "video_file", "video_name"),
    *("videos", "clip", "clip_path", "clip_file", "clip_name", "media_path", "media", "relative_path", "rel_path", "source", "src"),
)
"""Names of a column with the video, the first that is there is taken: in any case, with spaces or hyphens for underscores."""
CAPTION_COLUMNS = (
    *("caption", "cap", "text", "prompt", "captions", "prompts", "description", "descriptions", "desc", "text_prompt", "caption_text"),
    *("video_caption", "long_caption", "dense_caption", "detailed_caption", "short_caption", "sentence", "texts", "annotation", "summary"),
)
"""Names of a column with the caption, in the same way."""


def find(names: Iterable[str], named: str | None, known: tuple[str, ...]) -> list[str]:
    """Return those of `names` that are the column `named` by the user, or one of the known ones, best first."""
    return list(_find(tuple(names), named, known))


def value(row: dict[str, Any], named: str | None, known: tuple[str, ...]) -> Any:
    """Return what a row has in the first column of these that is not null."""
    return next((row[name] for name in _find(tuple(row), named, known) if row[name] is not None), None)


@functools.lru_cache(maxsize=4096)
def _find(names: tuple[str, ...], named: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    sought = known if named is None else (named,)
    exact = [name for name in sought if name in names]
    alike = [name for word in sought for name in names if name not in exact and _plain(name) == _plain(word)]
    return tuple(exact + alike)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip("\ufeff \t\r\n\"'").casefold())
