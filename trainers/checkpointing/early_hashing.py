"""Owns hashing the newest checkpoint ahead: in a thread, while the ranks join each other and build their networks.

Must not judge a checkpoint: what was found right need not be read again, and whatever else there is loader.py looks at anew.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from ..files import FileEntry, digest_file
from . import manifest as manifests
from . import store

_OF_A_RANK = re.compile(r"__(\d+)_")


def share(names: Iterable[str], rank: int, world_size: int) -> list[str]:
    """Return which files of a checkpoint a rank hashes: those that it will load, so that its node reads them once from the disk."""
    return [name for name in sorted(names) if _writer(name) % world_size == rank]


def _writer(name: str) -> int:
    found = _OF_A_RANK.match(name)
    return int(found[1]) if found else 0


class EarlyHashing:
    """One rank's share of the newest checkpoint, from now on until `join`."""

    def __init__(self, directory: Path, rank: int, world_size: int) -> None:
        self._directory, self._rank, self._world_size = Path(directory), rank, world_size
        self._right: dict[Path, FileEntry] = {}
        self._hashed_bytes = 0
        self._thread = threading.Thread(target=self._hash, name="early hashing", daemon=True)
        self._thread.start()

    def join(self, tick: Callable[[int], None]) -> None:
        """Wait for its end; `tick` gets the bytes hashed so far about once a second."""
        while self._thread.is_alive():
            self._thread.join(1.0)
            tick(self._hashed_bytes)

    def is_right(self, path: Path, entry: FileEntry) -> bool:
        """Return whether the file was seen to be what its manifest says."""
        return self._right.get(path) == entry

    def _hash(self) -> None:
        with suppress(Exception):  # whatever is wrong is found again, and told, by whoever chooses
            folder = store.folder_of(self._directory, store.steps(self._directory)[-1])
            files = manifests.read(folder).files
            for name in share(files, self._rank, self._world_size):
                if digest_file(folder / name, self._count) == files[name]:
                    self._right[folder / name] = files[name]

    def _count(self, count: int) -> None:
        self._hashed_bytes += count
