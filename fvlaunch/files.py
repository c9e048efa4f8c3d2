"""Owns how the launcher writes files that others read: whole or not at all, and on disk before anything relies on them.

Must not know what the files mean. An error names the file. Where there is no room for a new file, what stands in an old one can still be
overwritten: its blocks are there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOM = 1023
"""What is rewritten in place is padded to so many bytes, that one write replaces it whole."""
MAX_RECORD_BYTES = 64 << 20
MAX_LINE_BYTES = 4 << 20
"""No record, and no line of one, is larger."""
DIGEST = "digest"
"""The last key of a sealed record."""


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
    """Return the object in a file, or None where there is none, it can't be read as one (another node may just be writing), or is not as
    it was sealed."""
    try:
        text = read_bytes(path)
        value = parse_json(text)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and not was_changed(value, text) else None


def parse_json(text: bytes | str) -> Any:
    """Return what a text says as JSON; ValueError, and nothing else, where it is none, however deep it goes."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_bytes(path: Path | str) -> bytes:
    """Return a small file whole, with as little ado as possible: a listing reads thousands.

    OSError where it is no file, as a pipe that nobody writes to, or larger than any record: who reads it must neither wait nor starve.
    """
    handle = open_to_read(path)
    try:
        parts, size = [], 0
        while part := os.read(handle, 1 << 16):
            parts.append(part)
            size += len(part)
            if size > MAX_RECORD_BYTES:
                raise OSError(errno.EFBIG, f"larger than {MAX_RECORD_BYTES >> 20} MB, which no record is", str(path))
    finally:
        os.close(handle)
    return b"".join(parts)


def open_to_read(path: Path | str) -> int:
    """Return a descriptor of a file; OSError at once where something else has its name."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, os.strerror(code) if code == errno.EISDIR else "is not a file", str(path))
    return handle


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """Return a record with its digest: a bit that flips on a disk may leave another job, state or generation that looks as good."""
    return {**value, DIGEST: _digest(value)}


def was_changed(value: dict[str, Any], text: bytes) -> bool:
    """Return whether a sealed record is not as it was written.

    One that another program has written over has another layout, or no digest: that is somebody's own change, and its word is taken.
    """
    if DIGEST not in value or value[DIGEST] == _digest({key: value[key] for key in value if key != DIGEST}):
        return False
    laid_out = _blanks(text.rstrip())
    return text.endswith(b"\n") and laid_out in (_blanks(json.dumps(value, indent=1).encode()), _blanks(json.dumps(value).encode()))


def _blanks(text: bytes) -> list[bytes]:
    return re.findall(rb"\s+", text)


def _digest(value: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON object as a line, in one write. A partial last line left by a dead writer, or by a full disk, is ended first."""
    with _named(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "is not a file")
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            _write_all(handle, ("\n" * torn + json.dumps(value) + "\n").encode("utf-8"))
            os.fsync(handle)
        finally:
            os.close(handle)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return every whole JSON object of a line file; lines that a dying writer cut are left out."""
    return [value for _, value in numbered_lines(path) if value is not None]


def numbered_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield the number of each line that says something, and its JSON object; None where it is not one, or longer than any record."""
    try:
        with os.fdopen(open_to_read(path), "rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                whole = len(line) < MAX_LINE_BYTES or line.endswith(b"\n")
                while not whole and (rest := file.readline(MAX_LINE_BYTES)):
                    whole, line = rest.endswith(b"\n"), b"?"
                if line.strip():
                    yield number, _object(line)
    except OSError:
        return


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(line.decode("utf-8", errors="replace"))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
