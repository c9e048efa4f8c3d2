"""Owns what is done to the checkpoints of a run that is not being trained: read, verify, remove, through the trainers' own program."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..errors import FvlaunchError, RunConflict
from ..runs import code_snapshot
from ..runs.directory import Run
from ..schedulers.python_processes import module_command, python_path
from ..schedulers.registry import scheduler
from ..status import liveness
from ..status.run_status import statuses_of
from .unanswered import told

_MENDS_PYTHON = "the interpreter that fvlaunch was installed with is not there any more: install it again"
_MENDS_THAT = "nothing is known of its checkpoints: mend that, and try again"


def check_idle(run: Run) -> None:
    """Refuse where the run's job is alive, or may be. SchedulerUnreachable where nobody answers."""
    record = run.record()
    if record.state == "submitting" and scheduler(record.executor).has_queue:
        hint = f"fvlaunch status {run.name}; fvlaunch cancel {run.name} ends it"
        raise RunConflict(f"it is not known whether the job of {run.name} was taken, so nothing is deleted", hint=hint)
    with told(run.name, f"nobody can say whether its job {record.job_id} still runs, and nothing was deleted", "the same command"):
        alive = liveness.liveness(record)
    if alive is not liveness.Liveness.OVER:
        words = f"is {_state_of(run)}" if alive is liveness.Liveness.ALIVE else "may be running: nobody can say"
        raise RunConflict(f"{run.name} {words} (job {record.job_id}); it prunes its own checkpoints", hint=f"fvlaunch stop {run.name}")


def _state_of(run: Run) -> str:
    """Return what a run whose job is there does: one that is over by its record is just ending."""
    [status], _ = statuses_of([run])
    return f"{status.state}, and its job is just ending" if status.is_over else status.state


def remove_run(run: Run) -> None:
    """A run directory that has done its service. Its record goes first, so that no half of it looks like a run."""
    check_idle(run)
    run.record_file.unlink(missing_ok=True)
    shutil.rmtree(run.path, ignore_errors=True)


def program(what: str, run: Run, *arguments: str) -> list[dict[str, Any]]:
    """Run the trainers' program that verifies or prunes, and return what it says of each checkpoint.

    FvlaunchError where it did not come to its end, whatever it has said until then: no answer is not the answer "no checkpoint".
    """
    argv = module_command(sys.executable, "trainers.checkpointing.maintenance", what, str(run.path), *arguments)
    environment = {**os.environ, "PYTHONPATH": python_path(code_snapshot.source_root())}
    try:
        done = subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise FvlaunchError(f"cannot start {argv[0]} to {what} {run.name}: {error.strerror}", hint=_MENDS_PYTHON) from None
    sys.stderr.write(done.stderr if done.returncode in (0, 1) else "")
    reports = _reports(done.stdout)
    if reports is None or done.returncode not in (0, 1):
        raise FvlaunchError(f"{run.name}: {what} did not come to its end: {_why(done)}", hint=_MENDS_THAT)
    return reports


def _reports(text: str) -> list[dict[str, Any]] | None:
    """Return the program's lines but the last, which counts them; None where that one is missing, or anything else stands there."""
    try:
        *reports, end = [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return None
    return reports if end == {"checkpoints": len(reports)} else None


def _why(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of its errors, or how it ended."""
    said = done.stderr.strip().splitlines()
    if done.returncode < 0:
        return f"it was killed by signal {-done.returncode} ({signal.strsignal(-done.returncode)})"
    return said[-1].removeprefix("error: ") if said else f"it ended with {done.returncode} and without a word"


def checkpoint_of(run: Run, step: int) -> Path:
    """Return the folder of a published checkpoint, every byte of it read; an error says which steps there are."""
    folder = run.checkpoints / f"step-{step:08d}"
    if not folder.is_dir():
        names = sorted(path.name for path in run.checkpoints.glob("step-*") if path.name[5:].isdigit())
        there = ", ".join(str(int(name[5:])) for name in names) or "none"
        raise FvlaunchError(f"{run.name} has no checkpoint of step {step}", hint=f"there are: {there}")
    found = next(iter(program("verify", run, f"--step={step}")), {"problems": ["it is gone"]})
    if found["problems"]:
        raise FvlaunchError(
            f"the checkpoint of step {step} of {run.name} is damaged: {found['problems'][0]}", hint="fork from another step"
        )
    return folder
