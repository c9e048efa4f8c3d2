"""Owns where this process keeps temporary files and what is compiled: in memory where the node's disks take none. Must not import torch.

A node's /tmp is soon full; packages look for a folder as soon as they are imported, and a compiler that cannot write ends the rank.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_IN_MEMORY = "/dev/shm"
_COMPILE_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
_NEEDED_BYTES = 8 << 20
"""Room that what is compiled needs at least."""
_made: list[str] = []


def ensure() -> list[str]:
    """Replace folders that take no files, for this process and those that it starts; return what to tell."""
    told = []
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        os.environ["TMPDIR"] = tempfile.tempdir = _IN_MEMORY
        told.append(f"{error.strerror or error}: temporary files are kept in memory ({_IN_MEMORY})")
    for name in _COMPILE_CACHES:
        folder = os.environ.get(name)
        if folder and not _takes_files(Path(folder)):
            with suppress(OSError):
                os.environ[name] = tempfile.mkdtemp(dir=_IN_MEMORY)
                _made.append(os.environ[name])
                told.append(f"{folder} takes no files: what is compiled is kept in memory, for this attempt alone")
    return told


@atexit.register
def remove() -> None:
    """Remove the folders in memory. To be called by who exits without running what is registered for that."""
    while _made:
        shutil.rmtree(_made.pop(), ignore_errors=True)


def _takes_files(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, _NEEDED_BYTES)
    except OSError:
        return False
    return True
