"""Owns how the launcher writes files that others read: whole or not at all, and on disk before anything relies on them.

Must not know what the files mean. An error names the file. Where there is no room for a new file, what stands in an old one can still be
overwritten: its blocks are there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOM = 1023
"""What is rewritten in place is padded to so many bytes, that one write replaces it whole."""


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
    with _named(path):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors=errors) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        fsync_directory(path.parent)


def publish_json(path: Path, value: Any) -> None:
    publish_text(path, json.dumps(value, indent=1) + "\n")


def publish_json_somehow(path: Path, value: Any) -> None:
    """Replace an object by rename, or in place where there is no room for a second file. The first error where neither can be done."""
    try:
        publish_json(path, value)
    except OSError as first:
        try:
            if not path.is_file():
                raise
            _overwrite(path, json.dumps(value, indent=1))
        except OSError:
            raise first from None


def overwrite_json(path: Path, value: Any, *, room: int = ROOM) -> None:
    """Rewrite an existing file in place, padded to `room` bytes so that one write replaces it whole.

    For files that other nodes poll: an NFS client caches that a name is missing, and which file a name is. It needs no new room on a disk
    that has become full. What stood there stays where it cannot be done.
    """
    _overwrite(path, json.dumps(value), room)


def _overwrite(path: Path, text: str, room: int = 0) -> None:
    with _named(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            before = os.pread(handle, 1 << 20, 0)
            data = text.encode("utf-8").ljust(max(room, len(before) - 1)) + b"\n"
            try:
                _write_all(handle, data, at=0)
            except OSError:
                os.pwrite(handle, before, 0)  # its own blocks: there is room for that
                os.ftruncate(handle, len(before))
                raise
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_all(handle: int, data: bytes, at: int | None = None) -> None:
    """Write all or raise: where room ends in the midst of it, the kernel reports a shorter write and no error."""
    written = os.write(handle, data) if at is None else os.pwrite(handle, data, at)
    if written < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Give an error of the block the name of the file that it is about; a temporary file's is nobody's concern."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def in_words(error: OSError) -> str:
    """Return what the operating system refused, and of which file."""
    return ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)


def why_not_writable(folder: Path, size: int = 4096) -> OSError | None:
    """Return why so many bytes cannot be written into a folder now, found by trying it; None where they can. Nothing is left there."""
    probe = folder / f".probe.{secrets.token_hex(4)}"
    try:
        with _named(folder):
            handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                for _ in range(0, size, 4096):
                    _write_all(handle, os.urandom(4096))  # zeros could be compressed away
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        return error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


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
    """Append one JSON object as a line, in one write. A partial last line left by a dead writer, or by a full disk, is ended first."""
    with _named(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            _write_all(handle, ("\n" * torn + json.dumps(value) + "\n").encode("utf-8"))
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
