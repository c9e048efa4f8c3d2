"""Owns looking after runs that are not running: verify, prune, removing one. The trainers' own program reads and deletes checkpoints.

Must not touch a run whose job may be alive.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import jobs, snapshot
from . import show as printing
from .errors import FvlaunchError, InternalError, RunConflict
from .runconfig import load
from .runs import Run


def verify(run: Run, *, step: int | None, json_: bool) -> int:
    """Every byte of every checkpoint against its manifest, and whether run.yaml still holds; 1 where something is wrong."""
    load(run)
    found = _program("verify", run, *([f"--step={step}"] if step is not None else []))
    if json_:
        printing.as_json(found)
    elif not found:
        printing.say(f"{run.name} has no checkpoint{'' if step is None else f' of step {step}'}")
    else:
        rows = [[str(one["step"]), str(one["files"]), _size(one["bytes"]), "; ".join(one["problems"]) or "verified"] for one in found]
        printing.table(["STEP", "FILES", "SIZE", "FOUND"], rows)
    if step is not None and not found:
        raise FvlaunchError(f"{run.name} has no checkpoint of step {step}", hint=f"fvlaunch verify {run.name} lists them")
    return 1 if any(one["problems"] for one in found) else 0


def prune(run: Run, *, keep_last: int, keep_every: int | None, bad: bool, look: bool, json_: bool) -> int:
    """Delete checkpoints of a run that is not running; 1 where one could not be deleted."""
    if not look:
        check_idle(run)
    every = [f"--keep-every={keep_every}"] if keep_every is not None else []
    flags = [flag for flag, given in (("--bad", bad), ("--look", look)) if given]
    found = _program("prune", run, f"--keep-last={keep_last}", *every, *flags)
    if json_:
        printing.as_json(found)
    else:
        for one in found:
            name = one.get("name") or f"step {one['step']}"
            word = "; ".join(one["problems"]) or ("would be deleted" if look else "deleted")
            printing.out(f"{name}  {_size(one['bytes'])}  {word}")
        freed = sum(one["bytes"] for one in found if one["deleted"] or look)
        printing.say(f"{run.name}: {_size(freed)} {'to be freed' if look else 'freed'}")
    return 1 if any(one["problems"] for one in found) else 0


def check_idle(run: Run) -> None:
    """Refuse where the run's job is alive, or nobody can say."""
    record = run.record()
    alive = jobs.liveness(record)
    if alive is not jobs.Liveness.OVER:
        words = "is running" if alive is jobs.Liveness.ALIVE else "may be running: nobody can say"
        raise RunConflict(f"{run.name} {words} (job {record.job_id}); it prunes its own checkpoints", hint=f"fvlaunch stop {run.name}")


def remove_run(run: Run) -> None:
    """A run directory that has done its service. Its record goes first, so that no half of it looks like a run."""
    check_idle(run)
    run.record_file.unlink(missing_ok=True)
    shutil.rmtree(run.path, ignore_errors=True)


def _program(what: str, run: Run, *arguments: str) -> list[dict[str, Any]]:
    path = os.pathsep.join(part for part in (str(snapshot.source_root()), os.environ.get("PYTHONPATH", "")) if part)
    argv = [sys.executable, "-m", "trainers.upkeep", what, str(run.path), *arguments]
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=False)
    try:
        return [json.loads(line) for line in done.stdout.splitlines()]
    except ValueError:
        raise InternalError(f"trainers.upkeep {what} ended with {done.returncode}: {done.stdout[-500:]}") from None


def _size(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


def checkpoint_of(run: Run, step: int) -> Path:
    """The folder of a published checkpoint, every byte of it read; an error says which steps there are."""
    folder = run.checkpoints / f"step-{step:08d}"
    if not folder.is_dir():
        names = sorted(path.name for path in run.checkpoints.glob("step-*") if path.name[5:].isdigit())
        there = ", ".join(str(int(name[5:])) for name in names) or "none"
        raise FvlaunchError(f"{run.name} has no checkpoint of step {step}", hint=f"there are: {there}")
    [found] = _program("verify", run, f"--step={step}")
    if found["problems"]:
        raise FvlaunchError(
            f"the checkpoint of step {step} of {run.name} is damaged: {found['problems'][0]}", hint="fork from another step"
        )
    return folder
