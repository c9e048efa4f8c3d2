"""Owns a checkout of our own code in a folder of its own, for the tests that edit it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support.paths import ROOT

FOLDERS = ("fvlaunch", "trainers", "templates", "clusters")


def checkout(folder: Path, *, git: bool = True) -> Path:
    """A copy of the working tree's code, committed."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    if git:
        (folder / ".gitignore").write_text("__pycache__/\n")
        run_git(folder, "init", "-q")
        run_git(folder, "add", "-A")
        run_git(folder, "commit", "-q", "-m", "one")
    return folder


def run_git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], env=env, capture_output=True, text=True, timeout=240, check=True)
    return done.stdout


def environment(source: Path, base: dict[str, str]) -> dict[str, str]:
    """`base`, with our packages taken from the copy."""
    return {**base, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
