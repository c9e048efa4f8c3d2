"""Owns what the head hears of the other nodes' agents while an attempt runs. Must not act on it.

Guards against a node that never started its task, or froze, while Slurm goes on saying RUNNING.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from ..files import read_json
from ..runs.directory import Run


class SilenceLimits(Protocol):
    @property
    def head_silence_s(self) -> float: ...
    @property
    def phase_s(self) -> float: ...


def beat_file(run: Run, attempt: int, node: int) -> Path:
    """Return where the agent of a node other than the first shows that it is there."""
    return run.attempts / f"{attempt:04d}.node-{node:04d}.beat"


def report_file(run: Run, attempt: int, node: int) -> Path:
    """Return where the agent of a node writes how its ranks ended."""
    return run.attempts / f"{attempt:04d}.node-{node:04d}.json"


class NodeHeartbeats:
    """`phase_s` for a node to appear (its container may have to be pulled), `head_silence_s` between signs of life."""

    def __init__(self, run: Run, hosts: tuple[str, ...], limits: SilenceLimits) -> None:
        self._run, self._limits = run, limits
        self._heard: dict[int, tuple[object, float]] = {node: (None, time.monotonic()) for node in range(1, len(hosts))}

    def lost(self, attempt: int, *, blind: bool = False) -> int | None:
        """Return a node that was not heard of for too long and has not reported its end either.

        `blind`: nobody can be heard now, as signs of life cannot be written. That time does not count.
        """
        now = time.monotonic()
        for node, (before, at) in self._heard.items():
            if blind:
                self._heard[node] = (before, now)
                continue
            beat = (read_json(beat_file(self._run, attempt, node)) or {}).get("time")
            if beat != before:
                self._heard[node] = (beat, now)
                continue
            limit = self._limits.phase_s if before is None else self._limits.head_silence_s
            if now - at > limit and not read_json(report_file(self._run, attempt, node)):
                return node
        return None
