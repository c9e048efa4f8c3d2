"""Owns how files come into being whole: written aside, synced to the disk, digested, published by rename.

Must not know what the files hold.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 4 << 20


def publish(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` make a file under a temporary name, then give it its own, durably; what was there before is replaced.

    A reader sees the old file or the whole new one, whenever the process dies. Returns `path`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write(temporary)
        publish_written(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def publish_written(temporary: Path, path: Path) -> None:
    """Give a file that is written and closed its name, durably, in place of one that has it; it has the umask's mode."""
    give_usual_mode(temporary)
    fsync_path(temporary)
    temporary.replace(path)
    fsync_path(path.parent)


def publish_json(path: Path, content: Any) -> None:
    """Publish `content` as indented JSON; folders that lead to it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    publish(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Raise, as OSError of `path`, what the operating system said where a library in Rust (safetensors) raises an error of its own."""
    try:
        yield
    except Exception as error:
        said = None if isinstance(error, OSError) else re.search(r"\(os error (\d+)\)", str(error))
        if said is None:
            raise
        raise OSError(int(said[1]), os.strerror(int(said[1])), str(path)) from None


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Make a temporary folder beside `target`, which the caller fills and publishes; what is left of it is deleted."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(temporary: Path, target: Path) -> None:
    """Give a filled folder its name, durably, with all that is in it; OSError where a folder that is not empty has the name.

    Folder and files have the umask's modes: what is made to be given away is readable in all its parts, or in none.
    """
    for path in [*temporary.rglob("*"), temporary]:
        give_usual_mode(path)
        fsync_path(path)
    os.rename(temporary, target)  # noqa: PTH104  refuses a folder that is not empty
    fsync_path(target.parent)


def usual_mode(path: Path) -> int:
    """Return the mode that the umask gives to a new file, or folder, of this kind: libraries that write aside and rename leave 0600."""
    return (0o777 if path.is_dir() else 0o666) & ~_umask()


def give_usual_mode(path: Path) -> None:
    """Give a file or folder of ours the umask's mode; what is another account's (a hard link to it) keeps its own."""
    if path.is_symlink() or path.stat().st_uid != os.geteuid():
        return
    path.chmod(usual_mode(path))


def _umask() -> int:
    """Return the process' umask without setting it, which other threads would see; where the kernel does not tell, by setting it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("Umask:")), 8)
    except (OSError, StopIteration):
        now = os.umask(0o077)
        os.umask(now)
        return now


def check_writable(folder: Path) -> None:
    """Raise PermissionError where no file can be made in a folder, or the folder itself cannot be made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


@dataclass(frozen=True)
class FileEntry:
    """The size in bytes and the digest of a file."""

    size: int
    digest: str


def digest_file(path: Path, tick: Callable[[int], None] = lambda _bytes: None) -> FileEntry:
    """Return the size and blake2b-256 digest of what a reader gets now; `tick` is called with the bytes of every chunk."""
    hasher, size = hashlib.blake2b(digest_size=32), 0
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            hasher.update(buffer[:count])
            size += count
            tick(count)
    return FileEntry(size, hasher.hexdigest())


def fsync_path(path: Path) -> None:
    """Make a file's content, or a folder's entries, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
