"""Owns the smallest recipe that resolves, and what is wrong with a configuration."""

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
"""Writes a file, by name and text, into the working folder and returns its path."""


def problems(*args: Any, **named: Any) -> list[Problem]:
    """Return the problems that `compose` refuses a configuration for; fail where it takes it."""
    with pytest.raises(FvlaunchError) as caught:
        compose(*args, **named)
    return list(caught.value.problems)
