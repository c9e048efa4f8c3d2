"""Owns finding what was submitted before, the same to the letter, and not answered: who types a command again after an error means that
run, and not a second one. Must not submit anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ..config import strict_yaml
from ..errors import FvlaunchError, RunConflict
from ..planning import lockfile
from ..planning.pipeline_plan import PipelinePlan
from ..planning.plan import Plan, default_name
from ..runs.directory import Record, Run
from ..runs.pipeline_directory import Pipeline
from . import unanswered
from .job_records import adopt, unanswered_tokens

NEWEST = 30
"""So many folders with a recipe's name are looked into: who types a command again does so before long."""


def taken_up(plan: Plan, *, named: bool) -> tuple[Run, str] | None:
    """Return the run that the same command has made without an answer, and its job, which is there and is the run's now.

    None where there is no such run. SchedulerUnreachable where there is still no answer, RunConflict where no job of it is there.
    `named`: a person has named the run, and only one of that name is meant.
    """
    run = _unanswered_before(plan, named)
    if run is None:
        return None
    record = run.record()
    so = "it was submitted before by the same command, and nothing is submitted twice"
    with unanswered.told(run.name, so, f"fvlaunch resume {run.name}"):
        job_id = adopt(run, record)
    if job_id is None:
        when = time.strftime("%H:%M", time.localtime(record.submitted_at))
        hint = f"fvlaunch resume {run.name} submits it; another --name makes another run"
        raise RunConflict(f"{run.name}, which is the same, was submitted at {when} without an answer, and has no job yet", hint=hint)
    return run, job_id


def check_pipeline(plan: PipelinePlan, words: dict[str, Any]) -> None:
    """Refuse a pipeline that the same command has made, and whose jobs are not all there for want of an answer."""
    asked = strict_yaml.parse(strict_yaml.dump(words), "").plain
    for path in _newest(plan.path.parent, plan.pipeline):
        pipeline = Pipeline(path)
        try:
            waits = any(_waits_for_an_answer(run, run.record()) for run in pipeline.stages)
            again = waits and lockfile.of_file(pipeline.stages[0].config_file).get("asked") == asked
        except (FvlaunchError, OSError, IndexError):
            continue
        if again:
            hint = f"fvlaunch resume {pipeline.name} takes up its jobs and submits the others; another --name makes another pipeline"
            raise RunConflict(f"{pipeline.name}, which is the same, was submitted before without an answer", hint=hint)


def _unanswered_before(plan: Plan, named: bool) -> Run | None:
    for path in [plan.path] if named else _newest(plan.runs_dir, plan.recipe_name):
        run = Run(path)
        try:
            if run.record_file.is_file() and _waits_for_an_answer(run, run.record()) and _is_same(run, plan):
                return run
        except (FvlaunchError, OSError):
            continue
    return None


def _waits_for_an_answer(run: Run, record: Record) -> bool:
    return record.state == "submitting" and record.job_id is None and record.token in unanswered_tokens(run)


def _is_same(run: Run, plan: Plan) -> bool:
    """Return whether a run's resolved configuration is a plan's, as both are written."""
    stored = strict_yaml.load(run.config_file)[0]
    planned = strict_yaml.parse(strict_yaml.dump({"recipe": plan.recipe, "cluster": plan.cluster}), "").plain
    return bool({key: stored.get(key) for key in planned} == planned)


def _newest(folder: Path, recipe: str) -> Iterator[Path]:
    """Yield the newest folders that were named after a recipe or pipeline, by their names: these end with the time."""
    stem = default_name(recipe, datetime.now())[: -len("YYYYmmdd-HHMMSS")]
    try:
        names = [name for name in os.listdir(folder) if name.startswith(stem)]  # noqa: PTH208  only the names
    except OSError:
        return
    yield from (folder / name for name in sorted(names, reverse=True)[:NEWEST])
