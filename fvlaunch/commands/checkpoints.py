"""Owns looking after runs that are not running: verify, prune, removing one. The trainers' own program reads and deletes checkpoints.

Must not touch a run whose job may be alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import FvlaunchError
from ..lifecycle.stored_checkpoints import check_idle, program
from ..runs import ownership
from ..runs.directory import Run
from ..runs.pipeline_directory import Pipeline
from ..runs.run_config import load
from ..runs.run_names import pipeline_refused
from . import output as printing


def verify(run: Run, *, step: int | None, json_: bool) -> int:
    """Read every byte of every checkpoint against its manifest, and run.yaml; return 1 where something is wrong."""
    load(run)
    results = program("verify", run, *([f"--step={step}"] if step is not None else []))
    if json_:
        printing.as_json(results)
    elif not results:
        printing.say(f"{run.name} has no checkpoint{'' if step is None else f' of step {step}'}")
    else:
        rows = [[str(one["step"]), str(one["files"]), _size(one["bytes"]), "; ".join(one["problems"]) or "verified"] for one in results]
        printing.table(["STEP", "FILES", "SIZE", "FOUND"], rows)
    if step is not None and not results:
        raise FvlaunchError(f"{run.name} has no checkpoint of step {step}", hint=f"fvlaunch verify {run.name} lists them")
    return 1 if any(one["problems"] for one in results) else 0


def prune(found: Sequence[Run | Pipeline], *, keep_last: int, keep_every: int | None, bad: bool, look: bool, json_: bool) -> int:
    """Delete checkpoints of runs that are not running; return 1 where one could not be deleted. --json: one list for all."""
    deleted: list[dict[str, Any]] = []

    def of_one(run: Run) -> int:
        results = _pruned(run, keep_last=keep_last, keep_every=keep_every, bad=bad, look=look)
        if json_:
            deleted.extend({"run": run.name, **one} if len(runs) > 1 else one for one in results)
        else:
            _print_pruned(run, results, look)
        return 1 if any(one["problems"] for one in results) else 0

    runs = [run for one in found for run in (one.stages if isinstance(one, Pipeline) and len(found) > 1 else [_single(one)])]
    code = printing.each(runs, of_one)
    if json_:
        printing.as_json(deleted)
    return code


def _single(found: Run | Pipeline) -> Run:
    if isinstance(found, Pipeline):
        raise pipeline_refused(found)
    return found


def _pruned(run: Run, *, keep_last: int, keep_every: int | None, bad: bool, look: bool) -> list[dict[str, Any]]:
    ownership.check_mine(run, "prune")
    if not look:
        check_idle(run)
    every = [f"--keep-every={keep_every}"] if keep_every is not None else []
    flags = [flag for flag, given in (("--bad", bad), ("--look", look)) if given]
    return program("prune", run, f"--keep-last={keep_last}", *every, *flags)


def _print_pruned(run: Run, results: Sequence[dict[str, Any]], look: bool) -> None:
    for one in results:
        name = one.get("name") or f"step {one['step']}"
        word = "; ".join(one["problems"]) or ("would be deleted" if look else "deleted")
        printing.out(f"{name}  {_size(one['bytes'])}  {word}")
    freed = sum(one["bytes"] for one in results if one["deleted"] or look)
    printing.say(f"{run.name}: {_size(freed)} {'to be freed' if look else 'freed'}")


def _size(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"
