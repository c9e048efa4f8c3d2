"""Owns asking Slurm what became of jobs: one squeue and at most one sacct for any number of them.

Must not judge what that means for a run. A job counts as a submission's only where its token stands in its comment or its working
directory: ids come back when a site resets its counter, and another cluster has a job of the same number.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from ...errors import FvlaunchError, SchedulerUnreachable
from ..base import JobObservation, JobPhase, JobRef, Liveness
from . import commands as slurm
from . import waiting_reasons
from .states import has_ended, is_over, is_waiting

PATIENCE_S = 3.0
"""For all that is asked of the scheduler for one status: without an answer, the last known is told within 5 s."""
MANY = 5000
"""So many ids make no command line any more: then the accounts are asked for all of this person's jobs since the oldest of the runs."""
_TOKEN = re.compile(r"fvlaunch:([0-9a-f]{16})")


class _Job(Protocol):
    @property
    def comment(self) -> str: ...
    @property
    def work_dir(self) -> str: ...


def belongs(job: _Job, token: str) -> bool:
    """Return whether a job is that of a submission. Accounts hold neither text at first, and the comment only where the site wants it."""
    texts = job.comment + job.work_dir
    return not texts or token in texts


def observe(jobs: Sequence[JobRef]) -> tuple[list[JobObservation], SchedulerUnreachable | None]:
    """Return what is known of each job; the error, if Slurm could not be asked."""
    if not jobs:
        return [], None
    deadline = time.monotonic() + PATIENCE_S
    try:
        queue = slurm.queue(timeout_s=PATIENCE_S)
    except SchedulerUnreachable as error:
        return [JobObservation(None, words="the scheduler cannot be reached") for _ in jobs], error
    by_token = _by_token(queue)
    listed = {job.token: _listed(job, queue, by_token) for job in jobs}
    missing = [job for job in jobs if job.job_id is not None and listed[job.token] is None]
    found, unreachable = _missing(missing, deadline)
    return [listed.get(job.token) or found.get(job.token) or JobObservation(alive=False) for job in jobs], unreachable


def _by_token(queue: Mapping[str, slurm.QueuedJob]) -> dict[str, slurm.QueuedJob]:
    """Return the job of each submission; of several, where one handed over to the next, one that is not over."""
    found: dict[str, slurm.QueuedJob] = {}
    for job in queue.values():
        token = _token(job)
        if token and (token not in found or has_ended(found[token].state, found[token].end_at)):
            found[token] = job
    return found


def _token(job: slurm.QueuedJob) -> str:
    named = _TOKEN.search(job.comment)
    return named[1] if named else job.work_dir.rpartition("/")[2]


def _listed(ref: JobRef, queue: Mapping[str, slurm.QueuedJob], by_token: Mapping[str, slurm.QueuedJob]) -> JobObservation | None:
    """squeue's word; None where it does not list the job."""
    own, other = queue.get(ref.job_id or ""), by_token.get(ref.token)
    is_own = own is not None and belongs(own, ref.token) and not has_ended(own.state, own.end_at)
    job = own if is_own else other or own
    if job is None or not belongs(job, ref.token):
        return None
    words = slurm.explain(job.state, job.reason, job.exit_code, job.job_id, job.priority)
    if has_ended(job.state, job.end_at):
        return JobObservation(alive=False, ended=job.state, words=words, job_id=job.job_id)
    waits = is_waiting(job.state)
    blocked = waiting_reasons.blocked(job.reason, job.state, job.priority, job.partition) if waits else None
    return JobObservation(True, waits, job.restarts > 0, words + _until(job), job_id=job.job_id, blocked=blocked)


def _until(job: slurm.QueuedJob) -> str:
    """Return when a job that waits for its begin time may start."""
    if job.state != "PENDING" or job.reason != "BeginTime" or job.start_at is None:
        return ""
    day = "" if job.start_at - time.time() < 12 * 3600 else "%Y-%m-%d "
    return time.strftime(f" (until {day}%H:%M:%S)", time.localtime(job.start_at))


def _missing(jobs: Sequence[JobRef], deadline: float) -> tuple[dict[str, JobObservation], SchedulerUnreachable | None]:
    """Return, by token, what is known of jobs that squeue does not list (any more): the accounts' word, where there are accounts."""
    found, mine = _elsewhere(jobs)
    if not mine:
        return found, None
    ids = [job.job_id for job in mine if job.job_id is not None]
    since = int(min(job.submitted_at for job in mine)) - 86400 if len(ids) > MANY else None
    try:
        lives = slurm.accounted(ids, timeout_s=max(0.5, deadline - time.monotonic()), since=since) or {}
    except SchedulerUnreachable as error:
        silent = JobObservation(None, words="its job has left the queue, and the accounts give no answer")
        return {**found, **{job.token: silent for job in mine}}, error
    return {**found, **{job.token: _accounted(job, lives.get(job.job_id or "", [])) for job in mine}}, None


def _elsewhere(jobs: Sequence[JobRef]) -> tuple[dict[str, JobObservation], list[JobRef]]:
    """Return those that were given to another Slurm than the one that answers here, and the others."""
    if not any(job.identity for job in jobs):
        return {}, list(jobs)
    try:
        here = slurm.cluster_name(timeout_s=1.0)
    except FvlaunchError:
        here = None
    away = {
        job.token: JobObservation(None, words=f"its job is on the Slurm cluster {job.identity}; ask there")
        for job in jobs
        if job.identity is not None and here is not None and job.identity != here
    }
    return away, [job for job in jobs if job.token not in away]


def _accounted(job: JobRef, lives: Sequence[slurm.AccountedJob]) -> JobObservation:
    own = [life for life in lives if belongs(life, job.token)]
    if not own or not (is_over(own[-1].state) or own[-1].state == "PREEMPTED"):
        return JobObservation(alive=False, absent=True)  # the accounts are late, or hold a job for running that slurmctld has lost
    last = own[-1]
    return JobObservation(alive=False, ended=last.state, words=slurm.explain(last.state, "", last.exit_code, last.job_id))


def liveness(job: JobRef) -> Liveness:
    """Return whether a job, or one that goes on for it, is still there."""
    if job.job_id is None:
        return Liveness.OVER
    try:
        if any(other != job.job_id for other in living(job.token)):
            return Liveness.ALIVE
        details = slurm.job(job.job_id)
        known = details is not None and job.token in details.comment + details.work_dir  # ids come back; other clusters have the same
        elsewhere = not known and job.identity is not None and slurm.cluster_name() != job.identity
    except SchedulerUnreachable:
        raise
    except FvlaunchError:
        return Liveness.UNKNOWN
    if elsewhere:
        return Liveness.UNKNOWN
    if details is None or not known:
        return Liveness.OVER  # slurmctld answers and has forgotten it: it forgets none that has not ended
    return Liveness.OVER if has_ended(details.state, details.end_at) else Liveness.ALIVE


def living(token: str) -> list[str]:
    """Jobs of a submission that are not over: one that nobody could record, or that goes on for the recorded one, is among them."""
    mine = (job for job in slurm.queue().values() if token in job.comment + job.work_dir)
    return [job.job_id for job in mine if not has_ended(job.state, job.end_at)]


def phase(job: JobRef) -> JobPhase:
    """Return where a job is on its way."""
    details = slurm.job(job.job_id) if job.job_id is not None else None
    if details is None or has_ended(details.state, details.end_at):
        return JobPhase.OVER
    return JobPhase.WAITING if is_waiting(details.state) else JobPhase.STARTED
