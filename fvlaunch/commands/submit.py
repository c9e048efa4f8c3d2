"""Owns `fvlaunch submit`, `resume` and `fork` between the parsed command line and lifecycle: checks, warnings, what is printed.

Must not be imported for --help, and must not submit anything itself.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import NameTaken, UsageError
from ..runs import registry
from ..runs.directory import Run
from ..runs.pipeline_directory import Pipeline
from ..schedulers.registry import scheduler
from . import output as printing
from .selection import find, find_any
from .waiting import wait_until_over

Made = TypeVar("Made")
_TRIES = 30
"""So many others may submit in one second and take each name first."""


@dataclass(frozen=True)
class SubmitRequest:
    """What a `submit` command line asks for."""

    recipe: str
    cluster: str | None
    sets: list[str]
    name: str | None
    ranks: int | None
    nodes: int | None
    runs_dir: Path | None
    sbatch: dict[str, Any]

    @property
    def is_pipeline(self) -> bool:
        from ..config.lookup import kind_of

        return kind_of(self.recipe) == "pipeline"

    @property
    def words(self) -> dict[str, Any]:
        """What was asked for, as run.yaml keeps it."""
        return {"recipe": self.recipe, "cluster": self.cluster, "set": self.sets, "sbatch": self.sbatch}

    def pipeline_plan(self) -> Any:
        from . import pipelines as pipeline_commands

        return pipeline_commands.plan(self.recipe, self.cluster, self.sets, self.name, self.ranks, self.nodes, self.sbatch, self.runs_dir)

    def under_a_free_name(self, act: Callable[[], Made]) -> Made:
        """Plan and submit. Where no name was asked for and another process has just taken the one that was free, do so again."""
        for _ in range(_TRIES):
            try:
                return act()
            except NameTaken:
                if self.name is not None:
                    raise
        return act()

    def plan(self, *, look: bool = True) -> tuple[Any, Any]:
        from ..planning import planner

        return planner.plan_submission(
            self.recipe, self.cluster, sets=self.sets, name=self.name, ranks=self.ranks, nodes=self.nodes, sbatch=self.sbatch,
            runs_dir=self.runs_dir, look=look,
        )  # fmt: skip


def with_extra_sbatch(given: Mapping[str, Any], extra: Sequence[str]) -> dict[str, Any]:
    """Add to a command line's own sbatch options, by long name, those that were written after `--`."""
    from ..config import sbatch_words
    from ..config.sbatch_options import OptionError

    try:
        return {**given, **sbatch_words.read(extra)}
    except OptionError as error:
        raise UsageError(error.message, hint=error.hint) from None


def dry_run(request: SubmitRequest, *, traced: bool = False, json_: bool) -> None:
    from . import dry_run as dry_run_command

    if request.is_pipeline:
        from . import pipelines as pipeline_commands

        return pipeline_commands.dry_run(request.pipeline_plan(), traced=traced, json_=json_)
    composed, plan = request.plan(look=False)
    dry_run_command.dry_run(plan, traced=traced, json_=json_)
    return dry_run_command.look(composed)


def test_only(request: SubmitRequest, *, json_: bool) -> int:
    """Ask each cluster of `--cluster A,B` by itself, and about each partition; print the answers and return the exit code."""
    from . import dry_run as dry_run_command

    one_each = [replace(request, cluster=name) for name in request.cluster.split(",")] if request.cluster else [request]
    plans = [plan for one in one_each for plan in (one.pipeline_plan().stages if one.is_pipeline else [one.plan(look=False)[1]])]
    dry_run_command.check_slurm(plans)
    for line in dict.fromkeys(line for plan in plans for line in plan.notes):
        printing.say(line)
    return dry_run_command.print_answers(dry_run_command.ask(plans), json_=json_)


def smoke(request: SubmitRequest, *, take_snapshot: bool, json_: bool) -> int:
    from .smoke_test import smoke as tried

    return request.under_a_free_name(lambda: tried(request, take_snapshot=take_snapshot, json_=json_))


def prepare(request: SubmitRequest, *, take_snapshot: bool, json_: bool) -> None:
    if request.is_pipeline:
        raise UsageError(
            "--prepare is of a single run: a chain of jobs needs their ids", hint="submit the pipeline, or prepare a stage's recipe"
        )
    return request.under_a_free_name(lambda: _prepare(request, take_snapshot=take_snapshot, json_=json_))


def _prepare(request: SubmitRequest, *, take_snapshot: bool, json_: bool) -> None:
    from ..lifecycle import submit as submission

    composed, plan = request.plan()
    if not scheduler(plan.executor).takes_sbatch_options:
        raise UsageError("--prepare makes a batch script, and this cluster takes none", hint="choose a Slurm cluster with --cluster")
    _warn(composed, plan)
    run, script = submission.prepare_job(plan, take_snapshot=take_snapshot, request=request.words)
    line = f"sbatch {shlex.quote(str(script))}"
    if json_:
        return printing.as_json({"run": run.name, "path": str(run.path), "script": str(script), "command": line, "state": "submitting"})
    printing.say(f"{run.name}: {plan.summary}; nothing was submitted. This does it, or fvlaunch resume {run.name}:")
    return printing.out(line)


def submit(request: SubmitRequest, *, wait: bool, take_snapshot: bool, json_: bool) -> int:
    return request.under_a_free_name(lambda: _submit(request, wait=wait, take_snapshot=take_snapshot, json_=json_))


def _submit(request: SubmitRequest, *, wait: bool, take_snapshot: bool, json_: bool) -> int:
    from ..lifecycle import repeated
    from ..lifecycle import submit as submission

    if request.is_pipeline:
        from . import pipelines as pipeline_commands

        return pipeline_commands.submit(request.pipeline_plan(), words=request.words, take_snapshot=take_snapshot, wait_=wait, json_=json_)
    composed, plan = request.plan()
    submission.check_scheduler(plan)  # what cannot be is refused before anything else is told of it
    if (before := repeated.taken_up(plan, named=request.name is not None)) is not None:
        run, job_id = before
        printing.say(f"{run.name}: the same command has submitted it, without an answer; its job {job_id} is there, and no second one")
        return _submitted(run, plan.summary, wait=wait, json_=json_)
    _warn(composed, plan)
    run = submission.submit(plan, take_snapshot=take_snapshot, request=request.words)
    return _submitted(run, plan.summary, wait=wait, json_=json_)


def _warn(composed: Any, plan: Any) -> None:
    from ..planning import warnings

    for line in warnings.warnings(composed, plan):
        printing.say(line)


def _submitted(run: Run, summary: str, *, wait: bool, json_: bool) -> int:
    record = run.record()
    printing.say(f"{run.name}: {summary}; job {record.job_id}")
    if unknown := registry.unremembered(run.path):
        printing.say(unknown)
    if wait:
        return wait_until_over(run, quiet=False, json_=json_)
    if json_:
        printing.as_json(
            {
                "run": run.name,
                "job_id": record.job_id,
                "path": str(run.path),
                "state": "queued" if scheduler(record.executor).has_queue else "running",
            }
        )
    else:
        printing.out(run.name)
        printing.say(f"next: fvlaunch attach {run.name}   (or status, logs, stop)")
    return 0


def fork(
    word: str, step: int, name: str, cluster: str | None, sets: list[str], ranks: int | None, sbatch: dict[str, Any], *,
    wait: bool, take_snapshot: bool, json_: bool, runs_dir: Path | None,
) -> int:  # fmt: skip
    from ..lifecycle.fork import fork as made_of
    from ..planning.warnings import passed_over, warnings_of

    chosen = registry.runs_dir_option(runs_dir)
    old = find(word, runs_dir, to="fork")

    def tell(plan: Any) -> None:
        for line in (*warnings_of(plan), *passed_over(plan)):
            printing.say(line)

    run, plan = made_of(
        old, step, name, cluster, sets=sets, ranks=ranks, sbatch=sbatch, runs_dir=chosen, take_snapshot=take_snapshot, tell=tell
    )
    printing.say(f"{run.name}: starts from step {step} of {old.name}")
    return _submitted(run, plan.summary, wait=wait, json_=json_)


def resume(
    word: str, cluster: str | None, sets: list[str], ranks: int | None, sbatch: dict[str, Any], *,
    assume_dead: str | None, wait: bool, json_: bool, runs_dir: Path | None,
) -> int:  # fmt: skip
    from ..lifecycle import submit as submission
    from ..planning import notify_check, planner
    from ..planning.warnings import edited_own_files

    run = find_any(word, runs_dir, to="resume")
    if isinstance(run, Pipeline):
        from . import pipelines as pipeline_commands

        return pipeline_commands.resume(run, cluster, sets, ranks, sbatch, assume_dead=assume_dead, wait_=wait, json_=json_)
    plan = planner.plan_resume(run, cluster, sets=sets, ranks=ranks, sbatch=sbatch, look=True)
    nothing_else = not (cluster or sets or ranks or sbatch)
    if nothing_else and (job_id := submission.taken_up(run)) is not None:
        printing.say(f"{run.name}: its job {job_id} is there after all, and is the run's now; nothing was submitted twice")
        return _submitted(run, plan.summary, wait=wait, json_=json_)
    for line in (*plan.notes, *notify_check.warnings_of(plan), *edited_own_files(run, plan)):
        printing.say(line)
    submission.resubmit(run, plan, assume_dead=assume_dead)
    last = run.last_checkpoint_step()
    printing.say(f"{run.name}: goes on {f'from step {last}' if last else 'from the start: there is no checkpoint'}")
    return _submitted(run, plan.summary, wait=wait, json_=json_)
