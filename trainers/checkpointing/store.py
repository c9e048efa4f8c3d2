"""Owns the folder `checkpoints/`: temporary folders, publishing by rename, quarantine, pruning. Only rank 0 changes it.

Must not import torch or know what is inside a checkpoint beyond its manifest. Whatever instant the process dies at, a
folder called step-* is a whole checkpoint, or one that pruning had begun to delete (then its manifest is gone first).
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

from ..files import FileEntry, digest_file, fsync_path
from . import manifest as manifests
from .manifest import MANIFEST, Manifest
from .step_names import STEP_NAME, step_name, step_of

_TEMPORARY = re.compile(rf"\.{STEP_NAME}\.\w+")
_QUARANTINED = re.compile(rf"{STEP_NAME}(\.\d+)?\.bad")


def folder_of(directory: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return directory / step_name(step)


def steps(directory: Path) -> list[int]:
    """Return the steps of all folders with a published name, oldest first, sound or not."""
    return sorted(step for name in _names(directory) if (step := step_of(name)) is not None)


def quarantined(directory: Path) -> list[str]:
    """Return the names of the damaged checkpoints that were put aside."""
    return sorted(name for name in _names(directory) if _QUARANTINED.fullmatch(name))


def new_temporary(directory: Path, step: int) -> Path:
    """Make a folder in which the checkpoint of a step is written before it is published."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{step_name(step)}.{secrets.token_hex(4)}"
    temporary.mkdir()
    return temporary


def remove_leftovers(directory: Path) -> list[str]:
    """Delete the temporary folders of dead attempts; return what could not be deleted, a line each."""
    return [problem for name in _names(directory) if _TEMPORARY.fullmatch(name) for problem in delete(directory / name)]


def add(temporary: Path, contents: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """Write files beside the shards of a checkpoint that is not published yet; return their sizes and digests, by name."""
    for name, content in contents.items():
        (temporary / name).write_bytes(content)
        fsync_path(temporary / name)
    return {name: digest_file(temporary / name) for name in contents}


def publish(temporary: Path, manifest: Manifest) -> bool:
    """Make `temporary` the checkpoint of its step, durably, and return True; False where a whole one is there: then `temporary` goes."""
    target = folder_of(temporary.parent, manifest.step)
    if target.exists():
        if manifests.is_complete(target):
            delete(temporary)
            return False
        quarantine(target)
    manifests.write(temporary, manifest)
    os.rename(temporary, target)  # noqa: PTH104  refuses a folder that is not empty
    fsync_path(target.parent)
    return True


def quarantine(folder: Path) -> Path:
    """Put a damaged checkpoint aside as NAME.bad and return its new path; nothing is deleted."""
    names = (f"{folder.name}.bad" if n == 1 else f"{folder.name}.{n}.bad" for n in count(1))
    target = next(folder.parent / name for name in names if not (folder.parent / name).exists())
    folder.rename(target)
    fsync_path(folder.parent)
    return target


def prune(directory: Path, *, keep_last: int, keep_every: int | None, protected: int | None) -> list[str]:
    """Delete what the policy does not keep, oldest first; return what could not be deleted.

    Only complete checkpoints count as kept, so a damaged newest one does not cost the last good one. Folders without a manifest that
    are older than all of these are deletions that did not finish: they are finished. Newer ones are left to whoever loads.
    """
    published = steps(directory)
    newest = [step for step in published if manifests.is_complete(folder_of(directory, step))][-max(keep_last, 2) :]
    if len(newest) < 2:
        return []
    stale = [step for step in published if step < newest[0] and step != protected and not (keep_every and step % keep_every == 0)]
    return [problem for step in stale for problem in delete(folder_of(directory, step))]


def delete(folder: Path, unlink: Callable[[Path], None] = Path.unlink) -> list[str]:
    """Delete a checkpoint, its manifest first, so that no half-deleted folder looks like one; return what failed, a line a cause."""
    problem = _attempt(folder / MANIFEST, unlink)
    if problem:
        return [f"{folder.name}: {problem}"]
    try:
        if not _TEMPORARY.fullmatch(folder.name):  # which nobody takes for one: a failing disk need not be waited for
            fsync_path(folder)
        problems = {_attempt(path, unlink) for path in list(folder.iterdir())} - {""}
    except FileNotFoundError:
        return []
    except OSError as error:
        problems = {str(error.strerror)}
    problems = problems or {_attempt(folder, Path.rmdir)} - {""}
    return [f"{folder.name}: {problem}" for problem in sorted(problems)]


def _attempt(path: Path, action: Callable[[Path], None]) -> str:
    try:
        action(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        return str(error.strerror)
    return ""


def _names(directory: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
