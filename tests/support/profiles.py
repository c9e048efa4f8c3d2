"""Owns a Slurm profile in a folder of a test's own, and the command line called there as a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fvlaunch.cli import app
from tests.support.isolation import isolate

CLUSTER: dict[str, Any] = {"executor": "slurm", "paths": {"data": "data"}, "slurm": {"partition": "main", "gpus-per-node": 8, "time": 60}}
Call = Callable[..., tuple[int, str, str]]
"""Words of a command line -> (exit code, stdout, stderr)."""


def caller_beside_a_profile(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Go to the folder, write the profile `lab` there, and return the command line as a function."""
    isolate(folder, monkeypatch)
    (folder / "clusters").mkdir()
    (folder / "clusters/lab.yaml").write_text(yaml.safe_dump(CLUSTER))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = app.run(list(arguments))
        return code, *capsys.readouterr()

    return run
