"""Owns looking after runs that are not running: verify, prune, removing one. The trainers' own program reads and deletes checkpoints.

Must not touch a run whose job may be alive.
"""

from __future__ import annotations

from ..errors import FvlaunchError
from ..lifecycle.stored_checkpoints import check_idle, program
from ..runs.directory import Run
from ..runs.run_config import load
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


def prune(run: Run, *, keep_last: int, keep_every: int | None, bad: bool, look: bool, json_: bool) -> int:
    """Delete checkpoints of a run that is not running; return 1 where one could not be deleted."""
    if not look:
        check_idle(run)
    every = [f"--keep-every={keep_every}"] if keep_every is not None else []
    flags = [flag for flag, given in (("--bad", bad), ("--look", look)) if given]
    results = program("prune", run, f"--keep-last={keep_last}", *every, *flags)
    if json_:
        printing.as_json(results)
    else:
        for one in results:
            name = one.get("name") or f"step {one['step']}"
            word = "; ".join(one["problems"]) or ("would be deleted" if look else "deleted")
            printing.out(f"{name}  {_size(one['bytes'])}  {word}")
        freed = sum(one["bytes"] for one in results if one["deleted"] or look)
        printing.say(f"{run.name}: {_size(freed)} {'to be freed' if look else 'freed'}")
    return 1 if any(one["problems"] for one in results) else 0


def _size(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"
