"""Owns handing a job to Slurm: its script, its pickle, and sbatch itself. Must not ask afterwards what became of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from ...errors import SchedulerRefused, SchedulerUnreachable
from ...files import publish_text
from .. import patience
from ..base import JobSpec, Submission
from ..stub_modules import without
from . import commands as slurm
from . import site
from .batch_script import batch_script
from .parsing import complaint

SBATCH_WAIT_S = 30.0
"""For sbatch's answer; longer where the site's own MessageTimeout is."""
LONGEST_WAIT_S = 120.0


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
    """Run sbatch in a session of its own and return the job. Ctrl-C does not cut it off half-way: it is noted, the answer waited for.

    KeyboardInterrupt at the second: then nobody knows whether the job was taken.
    """
    with _ctrl_c_noted() as noted:
        answer, said, code = _answer(["sbatch", "--parsable", str(script)])
    job_id = answer.strip().partition(";")[0]
    if code == 0 and job_id.isdigit():
        return Submission(job_id, interrupted=bool(noted))
    message = complaint(said or answer)
    if code <= 0 or code > 128 or not message or re.search(slurm.NO_ANSWER, said):  # a refusal comes with words, and not by a signal
        ended = f"sbatch ended with {code}" + (f": {message}" if message else " and without a word")
        raise SchedulerUnreachable(ended, hint=slurm.hint_of_silence(said))
    raise SchedulerRefused(f"sbatch refused the job: {message}", hint="fvlaunch submit … --dry-run shows the batch script")


def wait_s() -> float:
    """Return how long sbatch's answer is waited for: a site whose controller may take longer says so by its MessageTimeout."""
    known = site.identity_if_known()
    longer = (known.message_timeout_s or 0.0) + 5 if known is not None else 0.0
    return max(SBATCH_WAIT_S, min(longer, LONGEST_WAIT_S))


def _answer(command: list[str]) -> tuple[str, str, int]:
    """Return what a command says on stdout and stderr, and its exit code. SchedulerUnreachable where it takes too long."""
    started = subprocess.Popen(
        command,
        env=slurm.environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    up_to_s = wait_s()
    try:
        with patience.waiting("Slurm has not answered sbatch", up_to_s):
            answer, said = started.communicate(timeout=up_to_s)
    except subprocess.TimeoutExpired:
        _kill(started)
        raise SchedulerUnreachable(f"sbatch gave no answer within {up_to_s:.0f} s", hint=slurm.PING_HINT) from None
    except BaseException:
        _kill(started)
        raise
    return answer, said, started.returncode


def _kill(started: subprocess.Popen[str]) -> None:
    """End sbatch, and what it started: sites wrap it, and what a wrapper started would hold the pipes open."""
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.communicate()


@contextmanager
def _ctrl_c_noted() -> Iterator[list[int]]:
    """Have Ctrl-C fill the list that is yielded: raised between sbatch's start and its answer, it would lose the job's id.

    The second is raised: where nobody answers, a person is not kept. Where Ctrl-C is ignored (nohup), or this is no main thread,
    everything stays as it is.
    """
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        if len(noted) > 1:
            raise KeyboardInterrupt
        if patience.tell is not None:
            patience.tell("Ctrl-C: waiting for sbatch's answer, so that its job is not lost; once more leaves without it")

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
