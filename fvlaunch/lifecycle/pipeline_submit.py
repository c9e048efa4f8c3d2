"""Owns submitting and resuming a pipeline: on Slurm a chain of jobs, here one detached process that runs the stages in order.

Each stage is submitted by submit.py, exactly once. Every stage's run directory is complete before the first job is submitted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from ..errors import FvlaunchError, Interrupted, JobUnrecorded, RunConflict, SchedulerUnreachable
from ..planning.pipeline_plan import FIRST_ONLY, PipelinePlan
from ..planning.plan import Plan
from ..planning.planner import plan_resume
from ..runs import code_snapshot, job_folder
from ..runs.directory import FINAL_STATES, Run, check_free, make_folder
from ..runs.pipeline_directory import Pipeline, PipelineRecord
from ..runs.registry import remember
from ..schedulers.python_processes import module_command, python_path
from ..schedulers.registry import scheduler
from ..status import liveness, pipeline_status
from ..status.run_status import RunStatus
from . import job_records
from . import submit as submission
from .pipeline_driver import POLL_S, driver_module
from .unanswered import AS_IT_WAS, NOT_MADE, told

DRIVER_START_S = 60.0
CANCEL_WAIT_S = 15.0


def submit(plan: PipelinePlan, *, take_snapshot: bool, request: dict[str, Any]) -> Pipeline:
    """Make a new pipeline and its jobs. If one is refused, those before it are cancelled and nothing is left behind."""
    submission.check_scheduler(plan.stages[0])
    check_free(plan.path, "run or pipeline")
    with told(plan.name, NOT_MADE, "the same command"):
        scheduler(plan.stages[0].executor).check_answers()
    pipeline = _made(plan, take_snapshot, request)
    remember(pipeline.path)  # before there can be jobs, which nobody would look for if this process were killed now
    try:
        with pipeline.exclusive():
            _start(pipeline, list(zip(pipeline.stages, plan.stages, strict=True)), None)
    except (SchedulerUnreachable, Interrupted, JobUnrecorded):
        raise  # jobs are there, or may be: status and resume will find out
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted while {pipeline.name} was submitted", hint=_what_next(pipeline)) from None
    except BaseException:
        _undo(pipeline)
        raise
    return pipeline


def _made(plan: PipelinePlan, take_snapshot: bool, request: dict[str, Any]) -> Pipeline:
    """Make the folder with every stage's run directory, and no job yet."""
    pipeline, first = Pipeline(plan.path), plan.stages[0]
    job_folder.check_job_path(plan.path)
    make_folder(plan.path, "run or pipeline")
    try:
        pipeline.write(PipelineRecord(plan.name, plan.pipeline, first.cluster_name, first.executor, plan.records, time.time()))
        for stage in plan.stages:
            submission.prepare(stage, take_snapshot=take_snapshot, request=request)
    except BaseException:
        shutil.rmtree(plan.path, ignore_errors=True)
        raise
    return pipeline


def _undo(pipeline: Pipeline) -> None:
    for run in reversed(pipeline.stages):
        record = run.record()
        if scheduler(record.executor).chains_jobs and record.job_id is not None:
            with suppress(FvlaunchError):
                scheduler(record.executor).cancel(record.job_id)
    shutil.rmtree(pipeline.path, ignore_errors=True)


def _start(pipeline: Pipeline, stages: Sequence[tuple[Run, Plan]], after: str | None) -> None:
    """Hand the stages over, in order; `after` is the job that the first of them waits for."""
    if stages and not scheduler(stages[0][1].executor).chains_jobs:
        _start_driver(pipeline)
        return
    for run, plan in stages:
        try:
            submission.start(run, chained(plan, after))
        except (SchedulerUnreachable, Interrupted) as error:
            raise _with_the_rest(error, pipeline, run) from None
        except JobUnrecorded:
            raise
        except FvlaunchError as error:
            run.update(state="stopped", reason=f"it could not be submitted: {error.message}")
            raise
        after = run.record().job_id


def _with_the_rest(error: FvlaunchError, pipeline: Pipeline, run: Run) -> FvlaunchError:
    """Return what was said of a stage with what it means for the pipeline: those after it are not submitted yet."""
    left = pipeline.stages[[one.path for one in pipeline.stages].index(run.path) + 1 :]
    more = f"; not submitted: {', '.join(one.name for one in left)}" if left else ""
    return type(error)(error.message + more, hint=error.hint.replace(job_records.what_next(run.name), _what_next(pipeline)))


@contextmanager
def _about_the_whole(pipeline: Pipeline) -> Iterator[None]:
    """Have the hints of an error inside name the pipeline: a stage that is resumed alone would leave the chain."""
    try:
        yield
    except (SchedulerUnreachable, RunConflict, Interrupted) as error:
        hint = re.sub(rf"(fvlaunch (?:resume|status) {re.escape(pipeline.name)})/[\w.-]+", r"\1", error.hint)
        raise type(error)(error.message, hint=hint) from None


def _what_next(pipeline: Pipeline) -> str:
    go_on = f"fvlaunch resume {pipeline.name} takes up the jobs that are there and submits the others"
    return f"nothing is submitted twice: fvlaunch status {pipeline.name} tells, {go_on}"


def chained(plan: Plan, after: str | None) -> Plan:
    """Return the plan of a stage whose job waits until the one before it has ended well; where that cannot be any more, it ends itself."""
    if after is None:
        return plan
    others = {key: value for key, value in plan.sbatch.items() if key not in FIRST_ONLY}
    return replace(plan, sbatch={**others, "dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"})


# --- resume


@dataclass(frozen=True)
class _Broken:
    """What resume has to do."""

    kept: tuple[Run, ...]
    """Not over: their jobs go on."""
    again: tuple[Run, ...]
    """From the stage that broke."""


def resume(
    pipeline: Pipeline, cluster: str | None, *, sets: Mapping[str, Sequence[str]], sbatch: Mapping[str, Any], assume_dead: str | None,
    tell: Callable[[str], None],
) -> list[Run]:  # fmt: skip
    """Go on from the stage that broke: new jobs, chained anew. Return the stages that go on; `tell` gets each plan's notes."""
    with pipeline.exclusive(wait_s=0), _about_the_whole(pipeline):
        todo = _what_broke(pipeline, assume_dead)
        kept = {run.path.name for run in todo.kept}
        if named := [name for name, texts in sets.items() if texts and name in kept]:
            raise RunConflict(f"{pipeline.name}/{named[0]} is not over, so nothing can be set", hint=f"fvlaunch stop {pipeline.name}")
        options = [sbatch if i == 0 else {k: v for k, v in sbatch.items() if k not in FIRST_ONLY} for i in range(len(todo.again))]
        plans = [
            plan_resume(run, cluster, sets=sets.get(run.path.name, ()), ranks=None, sbatch=given, look=True)
            for run, given in zip(todo.again, options, strict=True)
        ]
        _check_executor(pipeline, plans, bool(kept))
        with told(pipeline.name, AS_IT_WAS, f"fvlaunch resume {pipeline.name}"):
            scheduler(plans[0].executor).check_answers()
        for plan in plans:
            for line in plan.notes:
                tell(line)
        remember(pipeline.path)  # it may have been copied here
        for run in todo.again[1:]:
            _end_waiting(run)
        for run, plan in zip(todo.again, plans, strict=True):
            submission.renew(run, plan, assume_dead=assume_dead, state="waiting")
        after = todo.kept[-1].record().job_id if todo.kept else None
        _start(pipeline, list(zip(todo.again, plans, strict=True)), after)
        return list(todo.again)


def _what_broke(pipeline: Pipeline, assume_dead: str | None) -> _Broken:
    with told(pipeline.name, AS_IT_WAS, f"fvlaunch resume {pipeline.name}"):
        whole, unreachable = pipeline_status.of_one(pipeline)
        if unreachable is not None:
            raise unreachable
    if whole.state == "finished":
        hint = f"fvlaunch resume {whole.stages[-1].run} --set train.max_steps=... trains a stage on"
        raise FvlaunchError(f"{pipeline.name} is finished", hint=hint)
    kept: list[Run] = []
    again: list[Run] = []
    driven = bool(pipeline_status.driver_alive(pipeline.record()))
    for run, stage in zip(pipeline.stages, whole.stages, strict=True):
        if stage.state == "finished":
            continue
        (again if again or not _goes_on(run, stage, driven, assume_dead) else kept).append(run)
    if not again:
        raise RunConflict(f"{pipeline.name} is not over: {whole.reason}", hint=f"fvlaunch stop {pipeline.name}, or attach to it")
    if driven:
        _await_driver_end(pipeline)
    return _Broken(tuple(kept), tuple(again))


def _goes_on(run: Run, stage: RunStatus, driven: bool, assume_dead: str | None) -> bool:
    """Return whether a stage's job is there and will do, or will be started by the process that starts them."""
    record = run.record()
    if record.state == "waiting":
        return driven and not stage.is_over
    if record.state == "submitting" and scheduler(record.executor).has_queue:
        return job_records.adopt(run, record) is not None
    return not stage.is_over and record.job_id is not None and record.job_id != assume_dead


def _await_driver_end(pipeline: Pipeline) -> None:
    """The process that starts the stages ends once it has seen that one broke."""
    until = time.monotonic() + 10 * POLL_S
    while pipeline_status.driver_alive(pipeline.record()):
        if time.monotonic() > until:
            raise RunConflict(f"{pipeline.name} is not over: it is starting its next stage", hint=f"fvlaunch status {pipeline.name}")
        time.sleep(POLL_S / 5)


def _check_executor(pipeline: Pipeline, plans: Sequence[Plan], some_go_on: bool) -> None:
    executor, record = plans[0].executor, pipeline.record()
    submission.check_scheduler(plans[0])
    if some_go_on and record.executor not in {plan.executor for plan in plans}:
        raise RunConflict(f"a stage of {pipeline.name} still runs, {record.executor}", hint=f"fvlaunch stop {pipeline.name} first")
    pipeline.write(replace(record, executor=executor, cluster=plans[0].cluster_name, driver=None, host=None))


def _end_waiting(run: Run) -> None:
    """A job that waits for one that broke is about to be cancelled by the scheduler; it is seen out."""
    record = run.record()
    chosen = scheduler(record.executor)
    if not chosen.chains_jobs or record.job_id is None or record.state in FINAL_STATES:
        return
    until = time.monotonic() + CANCEL_WAIT_S
    chosen.cancel(record.job_id)
    with suppress(SchedulerUnreachable):
        while liveness.liveness(record) is liveness.Liveness.ALIVE and time.monotonic() < until:
            time.sleep(POLL_S)


# --- here, one process for all stages


def _start_driver(pipeline: Pipeline) -> None:
    """Start it in a session of its own, from the first stage's copy of the code; wait until it has named itself."""
    log = pipeline.path / "stages.log"
    code = code_snapshot.code_folder(pipeline.stages[0])
    with log.open("ab") as output:
        child = subprocess.Popen(
            module_command(sys.executable, driver_module(code), str(pipeline.path)),
            env={**os.environ, "PYTHONPATH": python_path(code)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until = time.monotonic() + DRIVER_START_S
    while not _has_begun(pipeline, child.pid):
        if child.poll() is not None and not _has_begun(pipeline, child.pid):
            tail = "\n".join(log.read_text(errors="replace").strip().splitlines()[-5:])
            raise FvlaunchError(f"the pipeline did not start:\n{tail}")
        if time.monotonic() > until:
            raise FvlaunchError(f"the pipeline did not start in {DRIVER_START_S:.0f} s", hint=f"see {log}")
        time.sleep(0.05)


def _has_begun(pipeline: Pipeline, pid: int) -> bool:
    """Return whether that process has taken over, and the stage whose turn it is has a job or is over."""
    if not (pipeline.record().driver or "").startswith(f"local-{pid}-"):
        return False
    records = [run.record() for run in pipeline.stages]
    turn = next((record for record in records if record.state != "finished"), None)
    return turn is None or turn.job_id is not None or turn.state in FINAL_STATES
