"""Owns whose a run is, and what a person is told of one that is somebody else's. Must not read what is in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import FvlaunchError
from .directory import PIPELINE_FILE, Run
from .pipeline_directory import Pipeline
from .registry import indexed


def is_mine(path: Path) -> bool:
    """Say whether a run is this account's: by its owner, or by the index where a file system knows owners by other numbers.

    An administrator's are all.
    """
    try:
        return os.geteuid() in (0, path.stat().st_uid) or str(path.resolve()) in indexed()
    except OSError:
        return False


def check_mine(run: Run | Pipeline, verb: str) -> None:
    """Refuse to `verb` somebody else's run. A checkpoint is only loaded by its owner: loading one can run code."""
    if is_mine(run.path):
        return
    from trainers.config.os_errors import owner_of

    owner, command = owner_of(run.path), f"fvlaunch {verb} {run.path}"
    if verb in ("export", "sample", "fork"):
        command, owner_only = f"fvlaunch export {run.path} --to DIR", "its checkpoints are loaded only by their owner"
    else:
        owner_only = f"only {owner} can {verb} it"
    anew = "" if verb in ("export", "sample") else f"; fvlaunch submit {run.path}/run.yaml makes one like it that is yours"
    raise FvlaunchError(f"{run.name} is {owner}'s run: {owner_only}", hint=f"ask {owner} for {command}{anew}")


def check_readable(path: Path) -> None:
    """Refuse a run that is there and cannot be read, in words that name its owner."""
    for part in (path, path / "run.json", path / PIPELINE_FILE):
        if not _may_be_closed(part):
            continue
        from trainers.config.os_errors import not_readable  # not loaded for the many that are open

        refusal = not_readable(part)
        if refusal is None:
            continue
        ask = f"ask {refusal.owner} for what you need of it (fvlaunch status; fvlaunch export {path.name} --to DIR), or to open it to you"
        raise FvlaunchError(f"{path.name} cannot be read: {refusal.message}", hint=ask if refusal.owner else refusal.hint)


def _may_be_closed(path: Path) -> bool:
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return not os.access(path, os.R_OK | (os.X_OK if is_folder else 0))
