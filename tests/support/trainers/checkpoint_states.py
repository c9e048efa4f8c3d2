"""Owns comparing what the checkpoints of two runs hold."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.support.trainers.trainer_ranks import read


def same_state(left: Path, right: Path, step: int, tolerance: float) -> None:
    """Fail unless both runs' checkpoints of a step hold the same keys, numbers within the tolerance and all else the same."""
    a, b = read(left, step), read(right, step)
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(b[key], value, rtol=0, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}")
        else:
            assert b[key] == value
