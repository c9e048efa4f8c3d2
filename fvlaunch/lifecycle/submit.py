"""Owns making a job of a run, exactly one: a new run, a resumed one, or one whose batch script somebody else will submit.

The token is on disk before anything is submitted. When nobody can say whether a submission was taken, the scheduler is
asked for the token, and a job that is there is adopted.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import own_files
from ..config.strict_yaml import dump
from ..errors import FvlaunchError, Interrupted, JobUnrecorded, RunConflict, SchedulerUnreachable
from ..files import in_words, publish_text, why_not_writable
from ..planning import lockfile
from ..planning.plan import Plan
from ..runs import code_snapshot, job_folder
from ..runs.directory import FINAL_STATES, Record, Run, check_free, create
from ..runs.pipeline_directory import of_stage
from ..runs.registry import remember
from ..schedulers.registry import scheduler
from ..status import liveness
from . import job_specs, unanswered
from .job_records import adopt, make_job_folder, submit_job, what_next

_ROOM_BYTES = 256 * 1024
"""What a submission writes: its records, the job's script and pickle."""


def submit(plan: Plan, *, take_snapshot: bool, request: dict[str, Any], fill: Callable[[Run], None] | None = None) -> Run:
    """Make a new run and its job. If the job is refused, nothing is left behind. `fill` puts in what the job is to find there."""
    check_scheduler(plan)
    check_free(plan.path, "run")
    with unanswered.told(plan.full_name, unanswered.NOT_MADE, "the same command"):
        scheduler(plan.executor).check_answers()
    run = prepare(plan, take_snapshot=take_snapshot, request=request)
    remember(run.path)  # before there can be a job, which nobody would look for if this process were killed now
    try:
        if fill is not None:
            fill(run)
        start(run, plan)
    except (SchedulerUnreachable, Interrupted, JobUnrecorded):
        raise  # the job is there, or may be: status and resume will find out
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def prepare(plan: Plan, *, take_snapshot: bool, request: dict[str, Any]) -> Run:
    """Make the run directory, complete, and no job yet."""
    job_folder.check_job_path(plan.path)
    run = create(plan.path, _first_record(plan))
    try:
        if take_snapshot:
            code_snapshot.take(run)
            code_snapshot.take_own_files(run, own_files.all_copies(plan.recipe.get("train") or {}, plan.own_copies))
        _write_config(run, plan, lockfile.make(plan, request, run))
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def prepare_job(plan: Plan, *, take_snapshot: bool, request: dict[str, Any]) -> tuple[Run, Path]:
    """Make a new run with all that its job needs, and the batch script that somebody else will hand to sbatch.

    The job knows the run by its token: its agent records the job's id, and status and resume find it in the queue before that.
    """
    run = prepare(plan, take_snapshot=take_snapshot, request=request)
    try:
        folder = make_job_folder(run)
        script = scheduler(plan.executor).prepare(job_specs.of_plan(run, plan, folder))
        run.update(reason=f"prepared, not submitted by fvlaunch: sbatch {shlex.quote(str(script))}, or fvlaunch resume {run.name}")
        run.event("prepared")
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    remember(run.path)
    return run, script


def check_scheduler(plan: Plan) -> None:
    """Refuse a plan for a scheduler that cannot be used on this machine."""
    chosen = scheduler(plan.executor)
    if (why := chosen.unusable()) is not None:
        raise FvlaunchError(
            f"cluster {plan.cluster_name} is a {chosen.title} cluster, but {why}",
            hint="submit from a login node, or use --cluster local",
        )


def _first_record(plan: Plan) -> Record:
    now = time.time()
    return Record(
        name=plan.full_name,
        recipe=plan.recipe_name,
        cluster=plan.cluster_name,
        executor=plan.executor,
        generation=1,
        token=job_folder.new_token(),
        max_steps=plan.max_steps,
        ranks=plan.ranks,
        nodes=plan.nodes,
        scheduler=scheduler(plan.executor).identity(),
        submitted_at=now,
        updated_at=now,
        state="submitting" if plan.pipeline is None else "waiting",
    )


def _write_config(run: Run, plan: Plan, lock: dict[str, Any]) -> None:
    head = "# The whole run, resolved. `fvlaunch submit` of this file repeats it.\n"
    value = {"recipe": plan.recipe, "cluster": plan.cluster, "lock": lock}
    publish_text(run.config_file, head + dump(value))


def resubmit(run: Run, plan: Plan, *, assume_dead: str | None = None) -> Run:
    """Submit a new job for a run whose last one is over."""
    check_scheduler(plan)
    with unanswered.told(run.name, unanswered.AS_IT_WAS, f"fvlaunch resume {run.name}"):
        scheduler(plan.executor).check_answers()
    renew(run, plan, assume_dead=assume_dead)
    remember((of_stage(run) or run).path)  # it may have been copied here
    try:
        start(run, plan)
    except FvlaunchError as error:
        if not isinstance(error, SchedulerUnreachable | Interrupted | JobUnrecorded):  # then its job is there, or may be
            run.update(state="stopped", reason=f"resume failed: {error.message}", job_id=None)
        raise
    unanswered.cancel_late_jobs(run)
    return run


def renew(run: Run, plan: Plan, *, assume_dead: str | None = None, state: str = "submitting") -> None:
    """The next generation of a run whose last job is over, with fresh budgets, and no job yet.

    Two shells may try at once: the one that changes the generation first wins, the other is told who.
    """
    before = run.record()
    _check_is_over(run, before, assume_dead)
    _check_room(run)
    identity = scheduler(plan.executor).identity()  # may take seconds: not under the lock
    with run.locked():
        record = run.record()
        if (record.generation, record.token) != (before.generation, before.token):
            raise RunConflict(f"{run.name} was just resumed by another command", hint=f"fvlaunch status {run.name}")
        record = replace(
            record, generation=record.generation + 1, token=job_folder.new_token(), state=state, reason="",
            job_id=None, host=None, scheduler=identity, cluster=plan.cluster_name, executor=plan.executor,
            ranks=plan.ranks, nodes=plan.nodes, max_steps=plan.max_steps, submitted_at=time.time(),
        )  # fmt: skip
        run.write_intent("run", record.generation)
        run.write_record(record)
    publish_text(run.path / f"run.{before.generation:04d}.yaml", run.config_file.read_text(encoding="utf-8"))  # what it ran by until now
    _write_config(run, plan, lockfile.renewed(run, plan, before.generation))


def _check_room(run: Run) -> None:
    """Refuse to go on with a run whose records cannot be written, before anything is changed."""
    if (error := why_not_writable(run.path, _ROOM_BYTES)) is not None:
        raise FvlaunchError(
            f"{run.name} cannot be resumed: its records cannot be written: {in_words(error)}", hint=f"df {run.path}; make room there first"
        )


def _check_is_over(run: Run, record: Record, assume_dead: str | None) -> None:
    if record.state == "submitting" and scheduler(record.executor).has_queue:
        found = _adopted(run, record)
        if found and run.intent().want == "run":
            raise RunConflict(f"{run.name} has a job after all: {found}; adopted", hint=f"fvlaunch status {run.name}")
        if found:
            scheduler(record.executor).cancel(found)  # as was said when nobody answered; what is said now counts for the next job
        return
    if record.state in FINAL_STATES or record.job_id is None:
        alive = _may_be_ending(record) and record.state != "finished"
        if alive:
            raise RunConflict(f"{run.name} is {record.state}, and its job {record.job_id} is just ending", hint="try again in a moment")
        return
    if assume_dead is not None and assume_dead == record.job_id:
        run.event("assumed_dead", job_id=assume_dead)
        return
    with unanswered.told(
        run.name,
        f"nobody can say whether its job {record.job_id} still runs, and nothing was submitted",
        f"fvlaunch resume {run.name}; if you know that it is gone: --assume-dead {record.job_id}",
    ):
        found_alive = liveness.liveness(record)
    if found_alive is liveness.Liveness.ALIVE:
        raise RunConflict(f"{run.name} is not over: job {record.job_id} owns it", hint=f"fvlaunch stop {run.name}, or attach to it")
    if found_alive is liveness.Liveness.UNKNOWN:
        raise RunConflict(
            f"nobody can say whether job {record.job_id} of {run.name} still runs",
            hint=f"if you know that it is gone: --assume-dead {record.job_id}",
        )


def taken_up(run: Run) -> str | None:
    """Return the job of a run's last submission where nobody knew of it and it is there; it is the run's now."""
    record = run.record()
    if record.state != "submitting" or not scheduler(record.executor).has_queue or run.intent().want != "run":
        return None
    return _adopted(run, record)


def _adopted(run: Run, record: Record) -> str | None:
    with unanswered.told(run.name, "nothing was submitted", f"fvlaunch resume {run.name}"):
        return adopt(run, record)


def _may_be_ending(record: Record) -> bool:
    """Return whether the job of a run that is over is still there; where nobody answers, its record's word counts."""
    with contextlib.suppress(SchedulerUnreachable):
        return liveness.liveness(record) is liveness.Liveness.ALIVE
    return False


def start(run: Run, plan: Plan | None = None) -> None:
    """Submit the job that run.json's token announces, and record its id. Without a plan the job is what run.yaml says.

    Ctrl-C is Interrupted from where a job may be there.
    """
    with run.locked():
        record = run.record()
        if record.state == "waiting":
            run.write_record(replace(record, state="submitting"))
    folder = make_job_folder(run)
    job = job_specs.of_run(run, folder) if plan is None else job_specs.of_plan(run, plan, folder)
    try:
        submit_job(run, scheduler(run.record().executor), job)
        with contextlib.suppress(OSError):  # the job is there, whatever can be written of it
            run.event("submitted", job_id=run.record().job_id, generation=run.record().generation)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted while {run.name} was submitted: its job may be there", hint=what_next(run.name)) from None
