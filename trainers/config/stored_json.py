"""Owns reading a JSON file that this project or another wrote some time ago, and to which anything may have happened since.

Must not import torch, nor know what a file means. It raises OSError or ValueError, and nothing else, and waits for nothing.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 256 << 20
"""No such file is larger: the longest list every entry of a data set."""


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a file; OSError where it cannot be read or is no file, ValueError where it holds no object."""
    try:
        value = json.loads(read_file(path))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


class NotAFile(OSError):
    """A folder, a pipe or a device has the file's name, or it is larger than any such file."""


def read_file(path: Path) -> bytes:
    """Return a file's bytes; NotAFile at once where something else has its name: a pipe would be waited for, a device never end."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
        os.close(handle)
        why = f"is larger than {MAX_BYTES >> 20} MB" if stat.S_ISREG(found.st_mode) else "is not a file"
        raise NotAFile(errno.EINVAL, why, str(path))
    with os.fdopen(handle, "rb") as file:
        return file.read()


def is_count(value: object) -> bool:
    """Return whether a value is a whole number from 0 on, of a size that anything here may have."""
    return type(value) is int and 0 <= value < 2**53
