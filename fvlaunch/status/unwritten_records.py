"""Owns what is said of a run whose records cannot be written: on a full, read-only or stale disk it goes on all the same.

Must leave nothing in the run's folder. Where its agent says nothing, it is tried whether a file can be written there.
"""

from __future__ import annotations

import os
import time
from typing import Any

from ..files import in_words, why_not_writable
from ..runs.directory import FINAL_STATES, Record, Run
from ..schedulers.base import JobObservation
from ..schedulers.registry import scheduler

SILENT_S = 12.0
"""An agent shows every ten seconds that it is there, if it can; on the machine that one asks on, every second."""
SILENT_HERE_S = 3.0


def told(run: Run, record: Record, seen: JobObservation, beat: dict[str, Any], heard_s: float | None) -> str:
    """Return in words what keeps a run's records from being written; empty where nothing does, as far as can be seen.

    `beat`: what its agent last showed; `heard_s`: seconds since then, None where no attempt runs by its records.
    """
    if record.state in FINAL_STATES or record.job_id is None or seen.pending:
        return ""
    soon = SILENT_HERE_S if scheduler(record.executor).runs_here else SILENT_S
    if seen.alive and (heard_s or 0.0) < soon and beat.get("job_id") == record.job_id:
        return _by_its_agent(run, beat)
    if seen.alive is None or (seen.alive and heard_s is None):
        return ""
    error = why_not_writable(run.path) if os.geteuid() in (0, _owner(run)) else None
    if error is None:
        return ""
    return f"its records cannot be written ({in_words(error)}; df {run.path}), so more is not known"


def _by_its_agent(run: Run, beat: dict[str, Any]) -> str:
    if beat.get("waits_for"):
        return f"its next attempt waits for room: {beat['waits_for']} (df {run.path})"
    trouble = beat.get("unwritten")
    if not isinstance(trouble, dict):
        return ""
    since = max(0.0, time.time() - float(trouble.get("since", time.time())))
    return f"for {since / 60:.0f} minutes its records cannot all be written: {trouble.get('why')} (df {run.path}); it goes on"


def _owner(run: Run) -> int:
    try:
        return run.path.stat().st_uid
    except OSError:
        return -1
