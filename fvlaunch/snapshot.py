"""Owns the copy of our own code that every attempt of a run uses, and the lock that says what it was. Must not run it."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from .plan import Plan
from .runs import Run

PACKAGES = ("fvlaunch", "trainers")
_VERSIONS = ("fvlaunch", "torch", "diffusers", "transformers", "peft", "submitit", "pyarrow", "safetensors")


def source_root() -> Path:
    """The folder that holds our packages, in a checkout or in site-packages."""
    return Path(__file__).resolve().parent.parent


def take(run: Run) -> Path:
    """Copy the packages into the run: an edit between submit and requeue must change nothing."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for package in PACKAGES:
        shutil.copytree(source_root() / package, run.code / package, ignore=ignored)
    return run.code


def code_folder(run: Run) -> Path:
    """What the job puts on its path: the copy, or with --no-snapshot the source itself."""
    return run.code if run.code.is_dir() else source_root()


def lock(plan: Plan, asked: dict[str, Any]) -> dict[str, Any]:
    """What it would take to get the same run again."""
    return {
        "recipe": plan.recipe_name,
        "cluster": plan.cluster_name,
        "submitted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "asked": asked,
        "git": _git(),
        "versions": {name: version for name in _VERSIONS if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of our own checkout and whether it was edited since; None where it is no checkout."""
    if not (source_root() / ".git").exists():
        return None
    commit = _git_says("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(_git_says("status", "--porcelain"))} if commit else None


def _git_says(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(source_root()), *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
