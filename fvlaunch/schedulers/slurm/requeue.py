"""Owns giving a job back to Slurm from inside of it, also where the controller is silent just then. Must not decide whether to.

A job outlives its controller, and nobody takes its nodes meanwhile: so it waits for an answer, and does not end for want of one.
"""

from __future__ import annotations

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
    """Requeue a job that still runs; say whether it waits to run again."""
    details = commands.job(job_id)
    if details is None or details.state != "RUNNING":
        return details is not None and is_waiting(details.state)
    return commands.requeue(job_id)
