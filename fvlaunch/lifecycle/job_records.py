"""Owns handing a run's job to its scheduler and recording it: its folder, its id in run.json, and adopting a job that the scheduler
took without answering."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..errors import FvlaunchError, Interrupted, JobUnrecorded, SchedulerUnreachable
from ..runs.directory import Record, Run
from ..schedulers.base import JobSpec, Scheduler
from ..schedulers.registry import scheduler

UNANSWERED = "unanswered"
"""The event of a submission without an answer, with its token: a job of it may come late."""


def make_job_folder(run: Run) -> Path:
    """Make and return the job folder of the submission that run.json announces."""
    folder = run.job / run.record().token
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def submit_job(run: Run, chosen: Scheduler, job: JobSpec) -> None:
    """Submit the job and record its id; one that was taken although no answer came is adopted. Interrupted: it is there all the same.

    SchedulerUnreachable, or Interrupted where Ctrl-C left no answer: nobody knows, and run.json says so.
    """
    record = run.record()
    if (host := chosen.host()) is not None:
        run.update(host=host)
    try:
        taken = chosen.submit(job)
        job_id, interrupted = taken.job_id, taken.interrupted
    except (FvlaunchError, KeyboardInterrupt) as error:
        adopted = _taken_all_the_same(run, chosen, record, error)
        job_id, interrupted = adopted, isinstance(error, KeyboardInterrupt)
    record_job(run, job_id)
    if chosen.has_queue and run.intent().want != "run":  # said by somebody else while nobody knew the job yet
        with suppress(FvlaunchError):  # it ends by itself as it starts
            chosen.cancel(job_id)
    if interrupted:
        raise Interrupted(f"interrupted, but {run.name} has been submitted: job {job_id}", hint=f"fvlaunch cancel {run.name}")


def _taken_all_the_same(run: Run, chosen: Scheduler, record: Record, error: FvlaunchError | KeyboardInterrupt) -> str:
    """Return the job that is there although its submission brought no id; else raise what is known then."""
    silence: FvlaunchError | KeyboardInterrupt = error
    if chosen.has_queue:
        try:
            if (found := adopt(run, record)) is not None:
                return found
        except SchedulerUnreachable as unreachable:  # a refusal counts only where somebody says that there is no job
            silence = error if isinstance(error, SchedulerUnreachable | KeyboardInterrupt) else unreachable
        except KeyboardInterrupt as again:
            silence = again
    if isinstance(silence, KeyboardInterrupt) or (chosen.has_queue and isinstance(silence, SchedulerUnreachable)):
        _note_silence(run, chosen, record)
    if isinstance(silence, KeyboardInterrupt):
        raise Interrupted(f"interrupted; it is not known whether the job of {run.name} was taken", hint=what_next(run.name)) from None
    if not isinstance(silence, SchedulerUnreachable):
        raise silence
    message = f"{chosen.title} gave no answer when {run.name} was submitted ({silence.message}): its job may have been queued all the same"
    raise SchedulerUnreachable(message, hint="; ".join(filter(None, [what_next(run.name), silence.hint]))) from None


def what_next(name: str) -> str:
    """Return what to type after a submission of which nobody knows what became."""
    return f"nothing is submitted twice: fvlaunch status {name} tells, fvlaunch resume {name} takes up its job, or submits it"


def _note_silence(run: Run, chosen: Scheduler, record: Record) -> None:
    with suppress(OSError, FvlaunchError):
        run.event(UNANSWERED, token=record.token)
        with run.locked():
            now = run.record()
            if now.token == record.token and now.state == "submitting" and now.job_id is None:
                run.write_record(replace(now, reason=f"{chosen.title} gave no answer when it was submitted: its job may be there"))


def unanswered_tokens(run: Run) -> list[str]:
    """Return the tokens of submissions that were not answered."""
    return [str(event.get("token")) for event in run.events() if event.get("event") == UNANSWERED]


def adopt(run: Run, record: Record) -> str | None:
    """Return the job with this submission's token, recorded as the run's, if the scheduler knows one."""
    for wait_s in (0.0, 0.5, 1.5):
        time.sleep(wait_s)
        found = [job_id for job_id in scheduler(record.executor).find(record.token) if job_id not in record.job_ids]
        if found:
            adopt_job(run, found[0])
            return found[0]
    return None


def adopt_job(run: Run, job_id: str) -> None:
    """Record a job that was found by its token."""
    record_job(run, job_id)
    with suppress(OSError):
        run.event("adopted", job_id=job_id)


def record_job(run: Run, job_id: str) -> None:
    """Write a job's id into run.json. JobUnrecorded where that cannot be: the job is there, and is found by its token."""
    try:
        with run.locked():
            record = run.record()
            job_ids = record.job_ids if job_id in record.job_ids else (*record.job_ids, job_id)
            now = replace(record, job_id=job_id, job_ids=job_ids)
            if record.state == "submitting":  # a fast job may have ended already
                now = replace(now, state="submitted", reason="")
            run.write_record(now)
    except (OSError, FvlaunchError) as error:
        why = error.message if isinstance(error, FvlaunchError) else error.strerror
        message = f"{run.name} was submitted as job {job_id}, but {run.record_file} could not be written: {why}"
        raise JobUnrecorded(message, hint=f"make room there; fvlaunch status {run.name} finds the job by itself") from None
