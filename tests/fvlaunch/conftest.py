"""Owns the smallest recipe that resolves, and a folder to write variants of it in, for the tests of configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.config.compose import compose
from fvlaunch.errors import FvlaunchError, Problem

RECIPE = """\
resources: {ranks: 2}
train:
  max_steps: 10
  method: {kind: finetune}
  models: {student: {architecture: {num_layers: 1}}}
  data: {path: "${paths.data}/x", global_batch_size: 8}
  optimizers:
    student: {kind: adamw, lr: 1e-5}
"""
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "work").mkdir()

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    write_file("r.yaml", RECIPE)
    return write_file


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "work"


def problems(*args: Any, **named: Any) -> list[Problem]:
    with pytest.raises(FvlaunchError) as caught:
        compose(*args, **named)
    return list(caught.value.problems)
