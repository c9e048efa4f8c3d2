"""Owns what is said of a pipeline: its stages' states folded into one. `fold` is pure. Must not change anything.

The reason of a stage that never started is what kept it from starting, whatever became of its job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..errors import FvlaunchError, SchedulerUnreachable
from ..runs.directory import PIPELINE_FILE, Run
from ..runs.pipeline_directory import Pipeline, PipelineRecord, of_stage
from ..schedulers import local_process
from ..schedulers.registry import scheduler
from . import run_status
from .run_status import RunStatus


@dataclass(frozen=True)
class PipelineStatus(RunStatus):
    """A pipeline as if it were one run: steps and attempts are sums, the job is that of the stage whose turn it is."""

    stages: tuple[RunStatus, ...] = ()

    @property
    def current(self) -> RunStatus:
        """Return the first stage that is not finished, else the last."""
        return next((stage for stage in self.stages if stage.state != "finished"), self.stages[-1])


def of_one(pipeline: Pipeline) -> tuple[PipelineStatus, SchedulerUnreachable | None]:
    """Return the status of a single pipeline, and the error if the scheduler could not be asked. FvlaunchError where it is broken."""
    pipeline.record()
    [whole], unreachable = statuses_of([pipeline])
    assert isinstance(whole, PipelineStatus)
    return whole, unreachable


def statuses_of(chosen: Sequence[Run | Pipeline]) -> tuple[list[RunStatus], SchedulerUnreachable | None]:
    """Return the status of runs and pipelines, in order, with one question to the scheduler for all. A stage is judged with its pipeline.

    One whose record cannot be read is `broken`; that says nothing of the others.
    """
    alone: set[Path] = set()  # folders that are no pipeline's: thousands of runs may lie in one
    pipelines = [one if isinstance(one, Pipeline) else _pipeline_of(one, alone) for one in chosen]
    records = {one.path: _record_of(one) for one in pipelines if one is not None}
    whole = {one.path: one for one in pipelines if one is not None and isinstance(records[one.path], PipelineRecord)}
    runs = {run.path: run for one in whole.values() for run in one.stages}
    runs |= {one.path: one for one in chosen if isinstance(one, Run)}
    answers, unreachable = run_status.statuses_of(list(runs.values()))
    by_path = dict(zip(runs, answers, strict=True))
    folded = {path: _folded(record, path, by_path) for path, record in records.items()}
    return [_chosen(one, pipeline, folded, by_path) for one, pipeline in zip(chosen, pipelines, strict=True)], unreachable


def _pipeline_of(run: Run, alone: set[Path]) -> Pipeline | None:
    if run.path.parent in alone:
        return None
    try:
        pipeline = of_stage(run)
    except FvlaunchError:  # the pipeline's record is broken, the run may be whole
        return None
    if pipeline is None and not (run.path.parent / PIPELINE_FILE).is_file():
        alone.add(run.path.parent)
    return pipeline


def _record_of(pipeline: Pipeline) -> PipelineRecord | FvlaunchError:
    try:
        return pipeline.record()
    except FvlaunchError as error:
        return error


def _folded(record: PipelineRecord | FvlaunchError, path: Path, by_path: Mapping[Path, RunStatus]) -> RunStatus:
    if isinstance(record, FvlaunchError):
        return RunStatus.broken(path.name, path, f"{record.message}; {record.hint}")
    return fold(record, path, [by_path[path / stage.name] for stage in record.stages], driver_alive(record))


def _chosen(
    one: Run | Pipeline, pipeline: Pipeline | None, folded: Mapping[Path, RunStatus], by_path: Mapping[Path, RunStatus]
) -> RunStatus:
    whole = folded[pipeline.path] if pipeline is not None else None
    if whole is not None and isinstance(one, Pipeline):
        return whole
    if isinstance(whole, PipelineStatus):
        return next(stage for stage in whole.stages if stage.path == str(one.path))
    return by_path[one.path]


def driver_alive(record: PipelineRecord) -> bool | None:
    """Say whether the process that starts a local pipeline's stages is there; None where nobody here can say, or none is needed."""
    if scheduler(record.executor).chains_jobs or (record.host or "").split("/")[0] not in ("", local_process.host_identity().split("/")[0]):
        return None
    return record.driver is not None and record.host == local_process.host_identity() and local_process.local_pid(record.driver) is not None


def fold(record: PipelineRecord, path: Path, stages: Sequence[RunStatus], driver: bool | None) -> PipelineStatus:
    """Return a pipeline's status from those of its stages. Pure."""
    stages = _told_by_what_broke(stages)
    if scheduler(record.executor).chains_jobs:
        cut = f"not submitted yet; where no submit is at work any more, fvlaunch resume {record.name} goes on"
        stages = [replace(s, state="submitting", reason=cut) if s.state == "queued" and s.job_id is None else s for s in stages]
    turn = next((i for i, stage in enumerate(stages) if stage.state != "finished"), len(stages) - 1)
    current = stages[turn]
    state, reason = current.state, current.reason
    if driver and state == "submitting":
        state, reason = "queued", "is being started"
        stages = [*stages[:turn], replace(current, state=state, reason=reason), *stages[turn + 1 :]]
    if driver is False and not current.is_over:
        gone = f"the process that starts the stages is gone; fvlaunch resume {record.name} goes on"
        state, reason = ("lost", gone) if current.job_id is None else (state, gone)
        stages = [*stages[:turn], *(replace(s, state="lost", reason=gone) if s.job_id is None else s for s in stages[turn:])]
    reason = reason.replace(f"fvlaunch resume {current.run} ", f"fvlaunch resume {record.name} ")
    if state != "finished":
        reason = f"stage {turn + 1} of {len(stages)}, {record.stages[turn].name}" + (f": {reason}" if reason else "")
    shown = {f.name: getattr(current, f.name) for f in fields(RunStatus)}
    shown |= {
        "run": record.name,
        "recipe": record.pipeline,
        "cluster": record.cluster,
        "state": state,
        "reason": reason,
        "step": sum(stage.step for stage in stages),
        "max_steps": sum(stage.max_steps for stage in stages),
        "job_ids": tuple(job for stage in stages for job in stage.job_ids),
        "attempts": sum(stage.attempts for stage in stages),
        "last_checkpoint_step": None,
        "updated_at": max(stage.updated_at for stage in stages),
        "path": str(path),
        "eta_s": None,
        "entries": None,
        "owed": "",
    }
    return PipelineStatus(**shown, stages=tuple(stages))


def _told_by_what_broke(stages: Sequence[RunStatus]) -> list[RunStatus]:
    broken = next((stage for stage in stages if stage.is_over and stage.state not in ("finished", "broken")), None)
    if broken is None:
        return list(stages)
    after = stages.index(broken) + 1
    never = f"never started: {broken.run} is {broken.state}"
    kept = [s if s.attempts or s.state in ("running", "stopped") else replace(s, state="cancelled", reason=never) for s in stages[after:]]
    return [*stages[:after], *kept]
