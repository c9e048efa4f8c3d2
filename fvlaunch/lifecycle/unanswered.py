"""Owns what a command says where the scheduler gave no answer, and what is made up for when it answers again.

A job that was taken without a reply is adopted by its token; what somebody said meanwhile (stop, cancel) is carried out; a job of a
submission that was given up is cancelled. Must not submit anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import FvlaunchError, SchedulerUnreachable
from ..runs import ownership
from ..runs.directory import FINAL_STATES, Run
from ..schedulers.registry import scheduler
from ..status.pipeline_status import PipelineStatus
from ..status.types import RunStatus
from . import stop
from .job_records import adopt_job, unanswered_tokens

NOT_MADE = "it was not made, and nothing was submitted"
AS_IT_WAS = "nothing was submitted, it is as it was"


@contextmanager
def told(name: str, so: str, again: str) -> Iterator[None]:
    """Have silence of the scheduler inside name the run, what it means for it, and what to type when there are answers again."""
    try:
        yield
    except SchedulerUnreachable as error:
        hint = "; ".join(filter(None, [error.hint, f"when it answers: {again}"]))
        raise SchedulerUnreachable(f"{name}: the scheduler gives no answer ({error.message}): {so}", hint=hint) from None


def made_up_for(statuses: Sequence[RunStatus]) -> list[str]:
    """Adopt and end what nobody answered about before, now that the scheduler does; return what was done, in words."""
    single = [one for status in statuses for one in (status.stages if isinstance(status, PipelineStatus) else (status,))]
    return [line for status in single if status.owed and (line := _make_up(Run(Path(status.path)), status))]


def _make_up(run: Run, status: RunStatus) -> str | None:
    if not ownership.is_mine(run.path):
        return None
    with suppress(FvlaunchError, OSError):  # somebody else is at it, or it cannot be written: the next one who looks does it
        record = run.record()
        if record.state in FINAL_STATES:
            return None
        if record.job_id is None and status.job_id is not None:
            adopt_job(run, status.job_id)
            record = run.record()
        intent = run.intent()
        if intent.want != "run" and intent.generation == record.generation:
            return stop.carry_out(run, intent.want)
    return None


def cancel_late_jobs(run: Run) -> None:
    """Cancel what came late of submissions that were given up; one that comes later still ends by itself, as it is not the run's."""
    record = run.record()
    chosen = scheduler(record.executor)
    for token in dict.fromkeys(unanswered_tokens(run)):
        if token == record.token:
            continue
        with suppress(FvlaunchError, OSError):
            for job_id in chosen.find(token, living=True):
                chosen.cancel(job_id)
                run.event("cancelled_late", job_id=job_id)
