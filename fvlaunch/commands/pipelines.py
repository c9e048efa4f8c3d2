"""Owns what submit, resume, wait, stop and cancel do, and print, where the name that was typed is a pipeline's.

Must not know how a stage is submitted or judged: lifecycle and status do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import UsageError
from ..runs import registry
from ..runs.directory import Run
from ..runs.pipeline_directory import Pipeline
from ..schedulers.registry import scheduler
from . import output as printing
from .progress import describe


def plan(
    pipeline: str, cluster: str | None, sets: Sequence[str], name: str | None, ranks: int | None, nodes: int | None,
    sbatch: Mapping[str, Any], runs_dir: Path | None,
) -> Any:  # fmt: skip
    """Return the PipelinePlan of a command line; options that only make sense for a single run are refused."""
    from ..planning.pipeline_plan import plan_pipeline

    if ranks is not None or nodes is not None:
        raise UsageError("--ranks and --nodes are of a single run", hint="--set STAGE.resources.ranks=N, for each stage that needs it")
    return plan_pipeline(pipeline, cluster, sets=sets, name=name, sbatch=sbatch, runs_dir=runs_dir)


def dry_run(pipeline_plan: Any, *, traced: bool = False, json_: bool) -> None:
    from ..config.strict_yaml import dump
    from ..lifecycle.pipeline_submit import chained
    from ..planning import warnings
    from . import dry_run as dry_run_command

    stages = []
    for number, stage in enumerate(pipeline_plan.stages):
        stage_plan = chained(stage, f"JOB-OF-{pipeline_plan.stages[number - 1].name}" if number else None)
        script = dry_run_command.script(stage_plan)
        one = {"run": stage.full_name, "summary": stage.summary, "recipe": stage.recipe, "batch_script": script}
        stages.append({**one, "memory": dry_run_command.memory(stage, traced=traced)})
    if json_:
        printing.as_json({"run": pipeline_plan.name, "path": pipeline_plan.path, "summary": pipeline_plan.summary, "stages": stages})
        return
    printing.say(f"{pipeline_plan.name}: {pipeline_plan.summary}; nothing was submitted")
    for one in stages:
        printing.out(f"# --- {one['run']}: {one['summary']}\n{dump(one['recipe'])}{one['batch_script'] or ''}")
    for stage in pipeline_plan.stages:
        for line in (*stage.notes, *warnings.memory_lines(stage)):
            printing.say(line)
        if traced:
            dry_run_command.say_traced(stage)


def submit(pipeline_plan: Any, *, words: dict[str, Any], take_snapshot: bool, wait_: bool, json_: bool) -> int:
    from ..lifecycle import repeated
    from ..lifecycle.pipeline_submit import submit as submit_pipeline
    from ..planning import warnings

    repeated.check_pipeline(pipeline_plan, words)

    for line in dict.fromkeys(line for stage in pipeline_plan.stages for line in warnings.warnings_of(stage)):
        printing.say(line)
    pipeline = submit_pipeline(pipeline_plan, take_snapshot=take_snapshot, request=words)
    for run, stage in zip(pipeline.stages, pipeline_plan.stages, strict=True):
        printing.say(f"{run.name}: {stage.summary}; {_job(run)}")
    return _submitted(pipeline, wait_=wait_, json_=json_)


def _job(run: Run) -> str:
    record = run.record()
    return f"job {record.job_id}" if record.job_id else "starts when the stage before it is finished"


def _submitted(pipeline: Pipeline, *, wait_: bool, json_: bool) -> int:
    if unknown := registry.unremembered(pipeline.path):
        printing.say(unknown)
    if wait_:
        return wait(pipeline, quiet=False, json_=json_)
    if json_:
        stages = [{"run": run.name, "job_id": run.record().job_id, "path": str(run.path)} for run in pipeline.stages]
        turn = next((run.record() for run in pipeline.stages if run.record().state != "finished"), pipeline.stages[-1].record())
        state = "queued" if scheduler(turn.executor).has_queue else "running"
        printing.as_json({"run": pipeline.name, "job_id": turn.job_id, "path": str(pipeline.path), "state": state, "stages": stages})
    else:
        printing.out(pipeline.name)
        printing.say(f"next: fvlaunch attach {pipeline.name}   (or status, stop; a stage is {pipeline.stages[0].name})")
    return 0


def resume(
    pipeline: Pipeline, cluster: str | None, sets: Sequence[str], ranks: int | None, sbatch: Mapping[str, Any], *,
    assume_dead: str | None, wait_: bool, json_: bool,
) -> int:  # fmt: skip
    from ..lifecycle.pipeline_submit import resume as resume_pipeline

    if ranks is not None:
        raise UsageError("--ranks is of a single run", hint="--set STAGE.resources.ranks=N")
    by_stage = _by_stage([run.path.name for run in pipeline.stages], sets)
    for run in resume_pipeline(pipeline, cluster, sets=by_stage, sbatch=sbatch, assume_dead=assume_dead, tell=printing.say):
        last = run.last_checkpoint_step()
        printing.say(f"{run.name}: goes on {f'from step {last}' if last else 'from the start'}; {_job(run)}")
    return _submitted(pipeline, wait_=wait_, json_=json_)


def _by_stage(names: Sequence[str], sets: Sequence[str]) -> dict[str, list[str]]:
    """Return each stage's own --set out of --set STAGE.key=value; one for the cluster is every stage's."""
    by_stage: dict[str, list[str]] = {name: [] for name in names}
    for text in sets:
        stage, _, rest = text.partition(".")
        if stage == "cluster":
            for own in by_stage.values():
                own.append(text)
        elif stage not in by_stage or not re.match(r"[^=.]", rest):
            raise UsageError(f"--set {text}: no stage is called {stage!r}", hint=f"--set STAGE.key=value; stages: {', '.join(names)}")
        else:
            by_stage[stage].append(rest)
    return by_stage


def wait(pipeline: Pipeline, *, quiet: bool, json_: bool) -> int:
    from .next_steps import what_next
    from .progress import wait_for_pipeline as wait_for

    code, whole = wait_for(pipeline, quiet=quiet)
    if whole is None:
        return code
    if json_:
        printing.as_json(whole.dump())
        return code
    for stage in whole.stages:
        printing.say(describe(stage))
    printing.say(f"{whole.run}  {whole.state}" + (f"  ({whole.reason.splitlines()[0]})" if whole.reason else ""))
    if whole.state == "finished":
        printing.say(what_next(pipeline.stages[-1], whole.stages[-1]))
    else:
        printing.say(f"next:     fvlaunch logs {whole.current.run}\n          fvlaunch resume {pipeline.name}")
    return code


def end(pipeline: Pipeline, want: Literal["stop", "cancel"]) -> None:
    from ..lifecycle import stop

    for line in stop.end_pipeline(pipeline, want):
        printing.say(line)
