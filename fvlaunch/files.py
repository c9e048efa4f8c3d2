"""Owns how the launcher writes files that others read: whole or not at all, and on disk before anything relies on them.

Must not know what the files mean.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any


def fsync_directory(path: Path) -> None:
    """Make the names in a directory survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish_text(path: Path, text: str, *, mode: int = 0o600, errors: str = "strict") -> None:
    """Replace `path` by rename: readers see the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors=errors) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def publish_json(path: Path, value: Any) -> None:
    publish_text(path, json.dumps(value, indent=1) + "\n")


def overwrite_json(path: Path, value: Any) -> None:
    """Rewrite an existing file in place, padded so that one write replaces it whole.

    For files that other nodes poll: an NFS client caches that a name is missing, and which file a name is.
    """
    text = json.dumps(value)
    data = (text.ljust(1023) if len(text) < 1023 else text) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(handle, data.encode("utf-8"), 0)
        os.ftruncate(handle, len(data.encode("utf-8")))
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path | str) -> dict[str, Any] | None:
    """Return the object in a file, or None where there is none or it can't be read as one (another node may just be writing)."""
    try:
        value = json.loads(read_bytes(path))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_bytes(path: Path | str) -> bytes:
    """Return a small file whole, with as little ado as possible: a listing reads thousands."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(handle, 1 << 16):
            parts.append(part)
    finally:
        os.close(handle)
    return b"".join(parts)


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON object as a line, in one write. A partial last line left by a dead writer is ended first."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, ("\n" * torn + json.dumps(value) + "\n").encode("utf-8"))
        os.fsync(handle)
    finally:
        os.close(handle)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return every whole JSON object of a line file; lines that a dying writer cut are left out."""
    try:
        text = read_bytes(path).decode("utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for line in text.split("\n"):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
