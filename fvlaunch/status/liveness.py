"""Owns what can be said of the job that owns a run: whether it is still there.

Must not change anything. "Nobody can say" is an answer of its own, never "gone".
"""

from __future__ import annotations

from ..runs.directory import Record
from ..schedulers.base import Liveness
from ..schedulers.registry import scheduler
from .job_queries import job_of

__all__ = ["Liveness", "liveness", "other_job"]


def liveness(record: Record) -> Liveness:
    """Say whether the job that owns a run, or one that goes on for it, is still there."""
    return Liveness.OVER if record.job_id is None else scheduler(record.executor).liveness(job_of(record))


def other_job(record: Record) -> str | None:
    """Return a job of this submission besides the recorded one that is not over: nobody could record it, or it goes on for that one."""
    living = scheduler(record.executor).find(record.token, living=True)
    return next((job_id for job_id in living if job_id != record.job_id), None)
