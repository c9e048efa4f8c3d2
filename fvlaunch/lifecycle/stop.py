"""Owns stop and cancel: intent first, on disk, then what wakes or ends the job. Must not wait for the job to end."""

from __future__ import annotations

import os
import signal

from ..errors import FvlaunchError, RunConflict
from ..runs.directory import FINAL_STATES, Record, Run, Want
from ..runs.pipeline_directory import Pipeline
from ..schedulers import local_process
from ..schedulers.slurm import commands as slurm
from ..schedulers.slurm import states as slurm_states
from ..status import liveness as jobs
from ..status import pipeline_status


def stop(run: Run) -> str:
    """Save, then end. Returns what was done, in words."""
    return _end(run, "stop")


def cancel(run: Run) -> str:
    """End now; nothing is saved that was not saved already."""
    return _end(run, "cancel")


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
        run.write_intent(want, record.generation)
    run.event(want, job_id=record.job_id)
    state = "stopped" if want == "stop" else "cancelled"
    if record.state == "waiting":
        run.update(state=state, reason=f"fvlaunch {want} before its turn")
        return f"{run.name}: {state}; its turn had not come"
    job_id = record.job_id
    if record.executor == "slurm":
        job_id = _current(record) or job_id
    if job_id is None:
        run.update(state=state, reason=f"fvlaunch {want} before a job was known")
        return f"{run.name}: {state}; had its job been taken after all, it ends as soon as it starts"
    if record.executor == "local":
        return _end_local(run, job_id, want, state)
    return _end_slurm(run, job_id, want, state)


def _current(record: Record) -> str | None:
    """A job found by its token: one that nobody could record, or that goes on for the recorded one."""
    try:
        return jobs.other_job(record)
    except FvlaunchError:
        return None


def _end_local(run: Run, job_id: str, want: Want, state: str) -> str:
    liveness = jobs.liveness(run.record())
    if liveness is jobs.Liveness.OVER:
        run.update(state=state, reason=f"fvlaunch {want}, when its job was gone already")
        return f"{run.name}: {state}; its job was gone already"
    pid = local_process.local_pid(job_id)
    if want == "cancel" and pid is not None:
        os.kill(pid, signal.SIGTERM)  # the controller passes it on to the agent, which reads the intent
    return f"{run.name}: it {'saves and ends' if want == 'stop' else 'ends now'}"


def _end_slurm(run: Run, job_id: str, want: Want, state: str) -> str:
    details = slurm.job(job_id)
    if details is None or slurm_states.is_over(details.state):
        run.update(state=state, reason=f"fvlaunch {want}, when its job was gone already")
        return f"{run.name}: {state}; its job was gone already"
    if want == "cancel" or details.state == "PENDING":
        try:
            slurm.cancel(job_id)
        except FvlaunchError as error:
            raise FvlaunchError(f"the job {job_id} could not be cancelled: {error.message}", hint=f"scancel {job_id}") from None
    if details.state == "PENDING":
        run.update(state=state, reason=f"fvlaunch {want} while it waited")
        return f"{run.name}: {state}; its job {job_id} had not started"
    return f"{run.name}: job {job_id} {'saves and ends' if want == 'stop' else 'ends now'}"
