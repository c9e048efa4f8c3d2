"""Owns `submit --smoke`: three steps, a save, a validation and a resume of the real thing, before many GPUs are asked for.

Must not change the recipe in anything but how long it runs and how often it saves.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import FvlaunchError, UsageError, counted
from ..files import read_lines
from ..lifecycle import submit as submission
from ..planning import planner
from ..planning.plan import free_name
from ..runs.attempts import read_attempts
from ..runs.directory import Run
from . import output as printing
from . import progress

FIRST, LAST = 2, 3
"""Steps before and after the resume."""


def smoke(request: Any, *, take_snapshot: bool, json_: bool) -> int:
    """Submit, wait, resume, wait; print what was seen and return the exit code. `request` is a SubmitRequest."""
    if request.is_pipeline:
        raise UsageError("--smoke is of a single run", hint="name the recipe of a stage")
    composed, plan = request.plan()
    name = request.name or free_name(f"{_plain(request.recipe)}-smoke", plan.runs_dir)
    train = composed.recipe.train
    if train is None:
        raise UsageError("--smoke is of a training recipe", hint="--set narrows others down, e.g. preprocess.source to a few clips")
    sets = [f"train.max_steps={FIRST}", f"train.checkpoint.every_steps={FIRST}", "train.checkpoint.every_minutes=null"]
    if train.callbacks.validation is not None:
        sets.append(f"train.callbacks.validation.every_steps={FIRST}")
    if getattr(train.method, "generator_update_interval", 1) > FIRST:
        sets.append(f"train.method.generator_update_interval={FIRST}")
    _, plan = replace(request, name=name, sets=[*request.sets, *sets]).plan()
    for line in plan.notes:
        printing.say(line)
    run = submission.submit(plan, take_snapshot=take_snapshot, request={**request.words, "smoke": True})
    printing.say(f"{run.name}: {plan.summary}; {FIRST} steps, a save{', a validation' if train.callbacks.validation else ''}")
    _finish(run)
    submission.resubmit(run, planner.plan_resume(run, None, sets=[f"train.max_steps={LAST}"], ranks=None, sbatch={}))
    printing.say(f"{run.name}: resumed for one step more")
    _finish(run)
    return _print_outcome(run, json_=json_)


def _plain(recipe: str) -> str:
    return Path(recipe).stem


def _finish(run: Run) -> None:
    code, status = progress.wait(run)
    if status is None:
        raise FvlaunchError(f"{run.name} was left, and goes on by itself", hint=f"fvlaunch attach {run.name}")
    if code != 0:
        raise FvlaunchError(f"the smoke test is {status.state}: {status.reason}", hint=f"fvlaunch logs {run.name}")


def _print_outcome(run: Run, *, json_: bool) -> int:
    lines, attempts = read_lines(run.metrics_file), read_attempts(run)
    steps, resumed = [line["step"] for line in lines], attempts[-1].step_from
    outcome: dict[str, Any] = {
        "run": run.name,
        "ok": steps == list(range(1, LAST + 1)) and resumed == FIRST,
        "resumed_from": resumed,
        "losses": [line.get("loss") for line in lines],
        "step_s": lines[-1].get("step_s") if lines else None,
        "save_s": max((a.save_s for a in attempts if a.save_s is not None), default=None),
        "path": str(run.path),
    }
    if json_:
        printing.as_json(outcome)
    else:
        save = "unknown" if outcome["save_s"] is None else f"{outcome['save_s']:.1f} s"
        word = "works" if outcome["ok"] else "does not go on where it was"
        printing.say(f"{run.name} {word}: {counted(len(lines), 'step')}, resumed from step {resumed}, a save took {save}")
        printing.out(run.name)
    return 0 if outcome["ok"] else 1
