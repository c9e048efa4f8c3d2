"""Owns giving a job back to Slurm from inside of it, also where the controller is silent just then. Must not decide whether to.

A job outlives its controller, and nobody takes its nodes meanwhile: so it waits for an answer, and does not end for want of one.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from ...errors import SchedulerUnreachable
from . import commands
from .states import is_waiting

PATIENCE_S = 3600.0
_PAUSE_S = 5.0


def requeue(job_id: str, patience_s: float = PATIENCE_S) -> bool:
    """Have the job run again; False where Slurm does not know it, or it is being ended. SchedulerUnreachable after an hour of silence.

    After a silence its state is asked first: a request may have been heard all the same, and a job that was cancelled meanwhile must not
    be revived.
    """
    until = time.monotonic() + patience_s
    try:
        return commands.requeue(job_id)
    except SchedulerUnreachable as error:
        silence = error
        sys.stderr.write(f"agent: {error.message}: the job is not requeued yet, which is tried again\n")
        sys.stderr.flush()
    while time.monotonic() < until:
        time.sleep(_PAUSE_S)
        with suppress(SchedulerUnreachable):
            return after_silence(job_id)
    raise silence


def after_silence(job_id: str) -> bool:
    """Requeue a job that still runs its present life; say whether it runs again."""
    details = commands.job(job_id)
    if details is None:
        return False
    if details.restarts > _lives_before():  # the request was heard; while its processes end it is COMPLETING
        return details.state != "CANCELLED"
    if details.state != "RUNNING":
        return is_waiting(details.state)
    return commands.requeue(job_id)


def _lives_before() -> int:
    """Return how often this job has been restarted; Slurm tells its processes from the second life on."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)
