"""Owns the name of a step's folder, `step-00000100`, in checkpoints/ and in samples/. Must not touch the disk."""

from __future__ import annotations

import re

STEP_NAME = r"step-\d{8,}"
"""A regular expression of such names; eight digits, or more where a step needs them."""


def step_name(step: int) -> str:
    """Return the folder name of a step."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """Return the step of a folder name; None for any other name."""
    return int(name.removeprefix("step-")) if re.fullmatch(STEP_NAME, name) else None
