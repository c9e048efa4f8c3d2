"""Owns the copy of the code that every attempt of a run uses, ours and the user's, and what it was: commit, edits since, digest.

Must not run it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import own_files
from ..errors import FvlaunchError
from ..files import publish_text
from .directory import Run

PACKAGES = ("fvlaunch", "trainers")
DATA = ("templates", "clusters")
"""What the packages read beside themselves; in a wheel it is inside of them."""
PATCH = "source.patch"
"""In the copy: what a dirty tree had beyond its commit, for `git apply`."""
_MAX_PATCH = 20_000_000
UNRECORDED = "# There were edits, which could not be written as a patch (too large, or no room where git writes).\n"
"""Stands for a patch that could not be made: edited code is never told as clean."""


def source_root() -> Path:
    """Return the folder that holds our packages, in a checkout or in site-packages."""
    return Path(__file__).resolve().parents[2]


def take(run: Run) -> Path:
    """Copy the packages into the run: an edit between submit and requeue must change nothing."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for folder in (*PACKAGES, *(DATA if _is_checkout() else ())):
        try:
            shutil.copytree(source_root() / folder, run.code / folder, ignore=ignored, copy_function=_copy)
        except shutil.Error as error:  # of folders; one for each that could not be made
            raise _not_copied(run.code / folder, str(error.args[0][0][2])) from None
    if text := patch():
        publish_text(run.code / PATCH, text, errors="surrogateescape")  # byte by byte what git said
    return run.code


def take_own_files(run: Run, copied: Mapping[str, Path]) -> None:
    """Copy the user's own files and what they import (own_files.all_copies) beside the packages, for the same reason. A missing one the
    rank will tell."""
    for name, place in copied.items():
        for source in own_files.files_of(place):
            target = run.code / own_files.FOLDER / name / source.relative_to(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_file():
                _copy(source, target)


def _copy(source: Path | str, target: Path | str) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise _not_copied(target, error.strerror or str(error)) from None


def _not_copied(target: Path | str, why: str) -> FvlaunchError:
    return FvlaunchError(
        f"the code cannot be copied into the run: {target}: {why}", hint="df tells whether that disk is full; --runs-dir DIR"
    )


def own_copies(run: Run) -> dict[str, Path]:
    """By path below their folder the copies that a run has: own files, and what these import."""
    folder = run.code / own_files.FOLDER
    places = [*folder.glob("*.py"), *(folder / own_files.IMPORTS).glob("[!._]*")]
    return {str(place.relative_to(folder)): place for place in sorted(places)}


def code_folder(run: Run) -> Path:
    """Return what the job puts on its path: the copy, or with --no-snapshot the source itself."""
    return run.code if run.code.is_dir() else source_root()


def digest(root: Path, own: Mapping[str, Path]) -> dict[str, str]:
    """Return the digest of a folder's code, every Python file of our packages by place and content; and that of each of the user's own."""
    found = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            found.update(f"{path.relative_to(root)}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return {"sha256": found.hexdigest()} | own_files.digests(own)


def git_state(root: Path) -> dict[str, Any] | None:
    """Return the commit of our own checkout, whether it was edited since, and the edits' digest; None where it is no checkout.

    `root`: the code that is meant, the checkout itself or a copy that `take` has just made of it, whose patch is there already.
    """
    commit = _git("rev-parse", "HEAD").strip() if _is_checkout() else ""
    if not commit:
        return None
    kept = root / PATCH
    text = patch() if root == source_root() else kept.read_text(encoding="utf-8", errors="surrogateescape") if kept.is_file() else ""
    known = text not in ("", UNRECORDED)
    digest_ = {"patch_sha256": hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()} if known else {}
    return {"commit": commit, "dirty": bool(text), **digest_}


def patch() -> str:
    """Return as a patch what our checkout has beyond its commit, new files too; UNRECORDED where that cannot be made, empty where it is
    clean, no checkout, or git is not here.

    An index of its own and a store of its own: neither the user's index nor the repository is touched.
    """
    if not _is_checkout() or not _git("status", "--porcelain", "--", *PACKAGES, *DATA).strip():
        return ""
    try:
        text = _difference()
    except OSError:
        text = ""
    return text if 0 < len(text) < _MAX_PATCH else UNRECORDED


def _difference() -> str:
    objects = _git("rev-parse", "--git-path", "objects").strip()
    with tempfile.TemporaryDirectory(prefix="fvlaunch-") as folder:
        place = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((source_root() / objects).absolute()),
        }
        _git("read-tree", "HEAD", environment=place)
        _git("add", "--all", "--", *PACKAGES, *DATA, environment=place)
        return _git("diff", "--cached", "--binary", "--no-color", "--no-ext-diff", "HEAD", "--", *PACKAGES, *DATA, environment=place)


def _is_checkout() -> bool:
    return (source_root() / ".git").exists()


def _git(*arguments: str, environment: dict[str, str] | None = None) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(source_root()), *arguments], capture_output=True, text=True, errors="surrogateescape", timeout=20,
            check=False, stdin=subprocess.DEVNULL, env={**kept, **(environment or {})},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
