"""Owns an agent's writing of records: what cannot be written now (a full disk, a quota, a read-only or stale mount) is kept, said once,
tried again, and written in order when it can be.

Must not raise for a record, nor know what one means. What has to be on disk before something relies on it does not go through here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import ROOM, append_line, in_words, overwrite_json
from . import own_output

MOST_LINES = 10_000
"""So many lines of a file are kept; of what is older only the number."""
RETRY_S = 2.0


class RecordWriter:
    """`folder`: the run's, for what is said. `on_recovery` gets {"since", "until", "why", "lost"} once all is written again."""

    def __init__(self, folder: Path, on_recovery: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        self._folder, self._on_recovery = folder, on_recovery
        self._lines: dict[Path, deque[dict[str, Any]]] = {}
        self._values: dict[Path, tuple[dict[str, Any], int]] = {}
        self._lost = self._caught_up = 0
        self._retry_at = 0.0
        self._since = 0.0
        self._error: OSError | None = None
        """The first that kept something from being written; None where all is on disk."""

    @property
    def trouble(self) -> dict[str, Any] | None:
        """Return since when, and why, something could not be written; None where all is on disk."""
        return {"since": self._since, "why": in_words(self._error)} if self._error is not None else None

    def append(self, path: Path, line: dict[str, Any]) -> None:
        """Add a line to a file, after those that wait for it."""
        waiting = self._lines.setdefault(path, deque())
        waiting.append(line)
        if len(waiting) > MOST_LINES:
            waiting.popleft()
            self._lost += 1
        if len(waiting) == 1:
            self._write_lines(path)
        else:
            self.catch_up()

    def put(self, path: Path, value: dict[str, Any], *, room: int = 0) -> bool:
        """Overwrite a file with an object, padded to `room` bytes; the newest counts. Return whether it is on disk."""
        self._values[path] = value, room
        written = self._write_value(path)
        self.catch_up()
        return written

    def fails(self, path: Path) -> bool:
        """Return whether the newest content of a file could not be written."""
        return path in self._values or bool(self._lines.get(path))

    def waiting(self, path: Path) -> list[dict[str, Any]]:
        """Return the lines of a file that could not be written yet."""
        return list(self._lines.get(path, ()))

    def settle(self) -> None:
        """Write all that waits; OSError where that still cannot be done."""
        self.catch_up(now=True)
        if self._error is not None:
            raise self._error

    def catch_up(self, *, now: bool = False) -> None:
        """Try again what waits; `now`: whenever that was last tried."""
        own_output.catch_up()
        if self._error is None or (time.monotonic() < self._retry_at and not now):
            return
        self._retry_at = time.monotonic() + RETRY_S
        for path in list(self._values):
            self._write_value(path)
        for path in list(self._lines):
            self._write_lines(path)
        if not self._values and not any(self._lines.values()):
            self._recovered()

    def _write_value(self, path: Path) -> bool:
        try:
            value, room = self._values[path]
            overwrite_json(path, value, room=max(room, ROOM))
        except OSError as error:
            self._failed(error)
            return False
        del self._values[path]
        return True

    def _write_lines(self, path: Path) -> None:
        waiting = self._lines[path]
        try:
            while waiting:
                append_line(path, waiting[0])
                waiting.popleft()
                self._caught_up += self._error is not None
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if self._error is not None:
            return
        self._since, self._error = time.time(), error
        self._retry_at = time.monotonic() + RETRY_S
        kept = "what of its records cannot be written is kept, and written once it can be"
        own_output.say(f"{in_words(error)}. The run goes on; {kept} (df {self._folder})")

    def _recovered(self) -> None:
        assert self._error is not None
        value = {"since": self._since, "until": time.time(), "why": in_words(self._error), "lost": self._lost}
        lost = f"; {self._lost} older ones are lost" if self._lost else ""
        own_output.say(f"records are written again after {time.time() - self._since:.0f} s; {self._caught_up} lines were caught up{lost}")
        self._error, self._lost, self._caught_up = None, 0, 0
        self._on_recovery(value)
