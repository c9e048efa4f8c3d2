"""Owns a test's place away from the person who runs it: their settings, their state folder, the job they are in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def isolate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder the working directory, with state and settings below its `home`, and hide what the shell says of fvlaunch and Slurm."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "home/state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "home/config"))
    for name in [key for key in os.environ if key.startswith(("FVLAUNCH_", "SBATCH_", "SLURM_"))]:
        monkeypatch.delenv(name)
