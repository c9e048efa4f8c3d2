"""Owns asking what became of runs' jobs: each scheduler is asked once for all of its runs. Must not judge (run_status.py does)."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import SchedulerUnreachable
from ..runs.directory import FINAL_STATES, Record
from ..schedulers.base import JobObservation, JobRef
from ..schedulers.registry import scheduler


def job_of(record: Record) -> JobRef:
    """Return what a scheduler needs to know of a run's job to say something about it."""
    return JobRef(record.token, record.job_id, record.scheduler, record.host, record.submitted_at)


def ask(records: Sequence[Record]) -> tuple[list[JobObservation], SchedulerUnreachable | None]:
    """Return what is known of each run's job, and the error, if a scheduler could not be asked. A run that is over has no job."""
    open_by_name: dict[str, list[Record]] = {}
    for record in records:
        if record.state not in (*FINAL_STATES, "waiting"):
            open_by_name.setdefault(record.executor, []).append(record)
    seen: dict[str, JobObservation] = {}
    unreachable: SchedulerUnreachable | None = None
    for name, same in open_by_name.items():
        answers, error = scheduler(name).observe([job_of(record) for record in same])
        seen |= {record.token: answer for record, answer in zip(same, answers, strict=True)}
        unreachable = unreachable or error
    return [seen.get(record.token) or JobObservation(alive=False) for record in records], unreachable
