"""Owns stop and cancel: intent first, on disk, then what wakes or ends the job. Must not wait for the job to end."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from ..errors import FvlaunchError, RunConflict, SchedulerUnreachable
from ..files import in_words
from ..runs.directory import FINAL_STATES, Record, Run, Want
from ..runs.pipeline_directory import Pipeline
from ..schedulers.base import JobPhase
from ..schedulers.registry import scheduler
from ..status import liveness as jobs
from ..status import pipeline_status
from ..status.job_queries import job_of
from ..status.run_status import NO_ANSWER, heard_of, statuses_of


def stop(run: Run) -> str:
    """Save, then end. Returns what was done, in words; SchedulerUnreachable says what is recorded, and what then becomes of the run."""
    return _end(run, "stop", _check_not_over(run))


def cancel(run: Run) -> str:
    """End now; nothing is saved that was not saved already. Returns, and raises, as `stop` does."""
    return _end(run, "cancel", _check_not_over(run))


def _check_not_over(run: Run) -> SchedulerUnreachable | None:
    """Raise RunConflict where the run has ended though no agent wrote that down: its end must not become somebody's wish.

    Return the error where the scheduler could not be asked.
    """
    [status], unreachable = statuses_of([run])
    if status.state in FINAL_STATES:
        raise RunConflict(f"{run.name} is {status.state} already", hint=f"fvlaunch status {run.name}")
    return unreachable


def end_pipeline(pipeline: Pipeline, want: Want) -> list[str]:
    """End all stages that are not over, the last first, so that none starts meanwhile. What was done to each, in words.

    Where the scheduler gives no answer, it is asked no more, and what is wanted is recorded for every stage all the same.
    """
    whole, silent = pipeline_status.of_one(pipeline)
    open_stages = [run for run in pipeline.stages if run.record().state not in FINAL_STATES]
    if not open_stages or (whole.state in FINAL_STATES and all(stage.is_over for stage in whole.stages)):
        raise RunConflict(f"{pipeline.name} is {whole.state} already", hint=f"fvlaunch status {pipeline.name}")
    lines, first = [], None
    for run in reversed(open_stages):
        try:
            lines.append(_end(run, want, silent, ask=first is None))
        except SchedulerUnreachable as error:
            first = first or error
    if first is not None:
        told = "; ".join([first.message, *lines])
        raise SchedulerUnreachable(told, hint=first.hint.replace(f"{pipeline.name}/{open_stages[-1].path.name}", pipeline.name))
    return lines


def _end(run: Run, want: Want, silent: SchedulerUnreachable | None, *, ask: bool = True) -> str:
    record, unwritten = _recorded(run, want)
    if record.state == "waiting":
        state = "stopped" if want == "stop" else "cancelled"
        run.update(state=state, reason=f"fvlaunch {want} before its turn")
        return f"{run.name}: {state}; its turn had not come"
    heard = heard_of(run) if want == "stop" else None
    if silent is not None and heard is not None:
        return f"{run.name}: its agent, heard of {heard:.0f} s ago, saves and ends it; {_quiet(record, silent)}, which that does not need"
    try:
        if silent is not None and not ask:
            raise silent
        return carry_out(run, want) + unwritten
    except SchedulerUnreachable as error:
        raise _unanswered(run, record, want, error, unwritten) from None


def _recorded(run: Run, want: Want) -> tuple[Record, str]:
    """Write down what is wanted, which its agent reads, and return the record. A full disk keeps nobody from ending a job now: the words
    about that are returned too."""
    record = run.record()
    try:
        with run.locked():
            record = run.record()
            if record.state in FINAL_STATES:
                raise RunConflict(f"{run.name} is {record.state} already", hint=f"fvlaunch status {run.name}")
            run.write_intent(want, record.generation)
    except OSError as error:
        if want == "stop":  # only its agent can have it saved, and hears of it by this file
            message = f"{run.name} cannot be told to stop: {in_words(error)}"
            raise FvlaunchError(message, hint=f"df {run.path}; fvlaunch cancel {run.name} needs no disk and saves nothing") from None
        return record, f"; this could not be written down ({error.strerror})"
    with suppress(OSError):
        run.event(want, job_id=record.job_id, generation=record.generation)
    return record, ""


def _quiet(record: Record, error: SchedulerUnreachable) -> str:
    return f"{scheduler(record.executor).title} gives no answer ({error.message})"


def _unanswered(run: Run, record: Record, want: Want, error: SchedulerUnreachable, unwritten: str) -> SchedulerUnreachable:
    """Return the error that says what the missing answer means: what is recorded is carried out all the same."""
    with suppress(OSError):
        run.event(NO_ANSWER, want=want)
    job = f"job {record.job_id} of {run.name}" if record.job_id is not None else f"the job of {run.name}, if it was taken,"
    hint = f"fvlaunch {want} {run.name} again, or fvlaunch status {run.name}, when it answers"
    if unwritten:
        so = f"{job} may go on{unwritten}"
    elif want == "cancel":
        so = f"`cancel` is recorded: {job} ends at once where its agent runs, as it starts where it waits, and never comes back"
        hint += ", takes a waiting job out of the queue"
    else:
        so = f"`stop` is recorded: {job} saves and ends where its agent runs, ends as it starts where it waits"
        hint += ", takes a waiting job out of the queue"
    return SchedulerUnreachable(f"{_quiet(record, error)}: {so}", hint="; ".join(filter(None, [error.hint, hint])))


def carry_out(run: Run, want: Want) -> str:
    """Do what the intent on disk says, and return what was done, in words. SchedulerUnreachable where nobody answers."""
    record, state = run.record(), "stopped" if want == "stop" else "cancelled"
    job_id = (_current(record) if scheduler(record.executor).has_queue else None) or record.job_id
    if job_id is None:
        now = _now(run, state, f"fvlaunch {want} before a job was known")
        return f"{run.name}: {now}; had its job been taken after all, it ends as soon as it starts"
    return _end_job(run, replace(record, job_id=job_id), want, state)


def _current(record: Record) -> str | None:
    """Return a job found by its token: one that nobody could record, or that goes on for the recorded one."""
    try:
        return jobs.other_job(record)
    except SchedulerUnreachable:
        raise
    except FvlaunchError:
        return None


def _end_job(run: Run, record: Record, want: Want, state: str) -> str:
    """End a run's job and return what was done, in words.

    A job that waits is cancelled either way; one that runs hears of a stop from its agent, which reads the intent.
    """
    chosen, job = scheduler(record.executor), job_of(record)
    assert job.job_id is not None
    phase = chosen.phase(job)
    if phase is JobPhase.OVER:
        return f"{run.name}: {_now(run, state, f'fvlaunch {want}, when its job was gone already')}; its job was gone already"
    if want == "cancel" or phase is JobPhase.WAITING:
        chosen.cancel(job.job_id)
    if phase is JobPhase.WAITING:
        return f"{run.name}: {_now(run, state, f'fvlaunch {want} while it waited')}; its job {job.job_id} had not started"
    who = f"job {job.job_id}" if chosen.has_queue else "it"
    return f"{run.name}: {who} {'saves and ends' if want == 'stop' else 'ends now'}"


def _now(run: Run, state: str, reason: str) -> str:
    """Write down what the run is now that no job of it goes on, and return it; what its agent has said of its end meanwhile stays."""
    try:
        with run.locked():
            record = run.record()
            if record.state in FINAL_STATES:
                return record.state
            run.write_record(replace(record, state=state, reason=reason))
    except OSError as error:
        return f"{state}, which could not be written down ({error.strerror})"
    return state
