"""Owns what attempts cost and brought: steps kept, GPU-hours, and which part of them was spent on steps that count. Must only read.

metrics.jsonl holds the steps that count: a resume cuts off what came after the checkpoint that it starts from. Before there is a resume,
what came after the newest checkpoint is as lost, and does not count here.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import open_to_read, read_lines
from ..runs.attempts import Attempt, Cause
from ..runs.directory import Run
from ..runs.events import whole_metrics


@dataclass(frozen=True)
class AttemptCost:
    seconds: float
    """From the attempt's start to its end, or to its last sign of life."""
    gpu_hours: float
    """Ranks x hours; of a run without GPUs the ranks' hours."""
    steps_kept: int | None
    """Steps of this attempt that the run still has; None where steps are not counted."""
    useful: float | None
    """The part of the time in which those steps were made, 0 to 1; None where steps are not counted."""

    def dump(self) -> dict[str, float | int | None]:
        return {
            "seconds": round(self.seconds, 1),
            "gpu_hours": round(self.gpu_hours, 4),
            "steps_kept": self.steps_kept,
            "useful": None if self.useful is None else round(self.useful, 4),
        }


def spent(run: Run, attempts: Sequence[Attempt]) -> list[AttemptCost]:
    """Return what each attempt cost and brought, in order."""
    kept = _kept(run.metrics_file, _saved(run, attempts))
    return [_one(a, _end(run, a, following), kept) for a, following in zip(attempts, [*attempts, None][1:], strict=True)]


def _one(attempt: Attempt, end: float, kept: Mapping[int, tuple[int, float]] | None) -> AttemptCost:
    seconds = max(0.0, end - attempt.started_at)
    hours = attempt.ranks * seconds / 3600
    if kept is None:
        return AttemptCost(seconds, hours, None, None)
    steps, step_s = kept.get(attempt.number, (0, 0.0))
    return AttemptCost(seconds, hours, steps, min(1.0, step_s / seconds) if seconds else 0.0)


def _saved(run: Run, attempts: Sequence[Attempt]) -> float:
    """Return the last step that counts: of a run that trains, or has come to its end, all do; of another those in its newest checkpoint."""
    if not attempts or attempts[-1].cause in (Cause.RUNNING, Cause.FINISHED):
        return math.inf
    return run.last_checkpoint_step() or 0


def _kept(path: Path, until: float) -> dict[int, tuple[int, float]] | None:
    """Return attempt -> (steps up to `until`, seconds spent in them); None where no metrics were ever written."""
    found: dict[int, tuple[int, float]] = {}
    try:
        os.close(open_to_read(path))
    except OSError:
        return None
    for line in whole_metrics(read_lines(path)):
        if "attempt" in line and line["step"] <= until:
            steps, seconds = found.get(line["attempt"], (0, 0.0))
            found[line["attempt"]] = steps + 1, seconds + float(line.get("step_s") or 0)
    return found


def _end(run: Run, attempt: Attempt, following: Attempt | None) -> float:
    """Return when an attempt ended. One that was cut off without a word ended, as far as anybody can say, when it last wrote something."""
    if attempt.ended_at is not None:
        return attempt.ended_at
    if attempt.cause is Cause.RUNNING:
        return time.time()
    signs = [attempt.started_at, *(_changed(path) for path in (run.attempt_log(attempt.number), run.rank_log(attempt.number, 0)))]
    return max(signs) if following is None else min(max(signs), following.started_at)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def total(parts: Sequence[AttemptCost]) -> AttemptCost:
    """Return what all attempts of a run together cost and brought."""
    hours = sum(part.gpu_hours for part in parts)
    known = [part for part in parts if part.useful is not None]
    useful = sum(part.gpu_hours * (part.useful or 0) for part in known) / hours if known and hours else None
    steps = sum(part.steps_kept or 0 for part in known) if known else None
    return AttemptCost(sum(part.seconds for part in parts), hours, steps, useful)
