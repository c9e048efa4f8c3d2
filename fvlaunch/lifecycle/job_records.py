"""Owns recording a run's job: its folder, its id in run.json, and adopting a job that the scheduler took without answering."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from ..runs.directory import Record, Run
from ..schedulers.slurm import commands as slurm


def make_job_folder(run: Run) -> Path:
    """Of the submission that run.json announces."""
    folder = run.job / run.record().token
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def adopt(run: Run, record: Record) -> str | None:
    """The job with this submission's token, recorded as the run's, if the scheduler knows one."""
    for wait_s in (0.0, 0.5, 1.5):
        time.sleep(wait_s)
        found = [job_id for job_id in slurm.find_by_token(record.token) if job_id not in record.job_ids]
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
