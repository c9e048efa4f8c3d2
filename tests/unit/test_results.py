"""Promises of `export` and `sample` on the command line: what the trainers' programs are started with, and mistakes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fvlaunch.results import arguments


def call(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fvlaunch", *argv], cwd=folder, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
    )  # fmt: skip


def test_options_become_arguments_that_may_begin_with_a_dash() -> None:
    given = {"num_frames": 9, "merge": True, "step": None, "prompt": ["-a", "b c"], "wide": False, "seed": 0}
    assert arguments(given) == ["--num-frames=9", "--merge", "--prompt=-a", "--prompt=b c", "--seed=0"]


def test_a_run_that_is_not_there_is_told_without_starting_anything(tmp_path: Path) -> None:
    done = call(tmp_path, "export", "nobody", "--to", "x")
    assert done.returncode == 1 and "there are no runs yet" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_without_a_model_is_told_by_the_program(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = call(tmp_path, "sample", "empty", "--prompt", "x")
    assert done.returncode == 1 and "Traceback" not in done.stderr and "empty" in done.stderr, done.stderr
