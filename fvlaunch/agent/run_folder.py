"""Owns telling a run's folder that somebody has removed from one that is only away, behind a mount that is gone. Must only look.

A run whose folder was removed has to end; one whose folder is away waits for it.
"""

from __future__ import annotations

import os
from pathlib import Path


class RunFolder:
    """To be made while the folder is there."""

    def __init__(self, path: Path) -> None:
        self._path, self._parent = path, _identity(path.parent)

    def is_removed(self) -> bool:
        """Say whether the folder is not there any more, in the very folder in which it was."""
        return not os.path.lexists(self._path) and self._parent is not None and _identity(self._path.parent) == self._parent


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
