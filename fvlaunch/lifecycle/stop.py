"""Owns stop and cancel: intent first, on disk, then what wakes or ends the job. Must not wait for the job to end."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import replace

from ..errors import FvlaunchError, RunConflict
from ..runs.directory import FINAL_STATES, Record, Run, Want
from ..runs.pipeline_directory import Pipeline
from ..schedulers.base import JobPhase
from ..schedulers.registry import scheduler
from ..status import liveness as jobs
from ..status import pipeline_status
from ..status.job_queries import job_of
from ..status.run_status import statuses_of


def stop(run: Run) -> str:
    """Save, then end. Returns what was done, in words."""
    _check_not_over(run)
    return _end(run, "stop")


def cancel(run: Run) -> str:
    """End now; nothing is saved that was not saved already."""
    _check_not_over(run)
    return _end(run, "cancel")


def _check_not_over(run: Run) -> None:
    """Raise RunConflict where the run has ended though no agent wrote that down: its end must not become somebody's wish."""
    [status], _ = statuses_of([run])
    if status.state in FINAL_STATES:
        raise RunConflict(f"{run.name} is {status.state} already", hint=f"fvlaunch status {run.name}")


def end_pipeline(pipeline: Pipeline, want: Want) -> list[str]:
    """End all stages that are not over, the last first, so that none starts meanwhile. What was done to each, in words."""
    whole, _ = pipeline_status.of_one(pipeline)
    open_stages = [run for run in pipeline.stages if run.record().state not in FINAL_STATES]
    if not open_stages or (whole.state in FINAL_STATES and all(stage.is_over for stage in whole.stages)):
        raise RunConflict(f"{pipeline.name} is {whole.state} already", hint=f"fvlaunch status {pipeline.name}")
    return [_end(run, want) for run in reversed(open_stages)]


def _end(run: Run, want: Want) -> str:
    with run.locked():
        record = run.record()
        if record.state in FINAL_STATES:
            raise RunConflict(f"{run.name} is {record.state} already", hint=f"fvlaunch status {run.name}")
        with suppress(OSError) if want == "cancel" else nullcontext():  # the scheduler ends a job without it
            run.write_intent(want, record.generation)
    with suppress(OSError):
        run.event(want, job_id=record.job_id)
    state = "stopped" if want == "stop" else "cancelled"
    if record.state == "waiting":
        run.update(state=state, reason=f"fvlaunch {want} before its turn")
        return f"{run.name}: {state}; its turn had not come"
    job_id = (_current(record) if scheduler(record.executor).has_queue else None) or record.job_id
    if job_id is None:
        run.update(state=state, reason=f"fvlaunch {want} before a job was known")
        return f"{run.name}: {state}; had its job been taken after all, it ends as soon as it starts"
    return _end_job(run, replace(record, job_id=job_id), want, state)


def _current(record: Record) -> str | None:
    """Return a job found by its token: one that nobody could record, or that goes on for the recorded one."""
    try:
        return jobs.other_job(record)
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
        run.update(state=state, reason=f"fvlaunch {want}, when its job was gone already")
        return f"{run.name}: {state}; its job was gone already"
    if want == "cancel" or phase is JobPhase.WAITING:
        chosen.cancel(job.job_id)
    if phase is JobPhase.WAITING:
        run.update(state=state, reason=f"fvlaunch {want} while it waited")
        return f"{run.name}: {state}; its job {job.job_id} had not started"
    who = f"job {job.job_id}" if chosen.has_queue else "it"
    return f"{run.name}: {who} {'saves and ends' if want == 'stop' else 'ends now'}"
