"""Owns handing a job to Slurm: its script, its pickle, and sbatch itself. Must not ask afterwards what became of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import SchedulerRefused, SchedulerUnreachable
from ...files import publish_text
from ..base import JobSpec, Submission
from ..stub_modules import without
from . import commands as slurm
from .batch_script import batch_script
from .parsing import complaint

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
    """Run sbatch in a session of its own and return the job. Ctrl-C does not cut it off half-way: it is noted, the answer waited for."""
    with _ctrl_c_noted() as noted:
        answer, said, code = _answer(["sbatch", "--parsable", str(script)])
    job_id = answer.strip().partition(";")[0]
    if code != 0 or not job_id.isdigit():
        message = complaint(said or answer)
        if re.search(slurm.NO_ANSWER, said):
            raise SchedulerUnreachable(f"sbatch: {message}", hint="fvlaunch status tells whether the job is there")
        raise SchedulerRefused(f"sbatch refused the job: {message}", hint="fvlaunch submit … --dry-run shows the batch script")
    return Submission(job_id, interrupted=bool(noted))


def _answer(command: list[str]) -> tuple[str, str, int]:
    """Return what a command says on stdout and stderr, and its exit code. SchedulerUnreachable where it takes too long."""
    started = subprocess.Popen(
        command,
        env=slurm.environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        answer, said = started.communicate(timeout=SBATCH_WAIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)  # sites wrap sbatch: what a wrapper started would hold the pipes open
        started.communicate()
        raise SchedulerUnreachable(
            f"sbatch gave no answer in {SBATCH_WAIT_S:.0f} s", hint="fvlaunch status tells whether the job is there"
        ) from None
    return answer, said, started.returncode


@contextmanager
def _ctrl_c_noted() -> Iterator[list[int]]:
    """Have Ctrl-C fill the list that is yielded: raised between sbatch's start and its answer, it would lose the job's id.

    Where Ctrl-C is ignored (nohup), or this is no main thread, everything stays as it is.
    """
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield noted
        return
    signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
