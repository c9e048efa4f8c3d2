"""Owns metrics.jsonl: one JSON object a step, in order, and what a checkpoint carries of it where the disk does not take it.

Numbers are in full precision, null where not finite. Steps that are lost for good are named by a line of their own in their place,
{"step": LAST, "missing": [FIRST, LAST]}. An attempt that is no longer the current one writes nothing.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import fsync_path
from .appended_file import BOUND_BYTES, AppendedFile, write_all

CARRIED = "unwritten-metrics.jsonl"
"""The file in a checkpoint that holds the lines up to its step that metrics.jsonl lacked when it was published."""


class MetricsFile:
    """The file. `record`, `amend` and `carried` touch no disk; `write` and `sync` raise OSError and may be called again.

    Its first `write` drops all steps after `last_step`, and a last line that was cut off.
    carried: what the checkpoint of `last_step` carries: lines that the file may lack.
    is_current: whether no later attempt has taken over, whose file this would be.
    """

    name = "metrics.jsonl"

    def __init__(
        self, path: Path, last_step: int, carried: bytes = b"", is_current: Callable[[], bool] = lambda: True, *, bound: int = BOUND_BYTES
    ) -> None:
        self._path, self._is_current = path, is_current
        self._amended = {step: line for step, line in _lines(carried).items() if step <= last_step}  # what the file may hold otherwise
        self._lock = threading.Lock()
        self._file = AppendedFile(self._make, _gap, last_step=last_step, bound=bound)
        self._newest: dict[str, Any] = {}

    def record(self, values: dict[str, Any]) -> None:
        """Take a step's values."""
        self._newest = values
        self._file.put(values["step"], _line(values))

    def amend(self, step: int, values: dict[str, Any]) -> bool:
        """Add values to a step's line, if it is the newest; return whether it is."""
        if self._newest.get("step") != step:
            return False
        self._newest = {**self._newest, **values}
        with self._lock:
            self._amended[step] = _line(self._newest)
        return True

    def write(self) -> None:
        self._file.stale |= bool(self._amended)
        self._file.write()

    def sync(self) -> None:
        """Make all lines survive a power cut. May be called from any thread."""
        self._file.stale |= bool(self._amended)
        self._file.sync()

    def close(self) -> None:
        self._file.close()

    def given_up(self) -> list[int]:
        """Return the first and the last step whose lines are lost, if any; the file names them."""
        return self._file.given_up

    def lacking(self) -> list[int]:
        """Return the steps whose lines are not on the disk for certain."""
        return sorted({*self._amended, *(step for step, _ in self._file.kept())})

    def carried(self, last_step: int) -> bytes:
        """Return the lines up to a step that are not on the disk for certain."""
        lines = {**_lines(b"".join(record for _, record in self._file.kept())), **self._amended}
        return b"".join(lines[step] for step in sorted(lines) if step <= last_step)

    def _make(self, records: Iterable[bytes], former: int | None) -> tuple[Path, int]:
        """Put a file in the place of the present one: its lines of the steps that count, what is amended, and `records`."""
        if not self._is_current():
            raise OSError(errno.ESTALE, "a later attempt has taken over")
        durable, amended = self._file.durable_step, dict(self._amended)
        stored = {**({} if former is None else _lines(_content(former))), **_lines(_content(self._path))}
        lines = {step: line for step, line in stored.items() if step <= durable}
        lines |= {**_lines(b"".join(records)), **amended}
        if lines and not self._newest:
            self._newest = json.loads(lines[max(lines)])
        handle = self._replaced(b"".join(_without_holes(lines, durable)))
        with self._lock:
            self._amended = {step: line for step, line in self._amended.items() if amended.get(step) != line}
        return self._path, handle

    def _replaced(self, content: bytes) -> int:
        """Write the file anew and return it, open to append to; an older attempt that has the old one open still writes to nothing."""
        for leftover in self._path.parent.glob(f".{self._path.name}.*"):
            with suppress(OSError):
                leftover.unlink()
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            write_all(handle, content)
            os.fsync(handle)
            temporary.replace(self._path)
            fsync_path(self._path.parent)
        except BaseException:
            os.close(handle)
            with suppress(OSError):
                temporary.unlink()
            raise
        return handle


def _without_holes(lines: dict[int, bytes], last_step: int) -> Iterator[bytes]:
    """Yield the lines in order, and one for each hole between them and before `last_step`."""
    before = 0
    for step in sorted(lines):
        if step > before + 1:
            yield _gap(before + 1, step - 1)
        yield lines[step]
        before = step
    if last_step > before:
        yield _gap(before + 1, last_step)


def _gap(first: int, last: int) -> bytes:
    return json.dumps({"step": last, "missing": [first, last]}).encode() + b"\n"


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps({k: v if _writable(v) else None for k, v in values.items()}, allow_nan=False).encode() + b"\n"


def _writable(value: Any) -> bool:
    """Return whether JSON can hold the value: it knows no NaN and no infinity."""
    return not isinstance(value, float) or math.isfinite(value)


def _lines(content: bytes) -> dict[int, bytes]:
    """Return the steps' lines, by step; where a step stands twice, the later one. Gaps are none, nor is a line that was cut off."""
    lines: dict[int, bytes] = {}
    for line in content.split(b"\n"):
        try:
            value = json.loads(line)
            step = value["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(step, int) and step > 0 and "missing" not in value:
            lines[step] = line + b"\n"
    return lines


def _content(file: Path | int) -> bytes:
    """Return what a file holds, by its path or descriptor; nothing where the path leads nowhere, or to a device, which has no end."""
    if isinstance(file, int):
        return os.pread(file, os.fstat(file).st_size, 0)
    try:
        return file.read_bytes() if stat.S_ISREG(file.stat().st_mode) else b""
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return b""
        raise
