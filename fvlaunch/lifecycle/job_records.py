"""Owns handing a run's job to its scheduler and recording it: its folder, its id in run.json, and adopting a job that the scheduler
took without answering."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from ..errors import FvlaunchError, Interrupted
from ..runs.directory import Record, Run
from ..schedulers.base import JobSpec, Scheduler
from ..schedulers.registry import scheduler


def make_job_folder(run: Run) -> Path:
    """Make and return the job folder of the submission that run.json announces."""
    folder = run.job / run.record().token
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def submit_job(run: Run, chosen: Scheduler, job: JobSpec) -> None:
    """Submit the job and record its id; one that was taken although no answer came is adopted. Interrupted: it is there all the same."""
    record = run.record()
    if (host := chosen.host()) is not None:
        run.update(host=host)
    try:
        taken = chosen.submit(job)
        record_job(run, taken.job_id)
        job_id, interrupted = taken.job_id, taken.interrupted
    except (FvlaunchError, KeyboardInterrupt) as error:
        adopted = adopt(run, record) if chosen.has_queue else None
        if adopted is None:
            raise
        job_id, interrupted = adopted, isinstance(error, KeyboardInterrupt)
    if interrupted:
        raise Interrupted(f"interrupted, but {run.name} has been submitted: job {job_id}", hint=f"fvlaunch cancel {run.name}")


def adopt(run: Run, record: Record) -> str | None:
    """Return the job with this submission's token, recorded as the run's, if the scheduler knows one."""
    for wait_s in (0.0, 0.5, 1.5):
        time.sleep(wait_s)
        found = [job_id for job_id in scheduler(record.executor).find(record.token) if job_id not in record.job_ids]
        if found:
            record_job(run, found[0])
            run.event("adopted", job_id=found[0])
            return found[0]
    return None


def record_job(run: Run, job_id: str) -> None:
    with run.locked():
        record = run.record()
        job_ids = record.job_ids if job_id in record.job_ids else (*record.job_ids, job_id)
        state = "submitted" if record.state == "submitting" else record.state  # a fast job may have ended already
        run.write_record(replace(record, job_id=job_id, job_ids=job_ids, state=state))
