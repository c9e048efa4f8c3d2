"""Owns what is done to the checkpoints of a run that is not being trained: read, verify, remove, through the trainers' own program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..errors import FvlaunchError, InternalError, RunConflict
from ..runs import code_snapshot
from ..runs.directory import Run
from ..schedulers.python_processes import module_command, python_path
from ..status import liveness


def check_idle(run: Run) -> None:
    """Refuse where the run's job is alive, or nobody can say."""
    record = run.record()
    alive = liveness.liveness(record)
    if alive is not liveness.Liveness.OVER:
        words = "is running" if alive is liveness.Liveness.ALIVE else "may be running: nobody can say"
        raise RunConflict(f"{run.name} {words} (job {record.job_id}); it prunes its own checkpoints", hint=f"fvlaunch stop {run.name}")


def remove_run(run: Run) -> None:
    """A run directory that has done its service. Its record goes first, so that no half of it looks like a run."""
    check_idle(run)
    run.record_file.unlink(missing_ok=True)
    shutil.rmtree(run.path, ignore_errors=True)


def program(what: str, run: Run, *arguments: str) -> list[dict[str, Any]]:
    argv = module_command(sys.executable, "trainers.checkpointing.maintenance", what, str(run.path), *arguments)
    done = subprocess.run(
        argv, env={**os.environ, "PYTHONPATH": python_path(code_snapshot.source_root())}, stdout=subprocess.PIPE, text=True, check=False
    )
    try:
        return [json.loads(line) for line in done.stdout.splitlines()]
    except ValueError:
        raise InternalError(f"trainers.checkpointing.maintenance {what} ended with {done.returncode}: {done.stdout[-500:]}") from None


def checkpoint_of(run: Run, step: int) -> Path:
    """Return the folder of a published checkpoint, every byte of it read; an error says which steps there are."""
    folder = run.checkpoints / f"step-{step:08d}"
    if not folder.is_dir():
        names = sorted(path.name for path in run.checkpoints.glob("step-*") if path.name[5:].isdigit())
        there = ", ".join(str(int(name[5:])) for name in names) or "none"
        raise FvlaunchError(f"{run.name} has no checkpoint of step {step}", hint=f"there are: {there}")
    [found] = program("verify", run, f"--step={step}")
    if found["problems"]:
        raise FvlaunchError(
            f"the checkpoint of step {step} of {run.name} is damaged: {found['problems'][0]}", hint="fork from another step"
        )
    return folder
