"""Owns `fvlaunch fork`: a new run that starts from a checkpoint of another. Must not change the old run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.compose import compose
from ..errors import FvlaunchError, UsageError
from ..files import fsync_directory, publish_text, read_lines
from ..planning import planner
from ..planning.input_contents import check_contents
from ..planning.plan import Plan
from ..planning.preflight import check_inputs
from ..runs.directory import Run
from ..runs.events import whole_metrics
from . import stored_checkpoints
from . import submit as submission


def fork(
    old: Run, step: int, name: str, cluster: str | None, *, sets: Sequence[str], ranks: int | None, sbatch: Mapping[str, Any],
    runs_dir: Path | None, take_snapshot: bool, tell: Callable[[Plan], None],
) -> tuple[Run, Plan]:  # fmt: skip
    """Make the new run and its job. Anything may be set that the checkpoint still fits; what does not fit ends the run with the keys.

    `tell` gets the plan before anything of it is done, to say what a person should know.
    """
    source = stored_checkpoints.checkpoint_of(old, step)
    composed = compose(str(old.config_file), cluster, sets=sets)
    if composed.recipe.train is None:
        raise UsageError(f"{old.name} is not a training run", hint="submit its run.yaml again")
    plan = planner.plan_of(composed, name=name, ranks=ranks, nodes=None, sbatch=sbatch, runs_dir=runs_dir or old.path.parent)
    if plan.max_steps <= step:
        raise FvlaunchError(f"max_steps is {plan.max_steps}, and step {step} is done", hint=f"--set train.max_steps={2 * step}")
    check_inputs(composed)
    jumps = planner.rate_jumps(compose(str(old.config_file)), composed, step)
    plan = replace(plan, notes=(*plan.notes, *check_contents(composed, ranks=plan.ranks), *jumps))

    def fill(new: Run) -> None:
        copy_checkpoint(source, new.checkpoints)
        _copy_metrics(old, new, step)

    submission.check_scheduler(plan)
    tell(plan)
    run = submission.submit(plan, take_snapshot=take_snapshot, request={"fork": old.name, "step": step, "set": list(sets)}, fill=fill)
    return run, plan


def copy_checkpoint(source: Path, checkpoints: Path) -> None:
    """Links where both lie on one file system (a published file is never written again), copies elsewhere; published by rename."""
    temporary = checkpoints / f".{source.name}.fork"
    temporary.mkdir(mode=0o700)
    for path in sorted(source.iterdir()):
        try:
            os.link(path, temporary / path.name)
        except OSError:
            shutil.copy2(path, temporary / path.name)
    fsync_directory(temporary)
    temporary.rename(checkpoints / source.name)
    fsync_directory(checkpoints)


def _copy_metrics(old: Run, new: Run, step: int) -> None:
    """What the old run told up to the step: curves then begin at 1."""
    lines = [json.dumps(line) for line in whole_metrics(read_lines(old.metrics_file)) if line["step"] <= step]
    publish_text(new.metrics_file, "".join(f"{line}\n" for line in lines))
