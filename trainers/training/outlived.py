"""Owns what happens where a place that numbers are recorded in fails: nothing ends. It is told once, tried again later, and told when over.

Must not know what kind of place it is: each keeps by itself what it could not write, and writes it at the next attempt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

RETRY_S = 5.0
"""Seconds between two attempts at a place that has failed."""
TELL_AGAIN_S = 600.0
"""Seconds within which a place that fails, works and fails again is told once."""


class Sink(Protocol):
    """A place that a run's numbers go to."""

    @property
    def name(self) -> str: ...

    def record(self, values: dict[str, Any]) -> None:
        """Take a step's values, for the next `write`. Touches nothing that may fail."""

    def write(self) -> None:
        """Bring all that was taken to its place. Raises whatever is in the way, and may be called again."""

    def sync(self) -> None:
        """Do what `write` does, so that it survives a power cut."""

    def close(self) -> None:
        """Leave the place."""

    def lacking(self) -> list[int]:
        """Return the steps of what was taken and is not in its place."""

    def given_up(self) -> list[int]:
        """Return the first and the last step of what was more than could be kept; empty where nothing was."""


class Outlived:
    """A sink whose failures end nothing. For the thread of the steps, and one more that calls `sync`."""

    def __init__(self, sink: Sink, tell: Callable[[str], None], retry_s: float = RETRY_S) -> None:
        self._sink, self._tell, self._retry_s = sink, tell, retry_s
        self._lock = threading.Lock()
        self._problem, self._failing_from = "", 0
        self._retry_at, self._told_at, self._silent = 0.0, -TELL_AGAIN_S, False

    def attend(self) -> None:
        """Write what was taken. Where that failed before, only once it is time to try again."""
        if not self._problem:
            self._attempt(self._sink.write)
        elif time.monotonic() >= self._retry_at:
            self._attempt(self._sink.sync)  # what has failed works again only where the disk says so

    def sync(self) -> bool:
        """Write what was taken, so that it survives a power cut; return whether that worked."""
        return self._attempt(self._sink.sync)

    def close(self) -> None:
        """Write what was taken, tell what is missing for good, and leave the place."""
        self._attempt(self._sink.sync)
        if lacking := self._sink.lacking():
            self._tell(f"{self._sink.name} lacks {steps_in_words(sorted(lacking))}: {self._problem}")
        with suppress(Exception):
            self._sink.close()

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # a package of somebody else may raise anything
            with self._lock:
                self._failed(error)
            return False
        with self._lock:
            self._worked()
        return True

    def _failed(self, error: Exception) -> None:
        now = time.monotonic()
        self._retry_at = now + self._retry_s
        began, self._problem = not self._problem, reason(error)
        if not began:
            return
        self._failing_from = min(self._sink.lacking(), default=0)
        self._silent = now - self._told_at < TELL_AGAIN_S
        if not self._silent:
            self._told_at = now
            self._tell(f"{self._sink.name} cannot be written: {self._problem}. What it lacks is kept, and written once it can be")

    def _worked(self) -> None:
        if not self._problem:
            return
        self._problem = ""
        if not self._silent:
            since = f" from step {self._failing_from} on" if self._failing_from else ""
            lost = self._sink.given_up()
            but = f", but without {steps_in_words(lost)}, which were more than could be kept" if lost else ""
            self._tell(f"{self._sink.name} is written again, with what it lacked{since}{but}")


def reason(error: BaseException) -> str:
    """Return in a few words what is wrong."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def steps_in_words(steps: list[int]) -> str:
    """Return "step 3", or "steps 3 to 9"; `steps` are in order."""
    return f"step {steps[0]}" if steps[0] == steps[-1] else f"steps {steps[0]} to {steps[-1]}"
