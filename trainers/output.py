"""Owns what this process prints: a log that cannot be written ends nothing. Must not know what is printed.

Python raises the operating system's error in whatever prints, be it a progress bar of a package, and again when it exits. Here the newest
output is kept and printed with the next that can be, and what is lost is named in its place.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from typing import Any

_KEPT_BYTES = 64 << 10


def outlive_full_disk() -> None:
    """Have the process' own standard output and error survive a log that cannot be written. What replaces them already is left as it is."""
    if sys.stdout is not None and sys.stdout is sys.__stdout__:
        sys.stdout = _stream(sys.stdout)
    if sys.stderr is not None and sys.stderr is sys.__stderr__:
        sys.stderr = _stream(sys.stderr)


def _stream(former: Any) -> io.TextIOWrapper:
    former_handle = former.fileno()
    return io.TextIOWrapper(
        _Outlived(former_handle),  # type: ignore[arg-type]  # unbuffered, as with python -u
        encoding=former.encoding,
        errors="backslashreplace",
        line_buffering=True,
        write_through=True,
    )


class _Outlived(io.RawIOBase):
    """Writes to an open file, whose failures it keeps to itself."""

    def __init__(self, handle: int) -> None:
        self._handle, self._kept, self._lost = handle, bytearray(), 0
        self._lock = threading.RLock()  # a signal's handler may print while it is held

    def fileno(self) -> int:
        return self._handle

    def isatty(self) -> bool:
        return os.isatty(self._handle)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Take all of the data. OSError is never raised."""
        with self._lock:
            self._kept += data
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Write what is kept, or as much of it as the disk takes."""
        with self._lock:
            try:
                self._write_out()
            except OSError:
                too_many = max(0, len(self._kept) - _KEPT_BYTES)
                del self._kept[:too_many]
                self._lost += too_many

    def _write_out(self) -> None:
        if self._lost:
            os.write(self._handle, f"\n[{self._lost} bytes of output are missing here: the log could not be written]\n".encode())
            self._lost = 0
        while self._kept:
            del self._kept[: os.write(self._handle, self._kept)]
