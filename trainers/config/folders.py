"""Owns which files of a folder count: links are followed, loops are survived, hidden files and what systems leave behind are left out.

Must not judge what is in a file. The launcher looks before a job through the same eyes as the ranks in it.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

_LEFT_BY_SYSTEMS = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "__pycache__", "lost+found"}
    | {"system volume information"}
)
"""Names, in lower case, of what Windows, macOS, network storage and Python leave in folders."""


def is_visible(name: str) -> bool:
    """Return whether a file or folder of this name counts; `._x` of macOS is hidden as every name is that begins with a point, and `~$x` is
    what Office keeps while x is open."""
    return not name.startswith((".", "~$")) and name.lower() not in _LEFT_BY_SYSTEMS


def files(folder: Path) -> list[Path]:
    """Return what lies at any depth below a folder and is no folder, sorted; links that lead nowhere are among them. OSError where a
    folder cannot be read.

    A folder that several paths lead to is listed once, by its own path if that lies below `folder`, else by the first link. A link to a
    folder that it lies in itself is left out.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    left = deque([folder])
    while left:
        link = left.popleft()
        if link == folder or not _is_loop(link, folder):
            left.extend(sorted(_list_tree(link, found, seen)))
    return sorted(found, key=lambda path: path.parts)  # as paths are ordered, and several times as fast


def _list_tree(top: Path, found: list[Path], seen: set[tuple[int, int]]) -> list[Path]:
    """Add the files of a tree to `found` and return the links to folders in it, which are not followed yet."""
    links, left = [], [top]
    while left:
        folder = left.pop()
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_visible(entry.name):
                    continue
                if not _is_folder(entry):
                    found.append(folder / entry.name)
                elif entry.is_symlink():
                    links.append(folder / entry.name)
                else:
                    left.append(folder / entry.name)
    return links


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_loop(link: Path, folder: Path) -> bool:
    target = os.path.realpath(link)
    return any(os.path.commonpath([target, os.path.realpath(place)]) == target for place in (link.parent, folder))
