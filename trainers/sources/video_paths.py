"""Owns which file a list means by a name: below the list's folder, absolute, as Windows writes it, or as another machine had it.

Must not open files. Folders are listed once each, which on a network is far cheaper than asking for every file.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from .beside import is_clip
from .entries import Rejected

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """What a name means: `file`, and its path `below` the list's folder where it lies there; or a problem. `moved_from` is the folder of
    another machine, where its part of the path had to be left out."""

    file: Path | None
    below: str
    problem: Rejected | None = None
    moved_from: tuple[str, ...] | None = None


class VideoPaths:
    """Finds the files that the entries of a list name. `folders`: where they may lie, the likeliest first."""

    def __init__(self, *folders: Path) -> None:
        self._folders = list(dict.fromkeys(folders))
        self._names: dict[Path, frozenset[str] | None] = {}
        self._alike: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Found:
        """Return what a name means; a problem where there is no such file."""
        if "\0" in name:
            return Found(None, name, Rejected("bad_entry", "its name has a NUL character"))
        if (found := self._below(PurePosixPath(name))) is not None:
            return found
        if _ADDRESS.match(name) and not name.lower().startswith("file://"):
            return Found(None, name, Rejected("bad_entry", "it is an address and not a file: download the clips first"))
        return self._find_plain(name, *_plain(name))

    def _find_plain(self, name: str, path: PurePosixPath, drive: str) -> Found:
        """Find a path with slashes alone; `drive` is what Windows has before it."""
        if path.is_absolute() and not drive and self._exists(Path(path)):
            return self._named(Path(path))
        if ".." in path.parts and not path.is_absolute():
            return self._upwards(path)
        if not path.is_absolute() and (found := self._below(path)) is not None:
            return found
        parts = [part for part in path.parts if part != "/"]
        tails = range(len(parts)) if path.is_absolute() else self._own_prefixes(parts)
        for number in tails:
            if ".." not in parts[number:] and (found := self._below(PurePosixPath(*parts[number:]))) is not None:
                return Found(found.file, found.below, moved_from=(drive, *parts[:number]) if path.is_absolute() else None)
        place = self._folders[0]
        text = f"it is not there, and no end of this path lies in {place}" if path.is_absolute() else f"there is no such file in {place}"
        return Found(None, path.as_posix().lstrip("/") or name, Rejected("missing", text))

    def _below(self, path: PurePosixPath) -> Found | None:
        """Find a relative path in one of the folders."""
        if path.is_absolute() or ".." in path.parts or not path.parts:
            return None
        for folder in self._folders:
            if (file := self._step_down(folder, path.parts)) is not None:
                return Found(file, path.as_posix())
        return None

    def _step_down(self, folder: Path, parts: tuple[str, ...]) -> Path | None:
        """Follow names down a folder; one that is not there may be another spelling of one that is: in case, or of accents."""
        for part in parts:
            if not self._exists(folder / part):
                alike = self._spelled(folder).get(_spelling(part), [])
                if len(alike) != 1:
                    return None
                part = alike[0]
            folder = folder / part
        return folder

    def _upwards(self, path: PurePosixPath) -> Found:
        file = Path(os.path.normpath(self._folders[0] / path))
        if self._exists(file):
            inside = self._named(file).below if file.is_relative_to(_absolute(self._folders[0])) else path.as_posix()
            return Found(file, inside)
        return Found(None, path.as_posix(), Rejected("bad_entry", "its path leaves the folder of the videos"))

    def _named(self, file: Path) -> Found:
        below = next((file.relative_to(folder) for folder in map(_absolute, self._folders) if file.is_relative_to(folder)), None)
        return Found(file, (below or PurePosixPath(*file.parts[1:])).as_posix())

    def _own_prefixes(self, parts: list[str]) -> list[int]:
        """Return how many leading parts are the end of the folder's own path: clips/a.mp4 in a list in .../clips."""
        own = _absolute(self._folders[0]).parts
        return [n for n in range(len(parts) - 1, 0, -1) if tuple(parts[:n]) == own[-n:]]

    def _exists(self, path: Path) -> bool:
        names = self._listed(path.parent)
        return os.path.lexists(path) if names is None else path.name in names

    def _listed(self, folder: Path) -> frozenset[str] | None:
        """Return the names in a folder; None where they may not be listed."""
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))  # noqa: PTH208  names alone
            except PermissionError:
                self._names[folder] = None
            except OSError:
                self._names[folder] = frozenset()
        return self._names[folder]

    def _spelled(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._alike:
            alike = self._alike[folder] = {}
            for name in self._listed(folder) or ():
                for spelled in (name, *([Path(name).stem] if is_clip(Path(name)) else [])):  # a list may leave out the suffix
                    alike.setdefault(_spelling(spelled), []).append(name)
        return self._alike[folder]


def _plain(name: str) -> tuple[PurePosixPath, str]:
    """Return a name as a path with slashes, and the drive or server of a Windows path; absolute where that is."""
    name = name.strip()
    if name.lower().startswith("file://"):
        name = unquote(name[len("file://") :])
        name = name[1:] if re.match(r"/[A-Za-z]:", name) else name
    if name.startswith("~"):
        name = str(PurePosixPath(Path(name).expanduser()))
    if not _WINDOWS.search(name):
        return PurePosixPath(name), ""
    name = name.replace("\\", "/")
    drive = name[:2] if name[1:2] == ":" else "//" if name.startswith("//") else ""
    rest = name[2:].lstrip("/") if drive else name
    return PurePosixPath("/" + rest if drive else rest), drive


def _spelling(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _absolute(folder: Path) -> Path:
    return Path(os.path.normpath(Path.cwd() / folder))
