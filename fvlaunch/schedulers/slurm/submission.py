"""Owns handing a job to Slurm: its script, its pickle, and sbatch itself. Must not ask afterwards what became of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from ...errors import SchedulerRefused, SchedulerUnreachable
from ...files import publish_text
from ..base import JobSpec, Submission
from ..stub_modules import without
from . import commands as slurm
from .batch_script import batch_script

SBATCH_WAIT_S = 60.0


def write_job(job: JobSpec) -> Path:
    """Write the batch script, and the pickle that it finds by its own id, and return the script."""
    with without("asyncio"):
        from submitit.core.utils import DelayedSubmission

    script = job.folder / "submission.sh"
    publish_text(script, batch_script(job))
    DelayedSubmission(job.function, job.argument).dump(job.folder / "submitted.pkl")
    (job.folder / "submitted.pkl").chmod(0o600)
    return script


def sbatch(script: Path) -> Submission:
    """Run sbatch in a session of its own: Ctrl-C must not cut it off half-way."""
    started = subprocess.Popen(
        ["sbatch", "--parsable", str(script)],
        env=slurm.environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    interrupted, deadline = False, time.monotonic() + SBATCH_WAIT_S
    while True:
        try:
            answer, said = started.communicate(timeout=max(deadline - time.monotonic(), 0.01))
            break
        except KeyboardInterrupt:
            interrupted = True
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)  # sites wrap sbatch: what a wrapper started would hold the pipes open
            started.communicate()
            raise SchedulerUnreachable(
                f"sbatch gave no answer in {SBATCH_WAIT_S:.0f} s", hint="fvlaunch status tells whether the job is there"
            ) from None
    job_id = answer.strip().partition(";")[0]
    if started.returncode != 0 or not job_id.isdigit():
        message = (said or answer).strip().removeprefix("sbatch: error: ")
        raise SchedulerRefused(f"sbatch refused the job: {message}", hint="fvlaunch submit … --dry-run shows the batch script")
    return Submission(job_id, interrupted)
