"""Owns how files come into being whole: written aside, synced to the disk, digested, published by rename.

Must not know what the files hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def publish(path: Path, write: Callable[[Path], None]) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def publish_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sync(temporary)
    temporary.rename(path)
    sync(path.parent)


_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class FileEntry:
    size: int
    digest: str


def digest_file(path: Path, tick: Callable[[int], None] = lambda _bytes: None) -> FileEntry:
    """Size and digest of what a reader gets now; `tick` hears of every chunk."""
    hasher, size = hashlib.blake2b(digest_size=32), 0
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            hasher.update(buffer[:count])
            size += count
            tick(count)
    return FileEntry(size, hasher.hexdigest())


def fsync_path(path: Path) -> None:
    """Files and folders alike."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync(path: Path) -> None:
    """Make a file or a folder's entries survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
