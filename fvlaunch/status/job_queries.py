"""Owns asking what became of runs' jobs: one squeue and at most one sacct for any number of runs, the process table for local ones.

Must not judge (status.py does). A job counts as a run's only where the run's token stands in its comment or its working directory:
ids come back when a site resets its counter, and another cluster has a job of the same number.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import FvlaunchError, SchedulerUnreachable
from ..runs.directory import FINAL_STATES, Record
from ..schedulers.slurm import commands as slurm
from ..schedulers.slurm import states as slurm_states
from . import liveness

PATIENCE_S = 3.0
"""For all that is asked of the scheduler for one status: without an answer, the last known is told within 5 s."""
MANY = 5000
"""So many ids make no command line any more: then the accounts are asked for all of this person's jobs since the oldest of the runs."""
_TOKEN = re.compile(r"fvlaunch:([0-9a-f]{16})")


@dataclass(frozen=True)
class JobObservation:
    """What the scheduler, or the process table, says of a run's job."""

    alive: bool | None
    """None: nobody can say."""
    pending: bool = False
    again: bool = False
    """It ran before: Slurm counts its restarts."""
    words: str = ""
    """Its state and reason, explained."""
    ended: str = ""
    """The scheduler's word for an end: COMPLETED, CANCELLED, TIMEOUT…"""
    job_id: str | None = None
    """Of a job found by its token, where the record has none yet, or one that has handed over to it."""
    absent: bool = False
    """The scheduler answers and does not know it, nor do the accounts."""


class _Job(Protocol):
    @property
    def comment(self) -> str: ...
    @property
    def work_dir(self) -> str: ...


def belongs(job: _Job, token: str) -> bool:
    """Whether a job is that of a submission. Accounts hold neither text at first, and the comment only where the site wants it."""
    texts = job.comment + job.work_dir
    return not texts or token in texts


def ask(records: Sequence[Record]) -> tuple[list[JobObservation], SchedulerUnreachable | None]:
    """What is known of each run's job; the error, if the scheduler could not be asked."""
    deadline = time.monotonic() + PATIENCE_S
    open_ = [r for r in records if r.executor == "slurm" and r.state not in (*FINAL_STATES, "waiting")]
    try:
        queue = slurm.queue(timeout_s=PATIENCE_S) if open_ else {}
    except SchedulerUnreachable as error:
        silent = {r.token: JobObservation(None, words="the scheduler cannot be reached") for r in open_}
        return [silent.get(r.token) or _unscheduled(r) for r in records], error
    by_token = _by_token(queue)
    listed = {r.token: _listed(r, queue, by_token) for r in open_}
    missing = [r for r in open_ if r.job_id is not None and listed[r.token] is None]
    found, unreachable = _missing(missing, deadline)
    return [listed.get(r.token) or found.get(r.token) or _unscheduled(r) for r in records], unreachable


def _by_token(queue: Mapping[str, slurm.QueuedJob]) -> dict[str, slurm.QueuedJob]:
    """The job of each submission; of several, where one handed over to the next, one that is not over."""
    found: dict[str, slurm.QueuedJob] = {}
    for job in queue.values():
        token = _token(job)
        if token and (token not in found or _is_over(found[token])):
            found[token] = job
    return found


def _token(job: slurm.QueuedJob) -> str:
    named = _TOKEN.search(job.comment)
    return named[1] if named else job.work_dir.rpartition("/")[2]


def _unscheduled(record: Record) -> JobObservation:
    """A run without a job at a scheduler: over, not submitted yet, or local."""
    if record.state in FINAL_STATES or record.job_id is None or record.executor != "local":
        return JobObservation(alive=False)
    answer = liveness.liveness(record)
    here = "" if answer is not liveness.Liveness.UNKNOWN else f"it runs on {(record.host or '').split('/')[0]}; ask there"
    return JobObservation(
        alive={liveness.Liveness.ALIVE: True, liveness.Liveness.OVER: False, liveness.Liveness.UNKNOWN: None}[answer], words=here
    )


def _listed(record: Record, queue: Mapping[str, slurm.QueuedJob], by_token: Mapping[str, slurm.QueuedJob]) -> JobObservation | None:
    """squeue's word; None where it does not list the job."""
    own, other = queue.get(record.job_id or ""), by_token.get(record.token)
    job = own if own is not None and belongs(own, record.token) and not _is_over(own) else other or own
    if job is None or not belongs(job, record.token):
        return None
    words = slurm.explain(job.state, job.reason, job.exit_code, job.job_id)
    if _is_over(job):
        return JobObservation(alive=False, ended=job.state, words=words, job_id=job.job_id)
    return JobObservation(alive=True, pending=job.state == "PENDING", again=job.restarts > 0, words=words + _until(job), job_id=job.job_id)


def _is_over(job: slurm.QueuedJob) -> bool:
    """PREEMPTED is final only where a site cancels what it preempts: a job that is requeued is in that state for a moment at most."""
    if job.state == "PREEMPTED":
        return job.end_at is not None and job.end_at < time.time() - 10
    return slurm_states.is_over(job.state)


def _until(job: slurm.QueuedJob) -> str:
    """When a job that waits for its begin time may start."""
    if job.state != "PENDING" or job.reason != "BeginTime" or job.start_at is None:
        return ""
    day = "" if job.start_at - time.time() < 12 * 3600 else "%Y-%m-%d "
    return time.strftime(f" (until {day}%H:%M:%S)", time.localtime(job.start_at))


def _missing(records: Sequence[Record], deadline: float) -> tuple[dict[str, JobObservation], SchedulerUnreachable | None]:
    """Of jobs that squeue does not list (any more), by token: the accounts' word, where there are accounts."""
    found, mine = _elsewhere(records)
    if not mine:
        return found, None
    ids = [record.job_id for record in mine if record.job_id is not None]
    since = int(min(record.submitted_at for record in mine)) - 86400 if len(ids) > MANY else None
    try:
        lives = slurm.accounted(ids, timeout_s=max(0.5, deadline - time.monotonic()), since=since) or {}
    except SchedulerUnreachable as error:
        silent = JobObservation(None, words="its job has left the queue, and the accounts give no answer")
        return {**found, **{record.token: silent for record in mine}}, error
    return {**found, **{record.token: _accounted(record, lives.get(record.job_id or "", [])) for record in mine}}, None


def _elsewhere(records: Sequence[Record]) -> tuple[dict[str, JobObservation], list[Record]]:
    """Those whose job was given to another Slurm than the one that answers here, and the others."""
    if not any(record.scheduler for record in records):
        return {}, list(records)
    try:
        here = slurm.cluster_name(timeout_s=1.0)
    except FvlaunchError:
        here = None
    away = {
        r.token: JobObservation(None, words=f"its job is on the Slurm cluster {r.scheduler}; ask there")
        for r in records
        if _is_away(r, here)
    }
    return away, [record for record in records if record.token not in away]


def _is_away(record: Record, here: str | None) -> bool:
    return record.scheduler is not None and here is not None and record.scheduler != here


def _accounted(record: Record, lives: Sequence[slurm.AccountedJob]) -> JobObservation:
    own = [life for life in lives if belongs(life, record.token)]
    if not own or not (slurm_states.is_over(own[-1].state) or own[-1].state == "PREEMPTED"):
        return JobObservation(alive=False, absent=True)  # the accounts are late, or hold a job for running that slurmctld has lost
    last = own[-1]
    return JobObservation(alive=False, ended=last.state, words=slurm.explain(last.state, "", last.exit_code, last.job_id))
