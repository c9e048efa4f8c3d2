"""Owns judging from progress messages whether the ranks still work, with a limit that adapts to how long a step takes.

Pure: messages and times go in. Guards against ranks that are dead while the job still says RUNNING.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol


class HangLimits(Protocol):
    @property
    def hang_floor_s(self) -> float: ...
    @property
    def hang_factor(self) -> float: ...
    @property
    def phase_s(self) -> float: ...


@dataclass
class Beat:
    """The last that one rank said."""

    phase: str
    count: int
    at: float
    details: dict[str, Any] = field(default_factory=dict)


class Pulse:
    """Times are of a monotonic clock; a clock set forward by an hour must not look like a hang."""

    def __init__(self, ranks: list[int], limits: HangLimits, now: float) -> None:
        self._limits = limits
        self._beats = {rank: Beat("starting", 0, now) for rank in ranks}
        self._step_s: deque[float] = deque(maxlen=50)

    def note(self, message: dict[str, Any], now: float) -> None:
        """Take a progress message in; what is not one is ignored."""
        rank, phase, count = message.get("rank"), message.get("phase"), message.get("count")
        if message.get("kind") != "progress" or rank not in self._beats or not isinstance(count, int):
            return
        before = self._beats[rank]
        if phase == before.phase and count == before.count:
            return  # alive is not enough: a rank must get somewhere
        if phase == before.phase == "stepping" and count > before.count:
            self._step_s.append((now - before.at) / (count - before.count))
        details = {k: v for k, v in message.items() if k not in ("kind", "rank", "phase", "count", "time")}
        self._beats[rank] = Beat(str(phase), count, now, details)

    def limit_s(self, phase: str) -> float:
        """Return how long a rank may be silent in a phase. Steps: a multiple of the median step, once enough were seen."""
        if phase == "stepping" and len(self._step_s) >= 3:
            return max(self._limits.hang_floor_s, self._limits.hang_factor * statistics.median(self._step_s))
        return self._limits.phase_s

    def hung(self, alive: list[int], now: float) -> int | None:
        """Return the rank that holds the others up, if all that are alive have been silent too long; None while any gets on.

        Ranks wait for each other, so all fall silent soon after one does: the culprit is the one least far on.
        """
        silent = [r for r in alive if now - self._beats[r].at > self.limit_s(self._beats[r].phase)]
        if not silent:
            return None
        return min(silent, key=lambda r: (self._beats[r].count, self._beats[r].at))

    def beat(self, rank: int) -> Beat:
        return self._beats[rank]

    def summary(self, now: float) -> dict[str, Any]:
        """Return what status shows: the phase and step of the rank least far on."""
        rank, beat = min(self._beats.items(), key=lambda item: (item[1].count, item[1].at))
        step_s = round(statistics.median(self._step_s), 4) if self._step_s else None
        summary = {"phase": beat.phase, "count": beat.count, "rank": rank, "silent_s": round(now - beat.at, 1), "median_step_s": step_s}
        return {**beat.details, **summary}
