"""Owns what a submission is warned of before anything is queued, such as memory of a GPU and room for checkpoints.

Must not submit, print or change anything.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import own_files
from ..config import secrets as secret_values
from ..config.compose import Composed
from ..errors import FvlaunchError
from ..runs import code_snapshot
from ..runs.directory import Run
from . import gpu_memory, lockfile, notify_check
from .gpu_memory import gb
from .plan import Plan

# --- memory


def memory_lines(plan: Plan) -> list[str]:
    """Return the estimate of a rank's memory in lines, and the warnings that follow from it."""
    needs = gpu_memory.estimated(plan)
    return [] if needs is None else [*gpu_memory.lines(plan, needs), *too_much(plan, needs), *too_full(plan), *trajectories(plan)]


def trajectories(plan: Plan) -> list[str]:
    """Return what it costs to make a teacher's trajectories before the first step, in a line, where the configuration or the cache says how
    many there will be, or nothing here does; where the data say it, whoever looks at these tells it."""
    from trainers.config.trajectory_cost import trajectory_cost

    from ..config.schema import Recipe

    train = Recipe.model_validate(plan.recipe).train
    cost = trajectory_cost(train) if train is not None else None
    if train is None or cost is None:
        return []
    told_by_data = cost.missing is None and all(Path(folder).exists() for folder in train.data.folders)
    return [] if told_by_data else [line for line in [cost.line(plan.ranks)] if line]


def too_much(plan: Plan, needs: Any | None = None) -> list[str]:
    """Warn where the cluster says how large its GPUs are, and they are smaller than the estimate."""
    there = plan.cluster.get("gpu_memory_gb")
    needs = gpu_memory.estimated(plan) if needs is None and there is not None else needs
    if there is None or needs is None or gpu_memory.needed(needs) <= there * gpu_memory.GB:
        return []
    ways = "shard over more ranks, a smaller micro_batch_size, or activation_checkpointing: full"
    return [f"warning: about {gb(gpu_memory.needed(needs))} are needed, and a GPU of {plan.cluster_name} has {there:g} GB\nhint: {ways}"]


def too_full(plan: Plan) -> list[str]:
    """Warn where the checkpoints that a run keeps, and the one being written, are more than what is free."""
    keep = plan.recipe.get("train", {}).get("checkpoint", {})
    needs = gpu_memory.estimated(plan)
    if needs is None or not needs.checkpoint:
        return []
    kept = int(keep.get("keep_last") or 3) + 1
    every = keep.get("keep_every_steps")
    required = needs.checkpoint * (kept + (plan.max_steps // every if every else 0))
    free = _free(plan.runs_dir)
    if free is None or required <= free:
        return []
    message = f"warning: checkpoints take up to {gb(required)} ({gb(needs.checkpoint)} each), and {plan.runs_dir} has {gb(free)} free"
    return [f"{message}\nhint: train.checkpoint.keep_last and keep_every_steps; fvlaunch prune of older runs; another runs_dir"]


def warnings(composed: Composed, plan: Plan) -> list[str]:
    """Return all warnings of a submission; none of them stops it."""
    return [*warnings_of(plan), *passed_over(plan), *hidden_modules(os.environ), *drift(composed, plan)]


def warnings_of(plan: Plan) -> list[str]:
    return [*plan.notes, *too_much(plan), *too_full(plan), *trajectories(plan), *without_secrets(plan), *notify_check.warnings_of(plan)]


def without_secrets(plan: Plan) -> list[str]:
    """Warn of each secret that the profile names and that is nowhere to be found here; an error where others could read it."""
    missing = [name for name in plan.secrets if secret_values.where(name) is None]
    return [f"warning: the secret {name} is not set\nhint: export {name}=..., or chmod 600 {secret_values.file(name)}" for name in missing]


def edited_own_files(run: Run, plan: Plan) -> list[str]:
    """Return a warning for each of the user's own Python files, and of what they import, that is not as it was when the run was made.

    A resume runs the run's copy; where it has none (--no-snapshot), the file as it is.
    """
    copies, lines = code_snapshot.own_copies(run), []
    before: Any = lockfile.of_file(run.config_file).get("code") or {}
    try:
        now = own_files.all_copies(plan.recipe.get("train") or {}, {})
    except FvlaunchError:  # since it was edited: two modules have one name
        return []
    for name, digest in own_files.digests(now).items():
        file, copy = now[name], copies.get(name)
        if copy is not None and own_files.digests({name: copy}) != {name: digest}:
            use = f"hint: to use the edit: cp {'-r ' if copy.is_dir() else ''}{file} {copy.parent if copy.is_dir() else copy}"
            lines.append(f"warning: {file} is not as it was submitted; the run goes on with its copy\n{use}")
        elif not copies and before.get(name, digest) != digest:
            lines.append(f"warning: {file} is not as it was submitted, and goes on as it is: this run has no copy of it (--no-snapshot)")
    gone = sorted(name for name in before.keys() - now.keys() if name.startswith(f"{own_files.IMPORTS}/") and not copies)
    return lines + [f"warning: {Path(name).name} was imported by a file of yours, and is not there any more" for name in gone]


def passed_over(plan: Plan) -> list[str]:
    """Return a line for each import of an own file for which something lies beside it that is not taken."""
    files = [plan.own_copies.get(file, file) for file in own_files.copies(plan.recipe.get("train") or {})]
    return [f"note: {line}" for line in own_files.passed_over(files)]


def hidden_modules(environment: Mapping[str, str]) -> list[str]:
    """Warn where a folder of PYTHONPATH holds a module with the name of one of Python's own, which it then hides from every program."""
    lines = []
    for folder in filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)):
        try:
            names = {path.stem for path in Path(folder).iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
        except OSError:
            continue
        if hidden := ", ".join(sorted(names & sys.stdlib_module_names)[:5]):
            hint = "hint: rename it, or take the folder out of PYTHONPATH"
            lines.append(f"warning: {folder} is in PYTHONPATH, and its {hidden} hides Python's own\n{hint}")
    return lines


def _free(folder: Path) -> int | None:
    there = next((path for path in (folder, *folder.parents) if path.is_dir()), None)
    try:
        return shutil.disk_usage(there).free if there is not None else None
    except OSError:
        return None


# --- a run that is repeated


def drift(composed: Composed, plan: Plan) -> list[str]:
    """Warn, where a run.yaml is submitted, of what is no longer as its lock says, and say how to get it again."""
    if not composed.lock:
        return []
    changes = lockfile.differences(composed.lock, lockfile.make(plan, {}))
    lines = [f"warning: not as when {composed.recipe_path} was written: {line}" for line in changes]
    code = composed.recipe_path.parent / "code"
    if any(line.startswith(("git", "code")) for line in changes) and (code / "fvlaunch").is_dir():
        lines.append(f"hint: its own code repeats it: PYTHONPATH={shlex.quote(str(code))} python -m fvlaunch submit ...")
    return lines
